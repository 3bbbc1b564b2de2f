"""The decision: complete, independent of order, and never an ineligible place."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.breaker import Breaker
from routing.choose import _ranked, choose
from routing.eligibility import exclusion_reason
from routing.forecast import Forecast
from routing.learning import NOTHING_LEARNT, DeploymentState
from routing.policies import POLICIES
from routing.scoring import LATE
from routing.shortcut import COMPARED_MAX
from routing.types import Candidate, Decision, Exclusion
from tests.routing.values import LIGHT, deployment, flat, fleet, profile, provider, seen_after

NOW_S = 100.0
OPEN = DeploymentState(breaker=Breaker(open_until_s=NOW_S + 5, opened_at_s=NOW_S))


def chosen(given_fleet, *, asked=None, state=None, draw=0.0):
    return choose(asked or profile(), given_fleet, state or {}, NOW_S, draw)


def ids(decision):
    return [candidate.deployment.id for candidate in decision.ranked]


# A few values of each, so that equal scores and every reason come up often.
deployments = st.builds(
    lambda **values: (provider if values["cluster_kind"] == "provider" else deployment)(**values),
    name=st.just("x"),
    cluster_kind=st.sampled_from(["own", "own", "provider"]),
    billing=st.sampled_from(["committed", "autoscaled"]),
    state=st.sampled_from(["active", "active", "active", "draining"]),
    health=st.sampled_from(["healthy", "unknown", "unhealthy"]),
    cost_per_hour_nanousd=st.sampled_from([0, 92_800_000, 10**10]),
    rate=st.sampled_from([flat(1, 1), flat(10**6, 10**6), None]),
    queue_depth=st.sampled_from([None, 0, 11]),
    latency_ms=st.sampled_from([None, 50, 6000]),
    in_flight_max=st.sampled_from([1, 10]),
    capabilities=st.sampled_from([frozenset(), frozenset({"chat"}), frozenset({"embeddings"})]),
)
states = st.sampled_from(
    [
        NOTHING_LEARNT,
        DeploymentState(in_flight=1),
        DeploymentState(vitals=seen_after(0.02), output_tokens=9.0),
        OPEN,
    ]
)
fleets = st.tuples(
    st.lists(st.tuples(deployments, states), max_size=5), st.lists(st.tuples(deployments, states), max_size=3)
)


def numbered(pairs, prefix):
    values = []
    for number, (one, state) in enumerate(pairs):
        slots = {name: getattr(one, name) for name in one.__slots__}
        values.append((type(one)(**{**slots, "id": f"{prefix}{number}"}), state))
    return values


def built(drawn, policy):
    candidates, fallbacks = numbered(drawn[0], "c"), numbered(drawn[1], "f")
    state = {one.id: learnt for one, learnt in (*candidates, *fallbacks)}
    places = fleet(*(one for one, _ in candidates), fallbacks=[one for one, _ in fallbacks], policy=policy)
    return places, state


NEEDS = profile(needs=frozenset({"chat"}), is_priced_only=True)
policies = st.sampled_from(sorted(POLICIES))


@LIGHT
@given(fleets, policies, st.floats(0, 0.999))
def test_choose_accounts_for_every_deployment_of_the_route(drawn, policy, draw):
    places, state = built(drawn, policy)
    plan = places.routes["m"]

    decision = choose(NEEDS, places, state, NOW_S, draw)

    everyone = sorted(one.id for one in (*plan.candidates, *plan.fallbacks))
    excluded = [exclusion.deployment.id for exclusion in decision.exclusions]
    if decision.reason == "last_resort":
        assert sorted(excluded) == everyone
        assert set(ids(decision)) <= set(excluded)
    elif not decision.is_complete:
        assert policy == "marginal"
        assert set(ids(decision) + excluded) <= set(everyone)
        assert len(ids(decision) + excluded) == len(set(ids(decision) + excluded))
    else:
        assert sorted(ids(decision) + excluded) == everyone


@LIGHT
@given(fleets, policies, st.floats(0, 0.999))
def test_choose_never_ranks_who_is_ineligible(drawn, policy, draw):
    places, state = built(drawn, policy)

    decision = choose(NEEDS, places, state, NOW_S, draw)

    reasons = {
        exclusion_reason(
            candidate.deployment,
            profile=NEEDS,
            state=state[candidate.deployment.id],
            settings=places.settings,
            now_s=NOW_S,
            trusts_polls=policy != "marginal",
        )
        for candidate in decision.ranked
    }
    assert reasons <= ({"breaker_open"} if decision.reason == "last_resort" else {""})
    assert all(exclusion.reason for exclusion in decision.exclusions)


@LIGHT
@given(fleets, policies, st.floats(0, 0.999), st.integers(0, 10**6))
def test_choose_does_not_depend_on_the_order_of_the_inventory(drawn, policy, draw, seed):
    places, state = built(drawn, policy)
    plan = places.routes["m"]
    shuffled = [random.Random(seed).sample(side, len(side)) for side in (plan.candidates, plan.fallbacks)]
    again = fleet(*shuffled[0], fallbacks=shuffled[1], policy=policy)

    first = choose(NEEDS, places, state, NOW_S, draw)
    second = choose(NEEDS, again, state, NOW_S, draw)

    assert second.ranked == first.ranked
    assert set(second.exclusions) == set(first.exclusions)
    assert (second.reason, second.policy, second.model) == (first.reason, first.policy, first.model)


# All but the one whose scores are the draw's.
tied_policies = st.sampled_from(sorted(set(POLICIES) - {"weighted"}))


@LIGHT
@given(fleets, tied_policies, st.floats(0, 0.999), st.floats(0, 0.999))
def test_choose_draws_only_among_exact_ties(drawn, policy, draw, other_draw):
    places, state = built(drawn, policy)

    first = choose(NEEDS, places, state, NOW_S, draw)
    second = choose(NEEDS, places, state, NOW_S, other_draw)

    if not first.is_complete:
        # The draw also says where the look at own clusters begins; few are compared here, so all of them are.
        assert second.ranked[0].score == first.ranked[0].score
        return
    assert [c.score for c in second.ranked] == [c.score for c in first.ranked]
    assert set(second.ranked) == set(first.ranked)
    assert second.exclusions == first.exclusions


@LIGHT
@given(fleets, policies, st.floats(0, 0.999))
def test_choose_ranks_fallbacks_after_candidates_and_each_side_by_score(drawn, policy, draw):
    places, state = built(drawn, policy)

    decision = choose(NEEDS, places, state, NOW_S, draw)

    keys = [(candidate.is_fallback, candidate.score) for candidate in decision.ranked]
    assert keys == sorted(keys)
    assert [c.is_fallback for c in decision.ranked] == [i.startswith("f") for i in ids(decision)]


@LIGHT
@given(fleets, st.floats(0, 0.999))
def test_choose_by_cost_never_ranks_the_dearer_first(drawn, draw):
    places, state = built(drawn, "cost")

    decision = choose(NEEDS, places, state, NOW_S, draw)

    costs = [candidate.cost_nanousd for candidate in decision.ranked if not candidate.is_fallback]
    assert costs == sorted(costs)


@LIGHT
@given(fleets, st.floats(0, 0.999), st.sampled_from([0, 3, 10**6]))
def test_choose_by_marginal_does_not_look_at_committed_prices(drawn, draw, factor):
    places, state = built(drawn, "marginal")
    plan = places.routes["m"]

    def scaled(one):
        slots = {name: getattr(one, name) for name in one.__slots__}
        if one.cluster_kind == "own" and one.billing == "committed":
            slots["cost_per_hour_nanousd"] *= factor
        return type(one)(**slots)

    again = fleet(*map(scaled, plan.candidates), fallbacks=[*map(scaled, plan.fallbacks)], policy="marginal")

    first = choose(NEEDS, places, state, NOW_S, draw)
    second = choose(NEEDS, again, state, NOW_S, draw)

    assert ids(second) == ids(first)
    assert [c.score for c in second.ranked] == [c.score for c in first.ranked]


@pytest.mark.parametrize("policy", ["cost", "cluster_first", "external_first", "hybrid"])
@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_choose_takes_the_cheaper_by_a_single_nano_usd(policy, draw):
    # 100 + 256 tokens: 0.356 USD and one nano-USD more.
    cheap, dear = provider("z", rate=flat(10**9, 10**9)), provider("a", rate=flat(10**9 + 10, 10**9))

    decision = chosen(fleet(dear, cheap, policy=policy), draw=draw)

    assert [(c.deployment.id, c.cost_nanousd) for c in decision.ranked] == [
        ("z", 356_000_000),
        ("a", 356_000_001),
    ]


@pytest.mark.parametrize(
    ("draw", "order"),
    [(0.0, ["a", "b", "c", "d"]), (0.34, ["b", "c", "a", "d"]), (0.99, ["c", "a", "b", "d"])],
)
def test_choose_spreads_ties_by_the_draw(draw, order):
    places = fleet(
        deployment("b"), deployment("d", cost_per_hour_nanousd=10**12), deployment("c"), deployment("a")
    )

    assert ids(chosen(places, draw=draw)) == order


def test_choose_gives_the_whole_decision():
    good, bad, spare = (
        deployment("a"),
        deployment("b", health="unhealthy"),
        provider("f", rate=flat(0, 1_000)),
    )

    decision = chosen(fleet(good, bad, fallbacks=[spare]))

    cost = decision.ranked[0].cost_nanousd
    assert decision == Decision(
        model="m",
        policy="cost",
        reason="cost",
        ranked=(
            Candidate(deployment=good, score=float(cost), cost_nanousd=cost),
            Candidate(deployment=spare, score=256.0, cost_nanousd=256, is_fallback=True),
        ),
        exclusions=(Exclusion(deployment=bad, reason="unhealthy"),),
    )


def test_choose_prefers_the_route_s_own_policy():
    own, external = deployment("o"), provider("p", rate=flat(10**9, 10**9))

    decision = chosen(fleet(own, external, policy="external_first"))

    assert (decision.policy, decision.reason, ids(decision)) == (
        "external_first",
        "external_first",
        ["p", "o"],
    )


def test_choose_says_fallback_where_no_candidate_is_left():
    decision = chosen(fleet(deployment("a", state="disabled"), fallbacks=[deployment("f")]))

    assert (decision.reason, ids(decision)) == ("fallback", ["f"])


def test_choose_prefers_a_fallback_to_an_open_breaker():
    decision = chosen(fleet(deployment("a"), fallbacks=[deployment("f")]), state={"a": OPEN})

    assert (decision.reason, ids(decision)) == ("fallback", ["f"])


@pytest.mark.parametrize(
    ("until", "best", "is_fallback"),
    [({"a": 9, "b": 3, "f": 7}, "b", False), ({"a": 9, "b": 8, "f": 7}, "f", True)],
)
def test_choose_takes_the_least_bad_where_every_breaker_is_open(until, best, is_fallback):
    state = {
        name: DeploymentState(breaker=Breaker(open_until_s=NOW_S + wait_s)) for name, wait_s in until.items()
    }

    decision = chosen(fleet(deployment("a"), deployment("b"), fallbacks=[deployment("f")]), state=state)

    assert (decision.reason, ids(decision)) == ("last_resort", [best])
    assert decision.ranked[0].is_fallback is is_fallback
    assert {e.deployment.id: e.reason for e in decision.exclusions} == dict.fromkeys("abf", "breaker_open")


def test_choose_never_resorts_to_who_is_out_for_another_reason():
    places = fleet(deployment("a", state="draining"), deployment("b", capabilities=frozenset({"embeddings"})))

    decision = chosen(places, asked=profile(needs=frozenset({"chat"})), state={"a": OPEN, "b": OPEN})

    assert (decision.reason, decision.ranked) == ("none_eligible", ())
    assert [e.reason for e in decision.exclusions] == ["draining", "lacks_chat"]


def test_choose_says_none_eligible_of_a_route_without_deployments():
    assert chosen(fleet()) == Decision(
        model="m", policy="cost", reason="none_eligible", ranked=(), exclusions=()
    )


def test_choose_refuses_an_unknown_model():
    with pytest.raises(KeyError):
        chosen(fleet(), asked=profile(model="other"))


def test_choose_never_takes_a_cluster_that_failed_the_request():
    places = fleet(deployment("a"), deployment("b"), policy="marginal")

    decision = chosen(places, asked=profile(tried=frozenset({"cluster-a"})))

    assert (ids(decision), [e.reason for e in decision.exclusions]) == (["b"], ["tried"])


@LIGHT
@given(fleets, st.floats(0, 0.999))
def test_choose_by_marginal_takes_the_same_with_and_without_the_shortcut(drawn, draw):
    places, state = built(drawn, "marginal")
    plan = places.routes["m"]
    everyone = [one for one in plan.candidates if one.cluster_kind == "own"]

    decision = choose(NEEDS, places, state, NOW_S, draw)

    ranked, _ = _ranked(plan.candidates, NEEDS, places, state, NOW_S, draw, "marginal")
    if not decision.is_complete and len(everyone) <= COMPARED_MAX:
        assert decision.ranked[0].score == ranked[0].score
        assert decision.ranked[0].deployment.billing == ranked[0].deployment.billing


def test_choose_by_marginal_compares_a_few_of_many_clusters():
    many = [deployment(f"d{number:02}") for number in range(40)]
    spare = provider("p", rate=flat(1_000, 1_000))

    decision = chosen(fleet(*many, spare, policy="marginal"), draw=0.5)

    assert ids(decision) == ["d25", "p"]
    assert (decision.is_complete, decision.exclusions) == (False, ())


def test_choose_by_marginal_goes_to_the_provider_where_own_capacity_would_be_late():
    busy = DeploymentState(forecast=Forecast(backlog_tokens=20_000, at_s=NOW_S))
    places = fleet(deployment("a"), provider("p"), provider("q", rate=flat(10, 10)), policy="marginal")

    decision = chosen(places, state={"a": busy})

    assert (ids(decision), decision.reason) == (["q", "p", "a"], "marginal")
    assert decision.ranked[2].score > LATE


def test_choose_by_marginal_takes_the_least_late_where_all_would_be():
    states = {
        name: DeploymentState(forecast=Forecast(backlog_tokens=tokens, at_s=NOW_S))
        for name, tokens in (("a", 30_000), ("b", 20_000))
    }

    assert ids(chosen(fleet(deployment("a"), deployment("b"), policy="marginal"), state=states)) == ["b", "a"]


def asleep(state="cold", **changed):
    return deployment("auto", billing="autoscaled", state=state, health="unhealthy", **changed)


WAITING_ROUTE = {"while_waking": "wait"}


@pytest.mark.parametrize("state", ["cold", "waking"])
@pytest.mark.parametrize("policy", ["marginal", "cost"])
def test_a_route_that_spills_goes_to_the_next_while_a_cluster_sleeps(state, policy):
    decision = choose(profile(), fleet(asleep(state), provider("p"), policy=policy), {}, 0.0, 0.0)

    assert [each.deployment.id for each in decision.ranked] == ["p"]
    assert reasons(decision) == {"auto": state}


@pytest.mark.parametrize("policy", ["marginal", "cost"])
def test_a_route_that_waits_ranks_nobody_elsewhere_while_its_cluster_sleeps(policy):
    waiting = fleet(
        asleep(), provider("p"), fallbacks=[deployment("f", model="n")], policy=policy, route=WAITING_ROUTE
    )
    decision = choose(profile(), waiting, {}, 0.0, 0.0)

    assert (decision.ranked, decision.reason) == ((), "none_eligible")
    assert reasons(decision) == {"auto": "cold", "p": "waits_for_waking", "f": "waits_for_waking"}


def test_a_route_that_waits_still_goes_to_its_other_own_clusters():
    waiting = fleet(asleep(), deployment("own"), provider("p"), policy="marginal", route=WAITING_ROUTE)

    assert choose(profile(), waiting, {}, 0.0, 0.0).ranked[0].deployment.id == "own"


def test_what_failed_already_does_not_wait_and_what_could_not_be_served_there_does_not_either():
    waiting = fleet(asleep(context_window=50), provider("p"), policy="marginal", route=WAITING_ROUTE)
    tried = fleet(asleep(), provider("p"), policy="marginal", route=WAITING_ROUTE)

    too_long = choose(profile(), waiting, {}, 0.0, 0.0)
    again = choose(profile(tried=frozenset({"cluster-x"})), tried, {}, 0.0, 0.0)

    assert [each.deployment.id for each in too_long.ranked] == ["p"]
    assert reasons(too_long) == {"auto": "context_window"}
    assert [each.deployment.id for each in again.ranked] == ["p"]


def reasons(decision):
    return {each.deployment.id: each.reason for each in decision.exclusions}
