"""The decision: which deployments may serve a request, best first, and why the others may not."""

from collections.abc import Sequence

from routing.affinity import kept
from routing.eligibility import BREAKER_OPEN, CONTEXT_WINDOW, WAITS_FOR_WAKING, exclusion_reason
from routing.experiments import other_arms
from routing.learning import NOTHING_LEARNT, States
from routing.policies import POLICIES
from routing.scoring import AUTOSCALED_PLACE, ScoreInput, estimated_cost_nanousd
from routing.shortcut import soonest
from routing.types import ASLEEP, Candidate, Decision, Deployment, Exclusion, Fleet, RequestProfile, RoutePlan

# Measured times are never quite equal: so much slower a cluster keeps its sessions, or they would follow the
# noise. Prices have no such slack.
NEAR_TIES = {"latency": 1.2}


def choose(profile: RequestProfile, fleet: Fleet, state: States, now_s: float, draw: float) -> Decision:
    """Rank the deployments of the request's route.

    Args:
        profile: the request; its model must be a route of the fleet (KeyError otherwise).
        fleet: the frozen inventory with rates.
        state: what was learnt, by deployment id; an id that is absent was never used.
        now_s: monotonic seconds, the clock of the states' breakers.
        draw: a number in [0, 1): the only chance in the decision; it orders exact ties.

    `marginal` stops at the first price level that meets the latency objective (routing.shortcut); then the
    decision names what was looked at, and `is_complete` is False. Candidates come before fallbacks, and these
    in the order of their models. Where nothing but open breakers stands in the way, the one that opens
    soonest is ranked all the same and the reason says `last_resort`.

    Where the route waits for own clusters that are asleep, nobody is ranked who is not of our own; a request
    that was tried somewhere already goes on to whoever is there.

    A request that is in an experiment is decided among its arm's deployments. Where none of those is fit, or
    only behind an open breaker, it is decided as any other: nobody is refused for an experiment's sake.
    """
    plan = fleet.routes[profile.model]
    arm = fleet.arms.get((profile.model, profile.arm)) if profile.arm else None
    if arm is not None:
        decision = _decision(arm, profile, fleet, state, now_s, draw)
        if decision.ranked and decision.reason != "last_resort":
            decision = decision.also_excluding(other_arms(model=profile.arm, route=plan))
            return _waiting(decision, plan=arm, profile=profile) if arm.sleepers else decision
    decision = _decision(plan, profile, fleet, state, now_s, draw)
    return _waiting(decision, plan=plan, profile=profile) if plan.sleepers else decision


def _waiting(decision: Decision, *, plan: RoutePlan, profile: RequestProfile) -> Decision:
    """The decision of a route that waits while clusters wake: nobody, where only others are left."""
    asleep = {each.deployment.id for each in decision.exclusions if each.reason in ASLEEP}
    is_awaited = plan.while_waking == "wait" and any(d.id in asleep for d in plan.sleepers)
    if not decision.ranked or profile.tried or not is_awaited or _is_at_home(decision):
        return decision
    passed = tuple(Exclusion(deployment=each.deployment, reason=WAITS_FOR_WAKING) for each in decision.ranked)
    return decision.passing_over(passed)


def _is_at_home(decision: Decision) -> bool:
    best = decision.ranked[0]
    is_own = best.deployment.cluster_kind == "own" and not best.is_fallback
    return is_own and decision.reason != "last_resort"


def _decision(
    plan: RoutePlan, profile: RequestProfile, fleet: Fleet, state: States, now_s: float, draw: float
) -> Decision:
    policy = plan.policy or fleet.settings.policy
    if policy == "marginal" and not profile.is_content_filtered:
        decision = _cheapest_in_time(plan, profile, fleet, state, now_s, draw)
        if decision is not None:
            return decision
    ranked: list[Candidate] = []
    exclusions: list[Exclusion] = []
    seen: set[str] = set()
    reason = ""
    if not profile.is_content_filtered:
        ranked, exclusions = _ranked(plan.candidates, profile, fleet, state, now_s, draw, policy)
        seen, reason = {one.id for one in plan.candidates}, policy
    for chain_reason, chain in _chains(plan, profile, ranked, exclusions):
        for model in dict.fromkeys(one.model for one in chain):
            links = [one for one in chain if one.model == model and one.id not in seen]
            seen.update(one.id for one in links)
            more, excluded = _ranked(links, profile, fleet, state, now_s, draw, policy)
            exclusions += excluded
            reason = reason if ranked else chain_reason
            ranked += [candidate.as_fallback() for candidate in more]
    if not ranked:
        ranked, reason = _last_resort(exclusions, profile, fleet, state), "last_resort"
    return Decision(
        model=profile.model,
        policy=policy,
        reason=reason if ranked else "none_eligible",
        ranked=tuple(ranked),
        exclusions=tuple(exclusions),
    )


def _chains(
    plan: RoutePlan, profile: RequestProfile, ranked: Sequence[Candidate], exclusions: Sequence[Exclusion]
) -> list[tuple[str, tuple[Deployment, ...]]]:
    """The fallbacks that are open to the request, in order, each under the reason it is taken for."""
    if profile.is_content_filtered:
        return [("content_filter_fallback", plan.content_filter_fallbacks)]
    chains = [("fallback", plan.fallbacks)]
    is_too_long = profile.context_tokens_min > 0 or any(e.reason == CONTEXT_WINDOW for e in exclusions)
    if not ranked and is_too_long:
        chains.insert(0, ("context_fallback", plan.context_fallbacks))
    return chains


