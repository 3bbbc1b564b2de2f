"""Which deployments may serve a request, with a reason for each that may not."""

from routing import breaker, quota
from routing.learning import DeploymentState
from routing.types import ASLEEP, Deployment, Placement, RequestProfile, RoutingSettings

# The one reason that is dropped when nothing else is left: a breaker is a guess, and a guess
# about a failing cluster is better than a refusal.
BREAKER_OPEN = "breaker_open"
CONTEXT_WINDOW = "context_window"
# Of a route that waits for its own clusters: who could have served the request meanwhile.
WAITS_FOR_WAKING = "waits_for_waking"
# What an operator wrote into a key or its team: never dropped, whatever else is left.
RESIDENCY = "residency"
TAGS = "tags"


def exclusion_reason(
    deployment: Deployment,
    *,
    profile: RequestProfile,
    state: DeploymentState,
    settings: RoutingSettings,
    now_s: float,
    trusts_polls: bool = True,
) -> str:
    """Why the deployment may not serve the request; empty when it may. Unknown excludes nobody.

    `trusts_polls`: the seed's filters by polled queue and latency count. `marginal` predicts instead: polls
    are old when they are read, and turned out useless for admission.
    """
    if profile.tried and (deployment.cluster in profile.tried or deployment.id in profile.tried):
        return "tried"
    if profile.placement is not None and (reason := _placement_reason(deployment, profile.placement)):
        return reason
    if _is_plainly_free(deployment, profile, state) and not (
        trusts_polls and _polls_reason(deployment, settings)
    ):
        return ""
    return (
        _condition_reason(deployment)
        or _fitness_reason(deployment, profile=profile)
        # Only whoever could serve the request were it awake is woken and waited for.
        or (deployment.state if deployment.state in ASLEEP else "")
        or _load_reason(deployment, state=state, settings=settings, trusts_polls=trusts_polls)
        or _quota_reason(deployment, profile=profile, state=state, now_s=now_s)
        or (BREAKER_OPEN if breaker.phase(state.breaker, now_s=now_s) == "open" else "")
    )


def _is_plainly_free(deployment: Deployment, profile: RequestProfile, state: DeploymentState) -> bool:
    """The usual case of an own cluster, in one look: nothing that any reason asks for is there."""
    return (
        deployment.cluster_kind == "own"
        and deployment.state == "active"
        and deployment.health != "unhealthy"
        and deployment.rate is not None
        and state.in_flight + state.others_in_flight < deployment.in_flight_max
        and state.breaker.open_until_s == 0.0
        and profile.prompt_tokens_estimate + (profile.output_tokens_max or 0) <= deployment.context_window
        and profile.context_tokens_min <= deployment.context_window
        and (not deployment.capabilities or profile.needs <= deployment.capabilities)
        and deployment.rpm_max is None
        and deployment.tpm_max is None
    )


def _placement_reason(deployment: Deployment, placement: Placement) -> str:
    """Fails closed: where a cluster is that names no region, nobody knows."""
    if placement.regions is not None and (
        not deployment.region or deployment.region not in placement.regions
    ):
        return RESIDENCY
    is_fit = placement.required_tags <= deployment.tags and not placement.forbidden_tags & deployment.tags
    return "" if is_fit else TAGS


def _condition_reason(deployment: Deployment) -> str:
    if deployment.state in ASLEEP:
        return ""
    if deployment.state != "active":
        return deployment.state
    return "unhealthy" if deployment.health == "unhealthy" else ""


def _fitness_reason(deployment: Deployment, *, profile: RequestProfile) -> str:
    if deployment.rate is None and profile.is_priced_only:
        return "unpriced"
    missing = profile.needs - deployment.capabilities if deployment.capabilities else frozenset()
    if missing:
        return f"lacks_{min(missing)}"
    return "" if _is_within_window(deployment, profile=profile) else CONTEXT_WINDOW


def _is_within_window(deployment: Deployment, *, profile: RequestProfile) -> bool:
    """Prompt and allowed answer together; the answer as far as the deployment itself would let it go."""
    output_tokens = profile.output_tokens_max or 0
    if deployment.output_tokens_max is not None:
        output_tokens = min(output_tokens, deployment.output_tokens_max)
    needed_tokens = max(profile.prompt_tokens_estimate + output_tokens, profile.context_tokens_min)
    return needed_tokens <= deployment.context_window


def _load_reason(
    deployment: Deployment, *, state: DeploymentState, settings: RoutingSettings, trusts_polls: bool
) -> str:
    if state.all_in_flight >= deployment.in_flight_max:
        return "in_flight_max"
    if deployment.cluster_kind != "own":
        return "" if settings.is_external_fallback_enabled else "external_fallback_disabled"
    return _polls_reason(deployment, settings) if trusts_polls else ""


def _polls_reason(deployment: Deployment, settings: RoutingSettings) -> str:
    """The seed's filters; unknown excludes nobody."""
    if (deployment.queue_depth or 0) > settings.queue_depth_max:
        return "queue_depth"
    return "latency" if (deployment.latency_ms or 0) > settings.latency_ms_max else ""


def _quota_reason(
    deployment: Deployment, *, profile: RequestProfile, state: DeploymentState, now_s: float
) -> str:
    """A provider's own limits, as far as we used them up ourselves."""
    if deployment.rpm_max is None and deployment.tpm_max is None:
        return ""
    tokens = profile.prompt_tokens_estimate + (profile.output_tokens_expected or state.output_tokens or 0.0)
    has_room = quota.has_room(
        state.quota,
        requests_per_min=quota.limit_of(deployment.rpm_max),
        tokens_per_min=quota.limit_of(deployment.tpm_max),
        tokens=tokens,
        now_s=now_s,
    )
    return "" if has_room else "rate_limit"
