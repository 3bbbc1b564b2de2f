"""Coloured words for the state and the health of clusters."""

from django.utils.html import format_html
from django.utils.safestring import SafeString

from clusters.models import Cluster, HealthCheck

STATE_BADGES = {
    Cluster.State.ACTIVE.value: "badge-ok",
    Cluster.State.DRAINING.value: "badge-warn",
    Cluster.State.DISABLED.value: "badge-muted",
}
TEMPERATURE_BADGES = {
    Cluster.Temperature.COLD.value: "badge-muted",
    Cluster.Temperature.WAKING.value: "badge-warn",
    Cluster.Temperature.WARM.value: "badge-ok",
}
HEALTH_BADGES = {
    Cluster.Health.HEALTHY.value: "badge-ok",
    Cluster.Health.UNHEALTHY.value: "badge-bad",
    Cluster.Health.UNKNOWN.value: "badge-muted",
}


def badge(*, css_class: str, text: str) -> SafeString:
    """A coloured word; the colours are in the stylesheet."""
    return format_html('<span class="badge {}">{}</span>', css_class, text)


def check_badge(check: HealthCheck) -> SafeString:
    if check.is_healthy:
        return badge(css_class="badge-ok", text="Healthy")
    return badge(css_class="badge-bad", text="Unhealthy")
