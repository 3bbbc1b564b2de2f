"""Affinity is a tie-break: bounded by load and by the objective, the same in every process, and it pays."""

import random
from collections import Counter, deque
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.affinity import (
    BLOCK_BYTES,
    BLOCKS_MAX,
    FREE_SHARE,
    HOLDERS_MAX,
    LOAD_MAX,
    PREFIX_KEPT_S,
    Prefixes,
    kept,
    prefix_hashes,
)
from routing.breaker import Breaker
from routing.choose import NEAR_TIES, choose
from routing.forecast import Forecast
from routing.learning import DeploymentState, Dispatched, Finished, FirstToken, observe
from routing.policies import POLICIES
from routing.types import Affinity
from tests.routing.values import LIGHT, SETTINGS, deployment, fleet, profile, provider

NOW_S = 100.0
LATE = DeploymentState(forecast=Forecast(backlog_tokens=50_000, at_s=NOW_S))
PLACES = [deployment(f"d{number}", in_flight_max=64) for number in range(5)]


def found(places, given_affinity, state=None, **asked):
    result = kept(
        places,
        affinity=given_affinity,
        profile=profile(**asked),
        settings=SETTINGS,
        state=state or {},
        now_s=NOW_S,
        trusts_polls=False,
    )
    return result and result[0].id


def unseen(number):
    return Affinity(prefix_hashes=(number,))


def test_prefix_hashes_are_of_whole_blocks_and_chained():
    prompt = random.Random(1).randbytes(BLOCK_BYTES * 3 + 5)
    same_start = prompt[: BLOCK_BYTES * 2] + bytes(BLOCK_BYTES)

    hashes, others = prefix_hashes(prompt), prefix_hashes(same_start)

    assert (len(hashes), len(set(hashes))) == (3, 3)
    assert others[:2] == hashes[:2]
    assert others[2] != hashes[2]
    # The second block alone is another prefix.
    assert prefix_hashes(prompt[BLOCK_BYTES:])[0] not in hashes
    assert prefix_hashes(prompt[: BLOCK_BYTES - 1]) == ()


def test_prefix_hashes_have_a_maximum():
    assert len(prefix_hashes(bytes(BLOCK_BYTES * BLOCKS_MAX * 3))) == BLOCKS_MAX


def test_prefixes_remember_the_longest_first_and_the_latest_holder_first():
    memory = Prefixes()
    memory.note((1, 2), deployment_id="a", now_s=0.0)
    memory.note((1, 3), deployment_id="b", now_s=1.0)

    assert memory.holders((1, 2, 9), now_s=2.0) == ("a",)
    assert memory.holders((1, 8, 9), now_s=2.0) == ("b", "a")
    assert memory.holders((7, 8), now_s=2.0) == ()
    assert memory.holders((), now_s=2.0) == ()


def test_prefixes_forget_by_time_and_by_number():
    memory = Prefixes(prefixes_max=3)
    memory.note((1, 2), deployment_id="a", now_s=0.0)
    memory.note((3,), deployment_id="a", now_s=1.0)
    memory.note((1,), deployment_id="a", now_s=2.0)
    memory.note((4,), deployment_id="a", now_s=3.0)

    assert [memory.holders((each,), now_s=3.0) for each in (1, 2, 3, 4)] == [("a",), (), ("a",), ("a",)]
    assert memory.holders((3,), now_s=1.0 + PREFIX_KEPT_S - 0.1) == ("a",)
    assert memory.holders((3,), now_s=1.0 + PREFIX_KEPT_S) == ()


def test_prefixes_keep_a_few_holders_only():
    memory = Prefixes()
    for name in "abcdefg":
        memory.note((1,), deployment_id=name, now_s=0.0)

    assert memory.holders((1,), now_s=0.0) == ("g", "f", "e", "d")
    assert HOLDERS_MAX == 4


