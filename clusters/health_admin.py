"""What the admin shows of health checks: the list, read-only and bounded, and a cluster's own of late."""

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from clusters.badges import check_badge
from clusters.day_charts import load_day_charts
from clusters.models import Cluster, HealthCheck

RECENT_CHECKS = 20
UNKNOWN = "-"
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


class ProbeHistory:
    """What the page of a cluster shows of its probes."""

    @admin.display(description="addresses")
    def addresses(self, obj: Cluster) -> str:
        """How many answer, where each is a server of its own."""
        if not obj.expands_addresses:
            return "taken as one"
        if obj.address_count is None:
            return UNKNOWN
        return f"{obj.healthy_address_count} of {obj.address_count} answer"

    @admin.display(description="last 24 hours")
    def last_day(self, obj: Cluster) -> str:
        """Small charts of what the probes saw."""
        now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
        charts = load_day_charts(cluster_id=obj.pk, now=now)
        return render_to_string("clusters/day_charts.html", {"charts": charts})

    @admin.display(description=f"latest {RECENT_CHECKS} checks")
    def recent_checks(self, obj: Cluster) -> str:
        """A table, not an inline: new checks arrive while the page is open, and a form would trip on them."""
        checks = HealthCheck.objects.filter(cluster_id=obj.pk).order_by("-checked_at")[:RECENT_CHECKS]
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{} ms</td><td>{}</td><td>{}</td></tr>",
            (
                (
                    f"{check.checked_at:%Y-%m-%d %H:%M:%S}",
                    check_badge(check),
                    check.reason or UNKNOWN,
                    check.duration_ms,
                    f"{known(check.queue_depth)} / {known(check.running_count)}",
                    known(check.tokens_per_s),
                )
                for check in checks
            ),
        )
        if not rows:
            return "not probed yet"
        return format_html(
            '<table class="recent-checks"><thead><tr><th>At (UTC)</th><th>Health</th><th>Reason</th>'
            "<th>Took</th><th>Waiting / running</th><th>Tokens/s</th></tr></thead><tbody>{}</tbody></table>",
            rows,
        )


def known(value: int | None) -> str:
    """As the admin shows a figure."""
    return UNKNOWN if value is None else str(value)
