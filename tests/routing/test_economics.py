"""The five cost figures: averages, the margin, idle waste, break-even."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.economics import (
    CostFigures,
    Served,
    break_even_tokens_per_s,
    cost_figures,
    metered_nanousd_per_1k,
)
from routing.learning import DeploymentState, Dispatched, observe
from routing.types import Wakeable
from tests.routing.values import LIGHT, SETTINGS, deployment, flat, provider

DAY = Served(
    hours=10,
    input_tokens=4_000_000,
    output_tokens=2_000_000,
    cost_nanousd=928_000_000,
    idle_nanousd=500_000_000,
    capacity_tokens=5_000_000,
)
# 2 prompt tokens for each output token: 2 x 100 + 400 pico-USD a token.
PROVIDER = provider(rate=flat(100, 400))


def figures(*deployments, served=DAY, state=None):
    found = cost_figures(
        deployments=deployments,
        served={"cluster-a": served, "cluster-p": served},
        settings=SETTINGS,
        state=state or {},
        now_s=0.0,
    )
    return found["cluster-a"] if "cluster-a" in found else found["cluster-p"]


def full(own):
    """In flight as many as may be."""
    state = DeploymentState()
    for _ in range(own.in_flight_max):
        state = observe(state, Dispatched(sent_s=0.0), 0.0)
    return {own.id: state}


def test_figures_of_a_committed_cluster_with_a_provider_beside_it():
    own = deployment(rated_tokens_per_s=900, measured_tokens_per_s=300)

    assert figures(own, PROVIDER) == CostFigures(
        cluster="cluster-a",
        average_measured_nanousd=94_519,  # 0.0928 x 1.1 / (300 x 3600) x 1000 USD
        average_nameplate_nanousd=31_507,
        marginal_nanousd=0,
        marginal_kind="paid",
        idle_nanousd_per_hour=50_000_000,
        break_even_tokens_per_s=47_260,  # 0.0928 x 1.1 x 1000 / (3600 x 600 nano-USD)
        served_tokens_per_s=2_000_000 / 36_000,
        overhead_measured_permille=2_500,
    )


def test_a_full_cluster_costs_what_the_cheapest_provider_of_its_models_asks():
    own = deployment()
    dear, other = provider("q", rate=flat(900, 900)), provider("r", model="other", rate=flat(1, 1))

    now = figures(own, dear, PROVIDER, other, state=full(own))

    assert (now.marginal_kind, now.marginal_nanousd) == ("provider_price", 600)


def test_a_cluster_that_would_be_late_counts_as_full():
    own = deployment()
    state = {own.id: observe(DeploymentState(), Dispatched(sent_s=0.0, prompt_tokens=50_000), 0.0)}

    assert figures(own, PROVIDER, state=state).marginal_kind == "provider_price"
    assert figures(own, PROVIDER).marginal_kind == "paid"


def test_what_is_not_known_is_none_and_not_zero():
    alone = figures(deployment(rated_tokens_per_s=None, cost_per_hour_nanousd=0), served=Served())

    assert alone == CostFigures(
        cluster="cluster-a",
        average_measured_nanousd=None,
        average_nameplate_nanousd=None,
        marginal_nanousd=0,
        marginal_kind="paid",
        idle_nanousd_per_hour=None,
        break_even_tokens_per_s=None,
        served_tokens_per_s=None,
        overhead_measured_permille=None,
    )


def test_a_full_cluster_without_a_provider_has_no_known_margin():
    own = deployment()

    assert figures(own, state=full(own)).marginal_nanousd is None


def test_autoscaled_capacity_runs_anyway():
    assert figures(deployment(billing="autoscaled"), PROVIDER).marginal_kind == "running"


WAKEABLE = Wakeable(warm_up_s=89.2, window_s=300)


def test_waking_costs_the_warm_up_and_the_window():
    auto = deployment(billing="autoscaled", cost_per_hour_nanousd=36_000_000_000, wakeable=WAKEABLE)

    found = figures(auto, PROVIDER)

    # 390 s of $36 an hour; the averages spread 390 s over the tokens of 300 s.
    assert found.waking_nanousd == 3_900_000_000
    plain = figures(deployment(billing="autoscaled", cost_per_hour_nanousd=46_800_000_000), PROVIDER)
    assert plain.waking_nanousd is None
    assert found.average_nameplate_nanousd == plain.average_nameplate_nanousd
    assert found.break_even_tokens_per_s == plain.break_even_tokens_per_s


@pytest.mark.parametrize("state", ["cold", "waking"])
def test_the_margin_of_a_cluster_asleep_is_the_providers_or_what_waking_costs(state):
    auto = deployment(billing="autoscaled", state=state, wakeable=WAKEABLE)

    spilling, alone = figures(auto, PROVIDER), figures(auto)

    assert (spilling.marginal_kind, spilling.marginal_nanousd) == ("provider_price", 600)
    assert (alone.marginal_kind, alone.marginal_nanousd) == ("waking", alone.average_nameplate_nanousd)


def test_a_provider_is_metered():
    assert figures(PROVIDER) == CostFigures(
        cluster="cluster-p",
        average_measured_nanousd=600,
        average_nameplate_nanousd=600,
        marginal_nanousd=600,
        marginal_kind="metered",
        idle_nanousd_per_hour=None,
        break_even_tokens_per_s=None,
        served_tokens_per_s=None,
        overhead_measured_permille=None,
    )


@pytest.mark.parametrize(
    ("served", "permille"),
    [(Served(), 5000), (Served(input_tokens=9, output_tokens=999), 5000), (DAY, 2000)],
)
def test_prompts_per_answer_are_assumed_until_traffic_tells(served, permille):
    assert served.prompt_permille == permille


@LIGHT
@given(
    cost=st.integers(0, 10**13),
    overhead=st.integers(1, 5_000),
    input_rate=st.integers(0, 10**8),
    output_rate=st.integers(1, 10**8),
    prompt_permille=st.integers(0, 100_000),
)
def test_at_the_break_even_the_hour_costs_what_the_provider_would(
    cost, overhead, input_rate, output_rate, prompt_permille
):
    per_1k = metered_nanousd_per_1k(flat(input_rate, output_rate), prompt_permille=prompt_permille)
    speed = break_even_tokens_per_s(
        cost_per_hour_nanousd=cost, overhead_permille=overhead, provider_nanousd_per_1k=per_1k
    )
    hour = Fraction(cost * overhead, 1000)

    assert Fraction(per_1k * 3600 * speed, 1000) >= hour
    assert speed == 0 or Fraction(per_1k * 3600 * (speed - 1), 1000) < hour
