"""The replay of recorded requests: what it conserves, and what a changed fleet changes."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost import cost_nanousd
from routing.physics import Job
from routing.replay import (
    Recorded,
    RecordedRequest,
    ReplayRouter,
    as_if_unseen,
    changed_count,
    recorded,
    replayed,
    speedless_clusters,
    with_deployments,
    with_policy,
    with_recorded_latency,
)
from routing.replay_sites import engine_profile, sites_of
from routing.types import Fleet, RoutePlan, Usage
from tests.changes import replace
from tests.routing.values import LIGHT, SETTINGS, deployment, flat, fleet, provider

HOUR_US = 3_600_000_000
CHAINS = ("candidates", "fallbacks", "context_fallbacks", "content_filter_fallbacks")


def request(number=0, **changed):
    values = {
        "id": f"id-{number:04}",
        "arrived_s": float(number),
        "key_id": "key",
        "model": "m",
        "surface": "chat",
        "service_tier": "",
        "usage": Usage(input_fresh_tokens=100, output_text_tokens=20),
        "cluster": "cluster-a",
        "cluster_kind": "own",
        "ttft_ms": None,
        "cost_nanousd": 7,
    }
    return RecordedRequest(**{**values, **changed})


def run(requests, played, *, replicas=None, period_us=HOUR_US):
    return replayed(
        requests,
        played,
        replicas=replicas or {},
        hourly_nanousd=1_000_000_001,
        period_us=period_us,
        chance_of=Random,
    )


OWN = deployment("a")
BOUGHT = provider("p", rate=flat(1_000_000, 2_000_000))
BOTH = fleet(OWN, BOUGHT, policy="marginal")


def test_replay_serves_on_own_capacity_and_bills_it_by_the_hour():
    outcome = run([request(n) for n in range(10)], BOTH, period_us=HOUR_US // 2)

    assert [(one.cluster, one.requests) for one in outcome.clusters] == [("cluster-a", 10), ("cluster-p", 0)]
    assert outcome.capacity_nanousd == 500_000_001  # rounded up once
    assert outcome.metered_nanousd == 0
    assert outcome.bill_nanousd == 500_000_001
    assert outcome.cost_nanousd == 10 * cost_nanousd(usage=request().usage, rate=flat())
    assert (outcome.met_count, outcome.failed_count, outcome.unserved) == (10, 0, {})


def test_replay_without_the_own_cluster_buys_all_at_exact_prices():
    requests = [request(n) for n in range(10)]
    before = run(requests, BOTH)

    after = run(requests, with_deployments(BOTH, lambda d: None if d.cluster == "cluster-a" else d))

    assert after.metered_nanousd == 10 * (100 * 1000 + 20 * 2000)
    assert after.bill_nanousd == after.metered_nanousd + 1_000_000_001
    assert changed_count(before, after) == 10
    assert changed_count(before, before) == 0


def test_changed_fleets_keep_all_that_a_route_says():
    """Weights and the fallbacks for refusals decide in a replay as they do in production."""
    spare, long, mild = (deployment(name) for name in "slf")
    plan = RoutePlan(
        model="m",
        policy="weighted",
        candidates=(OWN, BOUGHT),
        fallbacks=(spare,),
        context_fallbacks=(long,),
        content_filter_fallbacks=(mild,),
        weights={"cluster-p": 5},
        queue_places_max=3,
    )
    played = Fleet(routes={"m": plan}, settings=SETTINGS)

    renamed = with_deployments(played, lambda d: replace(d, region="moved"))
    moved = {name: tuple(replace(d, region="moved") for d in getattr(plan, name)) for name in CHAINS}
    assert renamed.routes["m"] == replace(plan, **moved)
    assert with_policy(played, "cost").routes["m"] == replace(plan, policy="cost")


def test_replay_shares_out_by_weights():
    plan = RoutePlan(
        model="m", policy="weighted", candidates=(OWN, BOUGHT), fallbacks=(), weights={"cluster-a": 0}
    )

    outcome = run([request(n) for n in range(10)], Fleet(routes={"m": plan}, settings=SETTINGS))

    assert [(one.cluster, one.requests) for one in outcome.clusters] == [("cluster-a", 0), ("cluster-p", 10)]


def test_a_prompt_too_long_for_the_candidates_is_replayed_on_its_fallback():
    short, long = deployment("a", context_window=50), deployment("b", model="long")
    plan = RoutePlan(model="m", policy="", candidates=(short,), fallbacks=(), context_fallbacks=(long,))

    outcome = run([request()], Fleet(routes={"m": plan}, settings=SETTINGS))

    assert outcome.placed == {"id-0000": "cluster-b"}


def test_replay_under_another_policy_goes_elsewhere():
    requests = [request(n) for n in range(10)]

    outcome = run(requests, with_policy(BOTH, "external_first"))

    assert outcome.policy == "external_first"
    assert {one.cluster: one.requests for one in outcome.clusters} == {"cluster-a": 0, "cluster-p": 10}


def test_replay_counts_models_that_nothing_serves():
    requests = [request(0), request(1, model="gone"), request(2, model="gone")]

    outcome = run(requests, BOTH)

    assert outcome.unserved == {"gone": 2}
    assert (outcome.served_count, outcome.request_count) == (1, 3)


@pytest.mark.parametrize("state", ["disabled", "draining", "secret_unreadable"])
def test_replay_takes_a_model_on_no_active_cluster_as_unserved(state):
    outcome = run([request()], fleet(replace(OWN, state=state)))

    assert outcome.unserved == {"m": 1}
    assert outcome.served_count == 0


def test_replay_of_nothing_is_the_capacity_alone():
    outcome = run([], BOTH)

    assert (outcome.request_count, outcome.bill_nanousd) == (0, 1_000_000_001)
    assert (outcome.ttft_p50_s, outcome.ttft_p99_s) == (None, None)


def test_replay_forgets_what_probes_saw_today_and_clusters_without_replicas():
    seen = replace(OWN, health="unhealthy", queue_depth=99)
    asleep = deployment("b")

    plan = as_if_unseen(fleet(seen, asleep), replicas={"cluster-b": 0}).routes["m"]

    assert plan.candidates == (replace(OWN, health="healthy", queue_depth=None),)


def test_replay_runs_each_replica():
    burst = [request(n, arrived_s=0.0) for n in range(200)]
    only_own = fleet(replace(OWN, in_flight_max=1000), policy="marginal")

    one, four = (run(burst, only_own, replicas={"cluster-a": count}) for count in (1, 4))

    assert four.ttft_p99_s < one.ttft_p99_s


def test_replay_keeps_a_providers_limits():
    burst = [request(n, arrived_s=0.0) for n in range(20)]
    dear = provider("q", rate=flat(9_000_000, 9_000_000), in_flight_max=100)
    limited = fleet(replace(BOUGHT, rpm_max=5), dear, policy="cost")

    outcome = run(burst, limited)

    assert {one.cluster: one.requests for one in outcome.clusters} == {"cluster-p": 5, "cluster-q": 15}


def two_models_at_one_limit(rpm_max):
    """Two models share a provider's limit, which the count of each does not see."""
    plans = {
        model: RoutePlan(
            model=model,
            policy="cost",
            candidates=(
                replace(BOUGHT, id=f"p-{model}", model=model, rpm_max=rpm_max, in_flight_max=2000),
                provider(f"q-{model}", cluster="cluster-q", model=model, rate=flat(9_000_000, 9_000_000)),
            ),
            fallbacks=(),
        )
        for model in ("m", "n")
    }
    return Fleet(routes=plans, settings=SETTINGS)


