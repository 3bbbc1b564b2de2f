"""The decision of `marginal` without a look at every deployment: the first price level that is in time.

Prices order the levels: own capacity that is paid already, own capacity that runs anyway, providers. Where an
own cluster meets the objective no provider need be scored, and few of the own ones have to be compared.
"""

from collections.abc import Sequence

from routing.affinity import kept
from routing.eligibility import exclusion_reason
from routing.learning import NOTHING_LEARNT, States
from routing.scoring import lateness
from routing.types import Deployment, Exclusion, RequestProfile, RoutingSettings

# So many clusters of a level that meet the objective are compared; the draw says where the look begins.
COMPARED_MAX = 6


def soonest(
    deployments: Sequence[Deployment],
    *,
    profile: RequestProfile,
    settings: RoutingSettings,
    state: States,
    now_s: float,
    draw: float,
) -> tuple[Deployment | None, float, list[Exclusion]]:
    """Of own clusters that are equally dear, one that meets the objective with room to spare, or None.

    The one that holds the request's prefix or session, if there is one; else the earliest of a few. Gives its
    share of the objective too, and what was excluded on the way.
    """
    if profile.affinity is not None and len(deployments) > 1:
        found = kept(
            deployments,
            affinity=profile.affinity,
            profile=profile,
            settings=settings,
            state=state,
            now_s=now_s,
            trusts_polls=False,
        )
        if found is not None:
            return *found, []
    best, best_share, compared = None, 1.0, 0
    excluded: list[Exclusion] = []
    start = int(draw * len(deployments))
    for index in range(start - len(deployments), start):
        deployment = deployments[index]
        learnt = state.get(deployment.id, NOTHING_LEARNT)
        reason = exclusion_reason(
            deployment, profile=profile, state=learnt, settings=settings, now_s=now_s, trusts_polls=False
        )
        if reason:
            excluded.append(Exclusion(deployment=deployment, reason=reason))
            continue
        share = lateness(deployment, profile=profile, state=learnt, settings=settings, now_s=now_s)
        if share <= best_share:
            best, best_share = deployment, share
        compared += share <= 1.0
        if compared == COMPARED_MAX:
            break
    return best, best_share, excluded
