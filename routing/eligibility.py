"""Which deployments may serve a request, with a reason for each that may not."""

from routing import breaker
from routing.learning import DeploymentState
from routing.types import Deployment, RequestProfile, RoutingSettings

# The one reason that is dropped when nothing else is left: a breaker is a guess, and a guess
# about a failing cluster is better than a refusal.
BREAKER_OPEN = "breaker_open"


def exclusion_reason(
    deployment: Deployment,
    *,
    profile: RequestProfile,
    state: DeploymentState,
    settings: RoutingSettings,
    now_s: float,
) -> str:
    """Why the deployment may not serve the request; empty when it may. Unknown excludes nobody."""
    return (
        _condition_reason(deployment)
        or _fitness_reason(deployment, profile=profile)
        or _load_reason(deployment, state=state, settings=settings)
        or (BREAKER_OPEN if breaker.phase(state.breaker, now_s=now_s) == "open" else "")
    )


def _condition_reason(deployment: Deployment) -> str:
    if deployment.state != "active":
        return deployment.state
    return "unhealthy" if deployment.health == "unhealthy" else ""


def _fitness_reason(deployment: Deployment, *, profile: RequestProfile) -> str:
    if deployment.rate is None and profile.is_priced_only:
        return "unpriced"
    missing = profile.needs - deployment.capabilities if deployment.capabilities else frozenset()
    if missing:
        return f"lacks_{min(missing)}"
    return "context_window" if profile.prompt_tokens_estimate > deployment.context_window else ""


def _load_reason(deployment: Deployment, *, state: DeploymentState, settings: RoutingSettings) -> str:
    if state.in_flight >= deployment.in_flight_max:
        return "in_flight_max"
    if deployment.cluster_kind != "own":
        return "" if settings.is_external_fallback_enabled else "external_fallback_disabled"
    if (deployment.queue_depth or 0) > settings.queue_depth_max:
        return "queue_depth"
    return "latency" if (deployment.latency_ms or 0) > settings.latency_ms_max else ""
