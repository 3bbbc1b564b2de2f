"""What the admin shows of clusters that are woken: their temperature, their warm-up, what became of calls."""

from typing import Any

from django.contrib import admin
from django.utils.html import format_html

from clusters.badges import TEMPERATURE_BADGES, badge
from clusters.forms import usd
from clusters.models import Cluster, Waking
from clusters.temperature import expected_warm_up_s
from routing.economics import waking_nanousd
from routing.types import Wakeable

UNKNOWN = "-"
WAKING_READ_ONLY = ("temperature_badge", "warm_up", "waking_cost", "wake_calls")
WAKING_FIELDSET: tuple[str, Any] = (
    "Waking (autoscaled clusters)",
    {
        "fields": (
            *("temperature_badge", "wake_url", "wake_auth", "wake_secret", "warm_up_s"),
            *("billed_s_min", "scale_down_s", "replicas_max", "warm_up", "waking_cost", "wake_calls"),
        )
    },
)


class WakingColumns:
    """Columns and read-only fields, mixed into the page of clusters."""

    @admin.display(description="temperature", ordering="temperature")
    def temperature_badge(self, obj: Cluster) -> str:
        """Cold, waking or warm; of those that are always there nothing."""
        if obj.billing != Cluster.Billing.AUTOSCALED or not obj.temperature:
            return UNKNOWN
        return badge(css_class=TEMPERATURE_BADGES[obj.temperature], text=obj.temperature.title())

    @admin.display(description="warm-up expected")
    def warm_up(self, obj: Cluster) -> str:
        """By what was entered and measured, and how often that was."""
        waking = _waking(obj)
        count = 0 if waking is None else waking.warm_up_count
        known = f"{expected_warm_up_s(obj, waking):.0f} s"
        if not count:
            return f"{known}, not measured yet"
        assert waking is not None
        return f"{known}; measured {(waking.warm_up_ms or 0) / 1000:.0f} s on average, {count} times"

    @admin.display(description="waking one costs")
    def waking_cost(self, obj: Any) -> str:
        """At least: the warm-up and what it is paid for afterwards."""
        cost = getattr(obj, "cost_in_force", obj.cost_per_hour_nanousd)
        if obj.billing != Cluster.Billing.AUTOSCALED or not cost:
            return UNKNOWN
        window_s = max(obj.billed_s_min, obj.scale_down_s)
        wakeable = Wakeable(warm_up_s=expected_warm_up_s(obj, _waking(obj)), window_s=window_s)
        return f"${usd(waking_nanousd(cost_per_hour_nanousd=cost, wakeable=wakeable)):,.4f}"

    @admin.display(description="wake hook's calls")
    def wake_calls(self, obj: Cluster) -> str:
        """How many were taken, when the latest was, and why they fail now."""
        waking = _waking(obj)
        if waking is None or waking.called_at is None:
            return "never called"
        text = f"{waking.accepted_count} taken, the latest call at {waking.called_at:%Y-%m-%d %H:%M:%S} UTC"
        if not waking.failure_count:
            return text
        failing = badge(css_class="badge-bad", text=f"{waking.failure_count} failed in a row")
        return format_html("{} {}: {}", text, failing, waking.error)


def _waking(cluster: Cluster) -> Waking | None:
    return getattr(cluster, "waking", None)