def test_kept_takes_who_served_its_like_in_the_order_remembered():
    assert found(PLACES, Affinity(served_by=("gone", "d3", "d1"))) == "d3"
    assert found(PLACES, Affinity(served_by=("d3", "d1")), {"d3": LATE}) == "d1"
    assert found(PLACES, Affinity(served_by=("d3",)), {"d3": LATE}) is None
    assert found(PLACES, Affinity()) is None
    assert found(PLACES, Affinity(served_by=("gone",))) is None


@pytest.mark.parametrize(
    "changed",
    [{"state": "draining"}, {"health": "unhealthy"}, {"context_window": 10}, {"region": "us"}],
    ids=str,
)
def test_kept_never_takes_who_is_ineligible(changed):
    places = [deployment("d0", in_flight_max=64, **changed), *PLACES[1:]]

    assert found(places, Affinity(served_by=("d0",)), placement=None) == (
        "d0" if changed == {"region": "us"} else None
    )
    open_breaker = {"d1": DeploymentState(breaker=Breaker(open_until_s=NOW_S + 5))}
    assert found(places, Affinity(served_by=("d1",)), open_breaker) is None


@LIGHT
@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_rendezvous_does_not_depend_on_the_order(number, order):
    assert found([PLACES[n] for n in order], unseen(number)) == found(PLACES, unseen(number))


def test_rendezvous_moves_only_what_was_on_the_lost_cluster():
    before = {number: found(PLACES, unseen(number * 7919)) for number in range(1000)}
    after = {number: found(PLACES[1:], unseen(number * 7919)) for number in range(1000)}

    moved = {number for number in before if before[number] != after[number]}
    assert {before[number] for number in moved} == {"d0"}
    assert len(moved) == sum(1 for place in before.values() if place == "d0")
    # 200 each in the mean, with a deviation of 12.6: five of them either way.
    assert all(137 <= count <= 263 for count in Counter(before.values()).values())


def test_load_counts_whichever_process_sent_it():
    """What the other processes have there loads a cluster as our own requests do."""
    places = [deployment("d0"), deployment("d1")]

    def kept_with(**load):
        return found(places, Affinity(served_by=("d0",)), {"d0": DeploymentState(**load)})

    assert kept_with(others_in_flight=9) == kept_with(in_flight=9) is None
    assert kept_with(others_in_flight=1) == kept_with(in_flight=1) == "d0"


@LIGHT
@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=8),
    st.lists(st.sampled_from([4, 64, 256]), min_size=8, max_size=8),
    st.integers(0, 7),
)
def test_kept_never_lifts_a_cluster_above_its_share_of_the_load(loads, places_max, wanted):
    places = [deployment(f"d{n}", in_flight_max=places_max[n]) for n in range(len(loads))]
    state = {place.id: DeploymentState(in_flight=load) for place, load in zip(places, loads, strict=True)}
    wanted %= len(places)

    taken = found(places, Affinity(served_by=(f"d{wanted}",)), state)

    if taken is not None:
        mean = (sum(loads) + 1) * places[wanted].in_flight_max / sum(one.in_flight_max for one in places)
        free = int(FREE_SHARE * places[wanted].in_flight_max)
        assert loads[wanted] + 1 <= max(ceil(LOAD_MAX * mean), free)


def test_hot_session_does_not_overload_one_cluster():
    """A thousand requests of one session at once: its cluster holds a quarter more than the mean, no more."""
    places = fleet(*(deployment(f"d{n}", in_flight_max=1000) for n in range(4)), policy="marginal")
    states = {}
    hot = Affinity(served_by=("d2",))
    for number in range(1000):
        asked = profile(affinity=hot, prompt_tokens_estimate=3)
        chosen = choose(asked, places, states, NOW_S, (number * 0.618) % 1).ranked[0].deployment.id
        states[chosen] = observe(
            states.get(chosen, DeploymentState()), Dispatched(sent_s=NOW_S, prompt_tokens=3), NOW_S
        )

    loads = {name: state.in_flight for name, state in states.items()}
    assert sum(loads.values()) == 1000
    assert max(loads.values()) == loads["d2"] <= ceil(LOAD_MAX * 250) + 1