def test_replay_never_asks_again_who_refused():
    requests = [request(n, arrived_s=0.0, model="mn"[n % 2]) for n in range(602)]

    # Ten a second, so that one more would find room when the refused are sent again.
    outcome = run(requests, two_models_at_one_limit(600))

    assert {one.cluster: one.requests for one in outcome.clusters} == {"cluster-p": 600, "cluster-q": 2}


def test_replay_learns_of_a_refusal():
    played = two_models_at_one_limit(600)
    requests = [request(0), request(1)]
    sites = sites_of([*played.routes["m"].candidates], replicas={}, chance_of=Random)
    router = ReplayRouter(requests, fleet=played, sites=sites, chance=Random(0))
    jobs = [
        Job(
            number=number,
            arrived_s=0.0,
            prompt_tokens=100,
            output_tokens=20,
            ttft_objective_s=1.0,
            tpot_objective_s=1.0,
        )
        for number in range(2)
    ]

    before = router.pick(jobs[0], 0.0)
    router.on_error(jobs[0], sites[0], 0.0, "rate_limit")

    assert (before, router.pick(jobs[1], 0.0)) == (0, 1)


def test_replay_counts_what_the_fleet_has_no_room_for():
    burst = [request(n, arrived_s=0.0) for n in range(20)]

    outcome = run(burst, fleet(OWN))  # ten at a time

    assert (outcome.served_count, outcome.failed_count) == (10, 10)


