"""What holds of every policy: the better is never ranked lower, nobody is starved, sessions do not flap."""

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.choose import choose
from routing.eligibility import exclusion_reason
from routing.forecast import Forecast, first_token_s
from routing.learning import (
    NOTHING_LEARNT,
    DeploymentState,
    Dispatched,
    Failed,
    Finished,
    FirstToken,
    observe,
)
from routing.policies import POLICIES
from routing.stickiness import Sessions
from routing.types import Affinity, Placement
from tests.changes import replace
from tests.routing.values import LIGHT, deployment, flat, fleet, profile, provider, seen_after

NOW_S = 100.0
HOUR_S = 3600
policies = st.sampled_from(sorted(POLICIES))
draws = st.floats(0, 0.999)
# Of `weighted` the order is the draw's: what holds of it is below.
ordering_policies = st.sampled_from(sorted(set(POLICIES) - {"weighted"}))


def ids(decision):
    return [candidate.deployment.id for candidate in decision.ranked]


def pair(*, kind, billing, worse):
    """Two alike but that the second is dearer, slower and busier, each by its part."""
    price, wait_s, load = worse
    make = provider if kind == "provider" else deployment
    billing = "metered" if kind == "provider" else billing
    better = make("z", billing=billing, cost_per_hour_nanousd=10**8, rate=flat(10**6, 10**6))
    other = make(
        "a",
        billing=billing,
        cost_per_hour_nanousd=10**8 * (1 + price),
        rate=flat(10**6 * (1 + price), 10**6 * (1 + price)),
    )
    learnt = {
        "z": DeploymentState(vitals=seen_after(0.1), forecast=Forecast(at_s=NOW_S)),
        "a": DeploymentState(
            vitals=seen_after(0.1 + wait_s),
            in_flight=load,
            forecast=Forecast(at_s=NOW_S, backlog_tokens=2000 * load),
        ),
    }
    return [better, other], learnt


@LIGHT
@given(
    ordering_policies,
    st.sampled_from(["own", "provider"]),
    st.sampled_from(["committed", "autoscaled"]),
    st.tuples(st.integers(1, 50), st.floats(0.001, 5.0), st.integers(1, 9)),
    draws,
)
def test_cluster_that_is_better_in_everything_is_never_ranked_lower(policy, kind, billing, worse, draw):
    places, learnt = pair(kind=kind, billing=billing, worse=worse)

    decision = choose(profile(), fleet(*places, policy=policy), learnt, NOW_S, draw)

    scores = {candidate.deployment.id: candidate.score for candidate in decision.ranked}
    assert "z" in scores
    assert ids(decision)[0] == "z" or scores["z"] == scores["a"]


@LIGHT
@given(st.integers(1, 50), st.integers(1, 50), draws)
def test_greater_weight_never_lowers_a_cluster(weight, more, draw):
    places = [deployment(name) for name in "abcd"]

    def place_of_b(given_weight):
        route = {"weights": {"cluster-a": 3, "cluster-b": given_weight}}
        decision = choose(profile(), fleet(*places, policy="weighted", route=route), {}, NOW_S, draw)
        return ids(decision).index("b")

    assert place_of_b(weight + more) <= place_of_b(weight)


@pytest.mark.parametrize(
    "weights",
    [
        {"cluster-a": 3, "cluster-b": 1},
        {"cluster-a": 1000, "cluster-b": 1, "cluster-c": 0},
        {"cluster-a": 5, "cluster-b": 2, "cluster-c": 2},
        {},
    ],
    ids=str,
)
def test_weighted_shares_converge_to_the_weights_of_those_eligible(weights):
    """Who is not named weighs 1; who is out takes no share with it."""
    places = fleet(
        *(deployment(name) for name in "abc"),
        deployment("out", health="unhealthy"),
        policy="weighted",
        route={"weights": {**weights, "cluster-out": 500}},
    )
    count = 20_000
    firsts = Counter(ids(choose(profile(), places, {}, NOW_S, n / count))[0] for n in range(count))

    given_weights = {name: weights.get(f"cluster-{name}", 1) for name in "abc"}
    total = sum(given_weights.values())
    for name, weight in given_weights.items():
        share = weight / total
        deviation = (share * (1 - share) / count) ** 0.5
        assert abs(firsts[name] / count - share) <= 5 * deviation
    assert firsts["out"] == 0


def test_weight_of_zero_is_a_last_resort():
    route = {"weights": {"cluster-a": 0, "cluster-b": 1}}
    usable = fleet(deployment("a"), deployment("b"), policy="weighted", route=route)
    alone = fleet(deployment("a"), deployment("b", state="draining"), policy="weighted", route=route)

    assert {tuple(ids(choose(profile(), usable, {}, NOW_S, n / 50))) for n in range(50)} == {("b", "a")}
    assert ids(choose(profile(), alone, {}, NOW_S, 0.5)) == ["a"]