@LIGHT
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.999), st.sampled_from(sorted(POLICIES)))
def test_affinity_changes_neither_score_nor_who_may_serve(number, draw, policy):
    """Whatever was remembered: the first has the same score, or by `marginal` is in time at that price."""
    places = fleet(
        *PLACES[:3],
        deployment("auto", billing="autoscaled"),
        deployment("out", state="draining"),
        provider("p"),
        policy=policy,
    )
    state = {"d0": LATE}
    served = (("out", "p", "d0", "auto", "d1")[number % 5],)

    without = choose(profile(), places, state, NOW_S, draw)
    held = choose(
        profile(affinity=Affinity(served_by=served, prefix_hashes=(number,))), places, state, NOW_S, draw
    )

    first, other = without.ranked[0], held.ranked[0]
    assert other.deployment.id != "out"
    if policy == "marginal":
        assert other.deployment.billing == first.deployment.billing == "committed"
        assert other.score <= 1.0
    else:
        assert other.score <= first.score * NEAR_TIES.get(policy, 1.0)
        assert set(held.ranked) == set(without.ranked)


def test_affinity_never_chooses_a_dearer_level():
    places = fleet(
        deployment("own"), deployment("auto", billing="autoscaled"), provider("p"), policy="marginal"
    )

    for served in ("auto", "p"):
        decision = choose(profile(affinity=Affinity(served_by=(served,))), places, {}, NOW_S, 0.5)
        assert decision.ranked[0].deployment.id == "own"


def played(has_affinity, *, conversations=60, turns=10, clusters=4):
    """The share of prompt blocks that the serving cluster had seen, over conversations that overlap."""
    chance = random.Random(5)
    places = fleet(*(deployment(f"d{n}", in_flight_max=64) for n in range(clusters)), policy="marginal")
    system = chance.randbytes(BLOCK_BYTES)
    prompts = {n: system + chance.randbytes(BLOCK_BYTES) for n in range(conversations)}
    memory, states, seen = Prefixes(), {}, {f"d{n}": set() for n in range(clusters)}
    pending = deque()
    hits = blocks = 0
    now_s = NOW_S
    for _ in range(turns):
        for n in chance.sample(range(conversations), conversations):
            now_s += 0.05
            while pending and pending[0][0] <= now_s:
                _, place, event = pending.popleft()
                states[place] = observe(states[place], event, now_s)
            hashes = prefix_hashes(prompts[n])
            known = Affinity(served_by=memory.holders(hashes, now_s=now_s), prefix_hashes=hashes)
            tokens = len(prompts[n]) // 4
            asked = profile(prompt_tokens_estimate=tokens, affinity=known if has_affinity else None)
            chosen = choose(asked, places, states, now_s, chance.random()).ranked[0].deployment.id
            memory.note(hashes, deployment_id=chosen, now_s=now_s)
            hits += len(seen[chosen].intersection(hashes))
            blocks += len(hashes)
            seen[chosen].update(hashes)
            sent = Dispatched(sent_s=now_s, prompt_tokens=tokens)
            states[chosen] = observe(states.get(chosen, DeploymentState()), sent, now_s)
            first = FirstToken(ttft_ms=500.0, prompt_tokens=tokens, tokens_in_front=tokens, expected_s=0.5)
            pending.append((now_s + 0.5, chosen, first))
            pending.append((now_s + 0.5, chosen, Finished(sent_s=now_s, output_tokens=1)))
            prompts[n] += chance.randbytes(BLOCK_BYTES)
    return hits / blocks


def test_affinity_finds_most_of_what_caches_hold():
    without, held = played(False), played(True)

    # Of 65 blocks of a conversation 54 were sent before.
    assert held > 0.8
    assert without < 0.75