def _cheapest_in_time(
    plan: RoutePlan, profile: RequestProfile, fleet: Fleet, state: States, now_s: float, draw: float
) -> Decision | None:
    """The decision where an own cluster meets the objective; None: all have to be ranked.

    After the chosen one it names the provider with the lowest list price: what the road not taken costs.
    """
    exclusions: list[Exclusion] = []
    for place, level in enumerate(plan.own_levels):
        chosen, share, excluded = soonest(
            level, profile=profile, settings=fleet.settings, state=state, now_s=now_s, draw=draw
        )
        exclusions += excluded
        if chosen is None:
            continue
        cost = estimated_cost_nanousd(
            deployment=chosen,
            profile=profile,
            state=state.get(chosen.id, NOTHING_LEARNT),
            overhead_permille=fleet.settings.overhead_permille,
        )
        candidate = Candidate(deployment=chosen, score=share + AUTOSCALED_PLACE * place, cost_nanousd=cost)
        return Decision(
            model=profile.model,
            policy="marginal",
            reason="marginal",
            ranked=(candidate, *_road_not_taken(plan, profile, fleet, state, now_s)),
            exclusions=tuple(exclusions),
            is_complete=False,
        )
    return None


def _road_not_taken(
    plan: RoutePlan, profile: RequestProfile, fleet: Fleet, state: States, now_s: float
) -> tuple[Candidate, ...]:
    for deployment in plan.providers[:1]:
        learnt = state.get(deployment.id, NOTHING_LEARNT)
        if not exclusion_reason(
            deployment, profile=profile, state=learnt, settings=fleet.settings, now_s=now_s
        ):
            cost = estimated_cost_nanousd(
                deployment=deployment,
                profile=profile,
                state=learnt,
                overhead_permille=fleet.settings.overhead_permille,
            )
            return (Candidate(deployment=deployment, score=2 * AUTOSCALED_PLACE + cost, cost_nanousd=cost),)
    return ()


def _ranked(
    deployments: Sequence[Deployment],
    profile: RequestProfile,
    fleet: Fleet,
    state: States,
    now_s: float,
    draw: float,
    policy: str,
) -> tuple[list[Candidate], list[Exclusion]]:
    score = POLICIES[policy]
    settings = fleet.settings
    weights = fleet.routes[profile.model].weights
    ranked: list[Candidate] = []
    exclusions: list[Exclusion] = []
    for deployment in deployments:
        learnt = state.get(deployment.id, NOTHING_LEARNT)
        reason = exclusion_reason(
            deployment,
            profile=profile,
            state=learnt,
            settings=settings,
            now_s=now_s,
            trusts_polls=policy != "marginal",
        )
        if reason:
            exclusions.append(Exclusion(deployment=deployment, reason=reason))
            continue
        cost = estimated_cost_nanousd(
            deployment=deployment,
            profile=profile,
            state=learnt,
            overhead_permille=settings.overhead_permille,
        )
        given = ScoreInput(
            deployment=deployment,
            profile=profile,
            state=learnt,
            settings=settings,
            cost_nanousd=cost,
            now_s=now_s,
            weight=weights.get(deployment.cluster, 1),
            draw=draw,
        )
        ranked.append(Candidate(deployment=deployment, score=score(given), cost_nanousd=cost))
    # By score, then by id: the order in which the inventory was read never matters.
    ranked.sort(key=lambda candidate: (candidate.score, candidate.deployment.id))
    # Only exact ties: any share of a score may be more than the price of a request.
    tied = sum(1 for candidate in ranked if candidate.score == ranked[0].score)
    first = int(draw * tied)
    ranked = ranked[first:tied] + ranked[:first] + ranked[tied:]
    return _with_holder_first(ranked, tied, profile, fleet, state, now_s, policy), exclusions


def _with_holder_first(
    ranked: list[Candidate],
    tied: int,
    profile: RequestProfile,
    fleet: Fleet,
    state: States,
    now_s: float,
    policy: str,
) -> list[Candidate]:
    """The one that holds the request's session or prefix before those that are as good."""
    if profile.affinity is None or len(ranked) < 2:
        return ranked
    if policy in NEAR_TIES:
        best = ranked[0].score * NEAR_TIES[policy]
        tied = sum(1 for candidate in ranked if candidate.score <= best)
    if tied < 2:
        return ranked
    found = kept(
        [candidate.deployment for candidate in ranked[:tied]],
        affinity=profile.affinity,
        profile=profile,
        settings=fleet.settings,
        state=state,
        now_s=now_s,
        trusts_polls=policy != "marginal",
    )
    if found is None:
        return ranked
    place = next(place for place in range(tied) if ranked[place].deployment is found[0])
    return [ranked[place], *ranked[:place], *ranked[place + 1 :]]


def _last_resort(
    exclusions: Sequence[Exclusion], profile: RequestProfile, fleet: Fleet, state: States
) -> list[Candidate]:
    """The deployment whose breaker is the next to be half-open."""
    suspected = [e.deployment for e in exclusions if e.reason == BREAKER_OPEN]
    learnt = {d.id: state.get(d.id, NOTHING_LEARNT) for d in suspected}
    suspected.sort(key=lambda d: (learnt[d.id].breaker.open_until_s, d.id))
    return [
        Candidate(
            deployment=deployment,
            score=learnt[deployment.id].breaker.open_until_s,
            cost_nanousd=estimated_cost_nanousd(
                deployment=deployment,
                profile=profile,
                state=learnt[deployment.id],
                overhead_permille=fleet.settings.overhead_permille,
            ),
            is_fallback=deployment not in fleet.routes[profile.model].candidates,
        )
        for deployment in suspected[:1]
    ]
