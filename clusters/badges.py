"""Coloured words for the state and the health of clusters."""

from datetime import datetime

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString

from clusters.models import Cluster, HealthCheck
from routing.types import ASLEEP

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


def health_words(cluster: Cluster, *, now: datetime) -> SafeString:
    """Its health with the reason, where there is one, and what live traffic says meanwhile.

    That nobody answers is no fault of a cluster that sleeps.
    """
    if cluster.billing == Cluster.Billing.AUTOSCALED and cluster.temperature in ASLEEP:
        return badge(css_class="badge-muted", text="Asleep")
    words = [
        badge(css_class=HEALTH_BADGES.get(cluster.health, "badge-muted"), text=cluster.get_health_display())
    ]
    if cluster.health_reason:
        words.append(conditional_escape(cluster.health_reason))
    until = cluster.traffic_avoided_until
    if until is not None and until > now:
        words.append(badge(css_class="badge-bad", text="Failing"))
        words.append(conditional_escape(f"live traffic avoids it until {until:%H:%M:%S} UTC"))
    return format_html_join(" ", "{}", ((word,) for word in words))


def check_badge(check: HealthCheck) -> SafeString:
    if check.is_healthy:
        return badge(css_class="badge-ok", text="Healthy")
    return badge(css_class="badge-bad", text="Unhealthy")
