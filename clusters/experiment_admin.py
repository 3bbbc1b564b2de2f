"""The admin's pages of experiments: what runs on which route, and the actions that start and stop it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from clusters import experiments
from clusters.badges import badge
from clusters.experiment_forms import ExperimentForm, duration_text
from clusters.inventory import InventoryError
from clusters.models import Experiment

STATE_BADGES = {"running": "badge-ok", "stopped": "badge-bad", "draft": "badge-muted"}
STOPPED_BY_HAND = "stopped by hand"


class ExperimentPages(admin.ModelAdmin):  # type: ignore[type-arg]  # takes no argument at run time
    """Without its writes, which clusters.admin sends through the inventory."""

    form = ExperimentForm
    list_display = ("name", "state_shown", "route_shown", "arms_shown", "ramp_shown", "started_at", "report")
    list_filter = ("state",)
    list_select_related = ("route",)
    search_fields = ("name",)
    ordering = ("-created_at",)
    actions = ("start", "stop")
    fieldsets = (
        (None, {"fields": ("name", "route", "arms_lines", "ramp")}),
        (
            "Automatic stop",
            {
                "fields": ("error_increase_points", "latency_increase_percent", "samples_min"),
                "description": (
                    "Looked at every minute by a test that stays valid however often one looks: the chance "
                    "of stopping an experiment without cause is at most 5 %."
                ),
            },
        ),
        ("State", {"fields": ("state_shown", "started_at", "stopped_at", "stopped_reason")}),
    )
    readonly_fields = ("state_shown", "started_at", "stopped_at", "stopped_reason")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What was started keeps its name and its route."""
        started = () if obj is None or obj.state == Experiment.State.DRAFT else ("name", "route")
        return (*self.readonly_fields, *started)

    @admin.display(description="state", ordering="state")
    def state_shown(self, obj: Experiment) -> SafeString:
        return badge(css_class=STATE_BADGES[obj.state], text=obj.get_state_display())

    @admin.display(description="route", ordering="route__model")
    def route_shown(self, obj: Experiment) -> str:
        return obj.route.model

    @admin.display(description="arms")
    def arms_shown(self, obj: Experiment) -> str:
        """The control first."""
        return ", ".join(f"{arm['model']} {arm['weight']}" for arm in obj.arms)

    @admin.display(description="ramp")
    def ramp_shown(self, obj: Experiment) -> str:
        if obj.ramp_steps:
            return f"{len(obj.ramp_steps)} steps"
        return duration_text(obj.ramp_s) if obj.ramp_s else "at once"

    @admin.display(description="report")
    def report(self, obj: Experiment) -> SafeString:
        return format_html('<a href="/usage/experiments/?name={}">Compare</a>', obj.name)

    @admin.action(description="Start", permissions=["change"])
    def start(self, request: HttpRequest, queryset: QuerySet[Experiment]) -> None:
        """Let drafts run."""
        self._each(request, queryset, "started", experiments.start_experiment)

    @admin.action(description="Stop", permissions=["change"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Experiment]) -> None:
        """For good: a stopped one is not started again."""

        def stop(*, name: str, now: datetime) -> bool:
            return experiments.stop_experiment(name=name, reason=STOPPED_BY_HAND, now=now)

        self._each(request, queryset, "stopped", stop)

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Experiment], word: str, act: Callable[..., bool]
    ) -> None:
        now = timezone.now()  # noqa: TID251 -- an edge: a button was pressed
        for name in queryset.order_by("name").values_list("name", flat=True):
            try:
                is_changed = act(name=name, now=now)
            except InventoryError as error:
                self.message_user(request, str(error), messages.ERROR)
                continue
            text = f"Experiment {name} was {word}." if is_changed else f"Experiment {name} did not change."
            self.message_user(request, text, messages.SUCCESS if is_changed else messages.WARNING)