# Every reason and every chain.
places_of_chains = st.lists(
    st.builds(
        lambda model, window, region, tags, health: deployment(
            "x", model=model, context_window=window, region=region, tags=tags, health=health
        ),
        model=st.sampled_from(["m", "n"]),
        window=st.sampled_from([50, 200, 100_000]),
        region=st.sampled_from(["", "eu", "us"]),
        tags=st.sampled_from([frozenset(), frozenset({"gdpr"}), frozenset({"gdpr", "spot"})]),
        health=st.sampled_from(["healthy", "unhealthy"]),
    ),
    max_size=3,
)
askings = st.builds(
    profile,
    output_tokens_max=st.sampled_from([None, 50, 1000]),
    placement=st.sampled_from(
        [
            None,
            Placement(regions=frozenset({"eu"})),
            Placement(required_tags=frozenset({"gdpr"}), forbidden_tags=frozenset({"spot"})),
        ]
    ),
    context_tokens_min=st.sampled_from([0, 201]),
    is_content_filtered=st.booleans(),
    tried=st.sampled_from([frozenset(), frozenset({"cluster-candidates0"}), frozenset({"fallbacks0"})]),
)
CHAINS = ("candidates", "fallbacks", "context_fallbacks", "content_filter_fallbacks")


def named(drawn):
    return {
        chain: tuple(
            replace(one, id=f"{chain}{n}", cluster=f"cluster-{chain}{n}")
            for n, one in enumerate(drawn[chain])
        )
        for chain in CHAINS
    }


@LIGHT
@given(st.fixed_dictionaries(dict.fromkeys(CHAINS, places_of_chains)), askings, policies, draws)
def test_each_place_that_is_open_is_ranked_or_excluded_with_a_reason_and_none_against_a_rule(
    drawn, asked, policy, draw
):
    chains = named(drawn)
    route = {name: chains[name] for name in CHAINS[2:]}
    places = fleet(*chains["candidates"], fallbacks=chains["fallbacks"], policy=policy, route=route)

    decision = choose(asked, places, {}, NOW_S, draw)

    excluded = [exclusion.deployment.id for exclusion in decision.exclusions]
    everyone = {one.id for one in (one for chain in chains.values() for one in chain)}
    assert len(ids(decision) + excluded) == len(set(ids(decision) + excluded))
    assert set(ids(decision) + excluded) <= everyone
    assert all(exclusion.reason for exclusion in decision.exclusions)
    looked_at = {"content_filter_fallbacks"} if asked.is_content_filtered else {"candidates", "fallbacks"}
    if decision.is_complete:
        assert {one.id for name in looked_at for one in chains[name]} <= set(ids(decision) + excluded)
    for candidate in decision.ranked:
        assert not exclusion_reason(
            candidate.deployment,
            profile=asked,
            state=NOTHING_LEARNT,
            settings=places.settings,
            now_s=NOW_S,
            trusts_polls=policy != "marginal",
        )
    if any(one.startswith("context_fallbacks") for one in ids(decision)):
        assert not any(one.startswith("candidates") for one in ids(decision))


def test_chains_are_taken_in_the_order_of_their_models_whatever_they_cost():
    dear, cheap = provider("d", model="x", rate=flat(10**9, 10**9)), provider("c", model="y")
    places = fleet(
        deployment("a", context_window=10),
        fallbacks=[provider("f", model="z")],
        route={"context_fallbacks": (dear, cheap)},
    )

    decision = choose(profile(), places, {}, NOW_S, 0.0)

    assert (decision.reason, ids(decision)) == ("context_fallback", ["d", "c", "f"])
    assert all(candidate.is_fallback for candidate in decision.ranked)


def test_place_of_two_chains_is_ranked_once_in_the_first():
    large = provider("l", model="x")
    places = fleet(
        deployment("a", context_window=10),
        fallbacks=[large, provider("f", model="z")],
        route={"context_fallbacks": (large,)},
    )

    decision = choose(profile(), places, {}, NOW_S, 0.0)

    assert (decision.reason, ids(decision)) == ("context_fallback", ["l", "f"])


def test_content_filter_opens_its_own_chain_alone_and_may_name_a_candidate_again():
    first, second = deployment("a"), deployment("b")
    places = fleet(
        first,
        second,
        fallbacks=[provider("f", model="z")],
        policy="marginal",
        route={"content_filter_fallbacks": (first, second)},
    )
    asked = profile(is_content_filtered=True, tried=frozenset({"a"}))

    decision = choose(asked, places, {}, NOW_S, 0.0)

    assert (decision.reason, ids(decision)) == ("content_filter_fallback", ["b"])
    assert [(e.deployment.id, e.reason) for e in decision.exclusions] == [("a", "tried")]


