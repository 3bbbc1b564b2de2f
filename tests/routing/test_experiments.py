"""Which arm a caller is in: sticky, in proportion to weights, and never back while a ramp goes up."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.choose import choose
from routing.experiments import Arm, Experiment, RampStep, arm_plan, assign, ramp_share, shares
from routing.types import Fleet, RoutePlan
from tests.changes import replace
from tests.routing.values import LIGHT, SETTINGS, deployment, profile, provider

CALLERS = [f"caller-{number}" for number in range(4_000)]
weights = st.lists(st.integers(0, 1_000), min_size=2, max_size=6).filter(any)
callers = st.text(max_size=40)


def experiment(*given_weights, **changed):
    arms = tuple(Arm(model=f"model-{place}", weight=weight) for place, weight in enumerate(given_weights))
    values = {"name": "trial", "salt": "trial", "arms": arms, "started_s": 1_000.0}
    return Experiment(**{**values, **changed})


def assigned(trial, *, now_s=1_000.0):
    return {caller: assign(trial, caller=caller, now_s=now_s) for caller in CALLERS}


@LIGHT
@given(weights, callers, st.floats(0, 1e9), st.floats(0, 1e9))
def test_caller_stays_in_its_arm_at_all_times(given_weights, caller, first_s, second_s):
    trial = experiment(*given_weights)

    assert assign(trial, caller=caller, now_s=first_s) == assign(trial, caller=caller, now_s=second_s)


@LIGHT
@given(weights, callers, st.randoms())
def test_order_of_the_treatments_does_not_matter(given_weights, caller, random):
    trial = experiment(*given_weights, ramp_s=100)
    treatments = list(trial.arms[1:])
    random.shuffle(treatments)
    other = replace(trial, arms=(trial.arms[0], *treatments))

    assert assign(trial, caller=caller, now_s=1_040.0) == assign(other, caller=caller, now_s=1_040.0)


@LIGHT
@given(weights, callers, st.lists(st.floats(0, 300), min_size=2, max_size=8))
def test_nobody_goes_back_while_a_ramp_goes_up(given_weights, caller, moments):
    trial = experiment(*given_weights, ramp_s=200)

    seen = [assign(trial, caller=caller, now_s=1_000.0 + moment) for moment in sorted(moments)]

    changes = [pair for pair in pairwise(seen) if pair[0] != pair[1]]
    assert len(changes) <= 1
    assert all(before == trial.control for before, _ in changes)


@LIGHT
@given(callers, st.integers(1, 500), st.integers(1, 500))
def test_more_weight_moves_callers_only_to_that_arm(caller, weight, more):
    before = experiment(100, weight, 50)
    after = experiment(100, weight + more, 50)

    arms = assign(before, caller=caller, now_s=0.0), assign(after, caller=caller, now_s=0.0)

    assert arms[0] == arms[1] or arms[1] == "model-1"


def test_shares_follow_the_weights():
    counted = Counter(assigned(experiment(70, 20, 10)).values())

    # Four standard deviations of a share of 4,000 callers are below 3 points.
    assert {arm: count / len(CALLERS) for arm, count in counted.items()} == {
        "model-0": pytest.approx(0.7, abs=0.03),
        "model-1": pytest.approx(0.2, abs=0.03),
        "model-2": pytest.approx(0.1, abs=0.03),
    }


def test_experiments_draw_their_callers_independently():
    first = assigned(experiment(50, 50))
    second = assigned(experiment(50, 50, salt="another"))

    both = sum(first[caller] == second[caller] for caller in CALLERS)
    assert both / len(CALLERS) == pytest.approx(0.5, abs=0.04)


def test_arm_without_weight_gets_nobody():
    assert set(assigned(experiment(1, 0)).values()) == {"model-0"}


@pytest.mark.parametrize(("since_s", "reached"), [(-5, 0.0), (0, 0.0), (50, 0.25), (200, 1.0), (10_000, 1.0)])
def test_ramp_rises_evenly(since_s, reached):
    assert ramp_share(experiment(1, 1, ramp_s=200), now_s=1_000.0 + since_s) == reached


@pytest.mark.parametrize(("since_s", "reached"), [(0, 0.0), (10, 0.05), (59, 0.05), (60, 0.5), (9_999, 0.5)])
def test_ramp_rises_in_steps(since_s, reached):
    steps = (RampStep(after_s=10, percent=5), RampStep(after_s=60, percent=50))

    assert ramp_share(experiment(1, 1, ramp_steps=steps), now_s=1_000.0 + since_s) == reached


def test_shares_told_add_up_while_a_ramp_runs():
    trial = experiment(60, 30, 10, ramp_s=100)

    assert shares(trial, now_s=1_050.0) == {
        "model-0": pytest.approx(0.8),
        "model-1": pytest.approx(0.15),
        "model-2": pytest.approx(0.05),
    }


# --- The arm in the decision


OURS = deployment("a", model="ours")
THEIRS = provider("p", model="theirs")


def fleet_with_arms(*, policy, ours=OURS, theirs=THEIRS):
    route = RoutePlan(model="m", policy=policy, candidates=(ours, theirs), fallbacks=())
    arms = {("m", model): arm_plan(model=model, route=route) for model in ("ours", "theirs")}
    return Fleet(routes={"m": route}, settings=SETTINGS, arms=arms)


@pytest.mark.parametrize("policy", ["cost", "marginal"])
@pytest.mark.parametrize(("arm", "served", "other"), [("ours", "a", "p"), ("theirs", "p", "a")])
def test_request_goes_to_its_arm_and_says_why_not_elsewhere(policy, arm, served, other):
    decision = choose(profile(arm=arm), fleet_with_arms(policy=policy), {}, 0.0, 0.5)

    assert [candidate.deployment.id for candidate in decision.ranked] == [served]
    assert [(e.deployment.id, e.reason) for e in decision.exclusions] == [(other, "other_arm")]


@pytest.mark.parametrize("policy", ["cost", "marginal"])
def test_request_crosses_over_where_its_arm_cannot_answer(policy):
    fleet = fleet_with_arms(policy=policy, ours=deployment("a", model="ours", state="disabled"))

    decision = choose(profile(arm="ours"), fleet, {}, 0.0, 0.5)

    assert [candidate.deployment.id for candidate in decision.ranked] == ["p"]


def test_request_crosses_over_after_its_arms_cluster_failed_it():
    asked = profile(arm="ours", tried=frozenset({OURS.cluster}))

    decision = choose(asked, fleet_with_arms(policy="cost"), {}, 0.0, 0.5)

    assert [candidate.deployment.id for candidate in decision.ranked] == ["p"]


def test_arm_that_the_fleet_does_not_know_is_routed_as_any_request():
    decision = choose(profile(arm="gone"), fleet_with_arms(policy="cost"), {}, 0.0, 0.5)

    assert {candidate.deployment.id for candidate in decision.ranked} == {"a", "p"}
