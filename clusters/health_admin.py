"""The admin's list of health checks, read-only and bounded: there are many."""

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.safestring import SafeString

from clusters.badges import check_badge
from clusters.models import HealthCheck

HEALTH_CHECK_ROWS_MAX = 10_000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # takes no argument at run time
    """Counts no further than the rows that anybody would page through."""

    @cached_property
    def count(self) -> int:
        """At most `HEALTH_CHECK_ROWS_MAX`."""
        rows: Any = self.object_list
        return int(rows[:HEALTH_CHECK_ROWS_MAX].count())


class HealthCheckAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # takes no argument at run time
    """What the probes saw, read-only."""

    list_display = (
        "checked_at",
        "cluster_name",
        "health",
        "reason",
        "duration_ms",
        "queue_depth",
        "tokens_per_s",
    )
    list_filter = ("is_healthy", "cluster")
    list_select_related = ("cluster",)
    ordering = ("-checked_at",)
    show_full_result_count = False
    paginator = BoundedPaginator

    @admin.display(description="cluster")
    def cluster_name(self, obj: HealthCheck) -> str:
        """Without its id."""
        return obj.cluster.name

    @admin.display(description="health", ordering="is_healthy")
    def health(self, obj: HealthCheck) -> SafeString:
        """Of this one check."""
        return check_badge(obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only the prober writes."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only the prober writes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Pruned by age."""
        return False
