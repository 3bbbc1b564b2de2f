"""For want of which cluster a request goes to a provider, or nowhere: what waking is decided by."""

from collections.abc import Iterator

from routing.learning import NOTHING_LEARNT
from routing.policies import POLICIES
from routing.scoring import LATE, ScoreInput, estimated_cost_nanousd
from routing.types import (
    ASLEEP,
    COLD,
    WAKING,
    Decision,
    Deployment,
    RequestProfile,
    RoutePlan,
    RoutingSettings,
)

# Where one replica more would have made room.
WANTING = ASLEEP | {"in_flight_max", "queue_depth", "latency"}


def spilt_for(
    decision: Decision,
    *,
    plan: RoutePlan,
    profile: RequestProfile,
    settings: RoutingSettings,
    now_s: float,
) -> Deployment | None:
    """The deployment that a provider serves this request for, since it had no room; None: no such thing.

    Of several the first in the order of waking: what is spilt is counted once. Only where the policy would
    prefer an idle replica there to the provider; it has been asked for none that cannot be woken.
    """
    chosen = decision.ranked[0]
    if chosen.deployment.cluster_kind != "provider" or not plan.growable:
        return None
    full = {each.deployment.id for each in decision.exclusions if each.reason in WANTING}
    full.update(each.deployment.id for each in decision.ranked if each.score >= LATE)
    score = POLICIES[decision.policy]
    for deployment in plan.growable:
        if deployment.id not in full:
            continue
        cost = estimated_cost_nanousd(
            deployment=deployment,
            profile=profile,
            state=NOTHING_LEARNT,
            overhead_permille=settings.overhead_permille,
        )
        idle = ScoreInput(
            deployment=deployment,
            profile=profile,
            state=NOTHING_LEARNT,
            settings=settings,
            cost_nanousd=cost,
            now_s=now_s,
            weight=plan.weights.get(deployment.cluster, 1),
        )
        if score(idle) < chosen.score:
            return deployment
    return None


def stranded_for(decision: Decision) -> Deployment | None:
    """Of a decision that found nobody: the cheapest cold deployment to wake for it; None: there is none."""
    found = (d for d in _asleep(decision) if d.wakeable is not None and d.wakeable.can_grow)
    cold = [deployment for deployment in found if deployment.state == COLD]
    is_waking = any(deployment.state == WAKING for deployment in _asleep(decision))
    if is_waking or not cold:
        return None
    return min(
        cold, key=lambda d: (d.wakeable.failure_count if d.wakeable else 0, d.cost_per_hour_nanousd, d.id)
    )


def warm_in_s(decision: Decision, *, now_s: float) -> float | None:
    """When the first of those that are asleep should answer, in seconds; None: none of them is woken by us.

    At least a second, also where one is late already.
    """
    left = [
        deployment.wakeable.warm_up_s
        if deployment.wakeable.warm_at_s is None
        else deployment.wakeable.warm_at_s - now_s
        for deployment in _asleep(decision)
        if deployment.wakeable is not None and _wakes(deployment)
    ]
    return max(min(left), 1.0) if left else None


def is_woken(decision: Decision) -> bool:
    """Whether something that could serve the request is woken, or will be for it."""
    return any(_wakes(each) for each in _asleep(decision))


def is_warm_up_known(decision: Decision) -> bool:
    """Whether somebody said or measured how long those that are asleep take."""
    return any(d.wakeable is not None and d.wakeable.is_warm_up_known for d in _asleep(decision))


def _wakes(deployment: Deployment) -> bool:
    wakeable = deployment.wakeable
    return wakeable is not None and (deployment.state == WAKING or wakeable.can_grow)


def _asleep(decision: Decision) -> Iterator[Deployment]:
    return (each.deployment for each in decision.exclusions if each.reason in ASLEEP)