@LIGHT
@given(policies, st.integers(1, 900), st.sampled_from([0.2, 1.0, 7.0]), draws)
def test_cluster_that_failed_is_eligible_again_within_a_minute_of_its_recovery(policy, down_s, every_s, draw):
    """However long it failed; it may be asked then, and one answer puts it back."""
    place = deployment()
    only = fleet(place, policy=policy)
    state, now_s = NOTHING_LEARNT, 1.0
    while now_s < down_s:
        state = observe(state, Dispatched(sent_s=now_s, prompt_tokens=500), now_s)
        failed = Failed(sent_s=now_s, draw=draw, unseen_tokens=500)
        state = observe(state, failed, now_s + every_s / 2)
        now_s += every_s

    decision = choose(profile(), only, {place.id: state}, now_s + 60.0, 0.5)

    assert (decision.reason, decision.exclusions, ids(decision)) == (policy, (), ["a"])
    if policy == "marginal":
        assert decision.ranked[0].score <= 1.0


@LIGHT
@given(st.integers(1, 600), st.floats(2.0, 30.0), st.sampled_from([0.5, 1.0, 5.0]), st.integers(50, 2000))
def test_cluster_that_was_slow_is_taken_again_within_a_minute_of_its_recovery(
    slow_s, waited_s, every_s, prompt_tokens
):
    """By `marginal`, with a provider that takes what would be late, and traffic that goes on."""
    place = deployment(in_flight_max=1000)
    places = fleet(place, provider("p"), policy="marginal")
    asked = profile(prompt_tokens_estimate=prompt_tokens)
    state, now_s, coming, taken_s = NOTHING_LEARNT, 1.0, deque(), None
    while taken_s is None and now_s < slow_s + 200.0:
        while coming and coming[0][0] <= now_s:
            at_s, sent_s, event = coming.popleft()
            state = observe(observe(state, event, at_s), Finished(sent_s=sent_s, output_tokens=1), at_s)
        decision = choose(asked, places, {place.id: state}, now_s, 0.5)
        if ids(decision)[0] == place.id:
            is_well = now_s >= slow_s
            taken_s = now_s if is_well else None
            expected_s = first_token_s(state.forecast, prompt_tokens=prompt_tokens, now_s=now_s)
            first = FirstToken(
                ttft_ms=waited_s * 1000,
                prompt_tokens=prompt_tokens,
                tokens_in_front=state.forecast.backlog_tokens + prompt_tokens,
                expected_s=expected_s,
                is_missed=True,
            )
            state = observe(state, Dispatched(sent_s=now_s, prompt_tokens=prompt_tokens), now_s)
            # All that it was slow with is through when it is well again.
            coming.append((min(now_s + waited_s, max(slow_s, now_s + 0.2)), now_s, first))
        now_s += every_s

    assert taken_s is not None
    assert taken_s <= slow_s + 60.0 + every_s


def switches(policy, noise, *, has_session):
    """How often a session that asks every five seconds changes its cluster in an hour of noisy times."""
    chance = random.Random(11)
    places = [deployment(name, in_flight_max=64) for name in "abc"]
    sessions, states, chosen_before, count = Sessions(), {one.id: NOTHING_LEARNT for one in places}, None, 0
    for step in range(HOUR_S // 5):
        now_s = NOW_S + 5.0 * step
        for one in places:
            # Other traffic, a little noisy everywhere.
            first = FirstToken(
                ttft_ms=300.0 * chance.uniform(1 - noise, 1 + noise),
                prompt_tokens=300,
                tokens_in_front=300,
                expected_s=0.3,
            )
            state = observe(states[one.id], Dispatched(sent_s=now_s, prompt_tokens=300), now_s - 1.0)
            state = observe(state, first, now_s - 0.5)
            states[one.id] = observe(state, Finished(sent_s=now_s, output_tokens=50), now_s - 0.4)
        latest = sessions.served_by(("k", "s"), now_s=now_s, window_s=60.0)
        known = Affinity(served_by=(latest,) if latest else (), session=("k", "s"))
        asked = profile(affinity=known if has_session else None, output_tokens_expected=50.0)
        decision = choose(asked, fleet(*places, policy=policy), states, now_s, chance.random())
        chosen = decision.ranked[0].deployment.id
        sessions.note(("k", "s"), deployment_id=chosen, now_s=now_s)
        count += chosen_before not in (None, chosen)
        chosen_before = chosen
    return count


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"weighted"}))
def test_session_does_not_flap_on_noisy_times(policy):
    assert switches(policy, 0.3, has_session=True) <= 6


@pytest.mark.parametrize("policy", ["latency", "marginal"])
def test_without_a_session_the_noise_decides(policy):
    assert switches(policy, 0.3, has_session=False) > 60