def test_speedless_clusters_are_the_own_and_active_of_unknown_speed():
    unknown = {"rated_tokens_per_s": None, "measured_tokens_per_s": None}
    deployments = (
        OWN,
        deployment("b", **unknown),
        deployment("c", **{**unknown, "measured_tokens_per_s": 5}),
        deployment("d", **unknown, state="disabled"),
        provider("p", **unknown),
    )

    assert speedless_clusters(fleet(*deployments)) == ("cluster-b",)


def test_replay_goes_by_the_ledgers_first_tokens_of_a_provider():
    seen = [request(n, cluster="cluster-p", cluster_kind="provider", ttft_ms=n) for n in (900, 100, 300)]
    own = [request(0, ttft_ms=5)]

    plan = with_recorded_latency(BOTH, [*seen, *own]).routes["m"]

    assert [d.latency_ms for d in plan.candidates] == [None, 300]


def test_recorded_sums_what_the_ledger_says():
    bought = request(1, cluster="cluster-p", cluster_kind="provider", cost_nanousd=5, ttft_ms=1500)

    assert recorded([request(0), bought]) == Recorded(
        request_count=2,
        cost_nanousd=12,
        metered_nanousd=5,
        ttft_p50_s=1.5,
        ttft_p99_s=1.5,
        placed={"id-0000": "cluster-a", "id-0001": "cluster-p"},
    )


def test_engine_profile_yields_the_rated_speed_at_a_full_batch():
    profile = engine_profile(replace(OWN, in_flight_max=64), replicas=1)

    step_s = profile["c0"] + profile["c1"] * profile["max_seqs"]
    assert profile["max_seqs"] == 45  # 50 ms of 900 tokens/s
    assert profile["max_seqs"] / step_s == pytest.approx(900)


arrivals = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 0.5, 3.0]), st.integers(0, 3000), st.integers(0, 300)), max_size=30
)


@LIGHT
@given(arrivals=arrivals, order=st.randoms(use_true_random=False))
def test_replay_conserves_requests_and_money_in_any_order(arrivals, order):
    requests = [
        request(n, arrived_s=at, usage=Usage(input_fresh_tokens=given_tokens, output_text_tokens=made))
        for n, (at, given_tokens, made) in enumerate(arrivals)
    ]
    shuffled = list(requests)
    order.shuffle(shuffled)

    outcome = run(requests, BOTH)

    assert outcome == run(shuffled, BOTH)
    assert outcome.request_count == len(requests)
    rates = {"cluster-a": OWN.rate, "cluster-p": BOUGHT.rate}
    assert outcome.cost_nanousd == sum(
        cost_nanousd(usage=one.usage, rate=rates[outcome.placed[one.id]])
        for one in requests
        if one.id in outcome.placed
    )
