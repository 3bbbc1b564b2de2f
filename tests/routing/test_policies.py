"""Each policy does what its docstring says, and the estimate is the charge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters import record_checks
from routing.cost import cost_nanousd
from routing.forecast import Forecast
from routing.learning import DeploymentState
from routing.policies import POLICIES
from routing.scoring import OUTPUT_TOKENS_EXPECTED, ScoreInput, estimated_cost_nanousd
from routing.types import Usage
from routing.vitals import SUCCESSES_ASSUMED, Mean, Vitals
from tests.routing.values import LIGHT, SETTINGS, all_rates, deployment, flat, profile, provider, seen_after


def score(policy, given, *, cost=0, **state):
    return POLICIES[policy](
        ScoreInput(
            deployment=given,
            profile=profile(),
            state=DeploymentState(**state),
            settings=SETTINGS,
            cost_nanousd=cost,
        )
    )


def estimate(given, asked, **state):
    return estimated_cost_nanousd(
        deployment=given, profile=asked, state=DeploymentState(**state), overhead_permille=1100
    )


BUSY, FULL = Forecast(backlog_tokens=500), Forecast(backlog_tokens=50_000)
OWN = deployment()
DEAR_OWN = deployment(cost_per_hour_nanousd=10**15)  # a million dollars an hour: above any threshold
AUTOSCALED = deployment(billing="autoscaled")
PROVIDER = provider()
# Half of what was expected to succeed: an answer that does costs double.
FAILING = Vitals(failure_share=Mean(1.0, SUCCESSES_ASSUMED, 0.0))


def test_policies_are_those_that_the_inventory_lets_one_choose():
    assert set(POLICIES) == set(record_checks.POLICIES)


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        # Each row: from best to worst, as (deployment, estimated cost, what was learnt).
        ("marginal", [(OWN, 10**12, {}), (AUTOSCALED, 5, {}), (PROVIDER, 0, {}), (PROVIDER, 1, {})]),
        ("marginal", [(OWN, 9, {}), (OWN, 9, {"forecast": BUSY}), (AUTOSCALED, 1, {})]),
        ("marginal", [(AUTOSCALED, 9, {"forecast": BUSY}), (PROVIDER, 0, {}), (OWN, 0, {"forecast": FULL})]),
        ("marginal", [(PROVIDER, 7, {"miss_share": 0.0}), (PROVIDER, 7, {"miss_share": 0.5})]),
        ("marginal", [(OWN, 7, {"pace_s": 0.09}), (PROVIDER, 10**6, {}), (OWN, 7, {"pace_s": 0.11})]),
        ("marginal", [(PROVIDER, 10**12, {}), (provider(rate=None), 0, {})]),
        ("marginal", [(PROVIDER, 100, {}), (PROVIDER, 80, {"vitals": FAILING}), (PROVIDER, 200, {})]),
        ("cost", [(PROVIDER, 1, {"in_flight": 9}), (OWN, 2, {}), (AUTOSCALED, 3, {})]),
        ("cost", [(PROVIDER, 10**12, {}), (provider(rate=None), 0, {})]),
        ("latency", [(OWN, 9, {"vitals": seen_after(0.1)}), (OWN, 1, {"vitals": seen_after(0.101)})]),
        ("latency", [(OWN, 9, {"vitals": seen_after(0.0)}), (deployment(latency_ms=1), 1, {})]),
        (
            "latency",
            [(OWN, 1, {"vitals": seen_after(0.1)}), (OWN, 1, {"vitals": seen_after(0.1), "in_flight": 1})],
        ),
        (
            "latency",
            [(deployment(latency_ms=999), 1, {}), (OWN, 1, {}), (deployment(latency_ms=1001), 1, {})],
        ),
        (
            "latency",
            [
                (deployment(latency_ms=5000), 1, {"vitals": seen_after(0.01, samples=200)}),
                (deployment(latency_ms=50), 1, {}),
            ],
        ),
        ("cluster_first", [(OWN, 1, {}), (OWN, 10**12, {}), (PROVIDER, 1, {}), (PROVIDER, 2, {})]),
        ("external_first", [(PROVIDER, 1, {}), (PROVIDER, 10**12, {}), (OWN, 1, {}), (OWN, 2, {})]),
        ("external_first", [(PROVIDER, 10**12, {}), (provider(rate=None), 0, {}), (OWN, 1, {})]),
        ("hybrid", [(OWN, 1, {}), (OWN, 10**12, {}), (PROVIDER, 1, {}), (DEAR_OWN, 1, {})]),
        ("hybrid", [(OWN, 1, {}), (PROVIDER, 2, {}), (provider(rate=None), 0, {}), (DEAR_OWN, 1, {})]),
        ("least_busy", [(PROVIDER, 9, {}), (OWN, 1, {"in_flight": 1}), (OWN, 1, {"in_flight": 2})]),
        ("least_busy", [(deployment(in_flight_max=100), 1, {"in_flight": 9}), (OWN, 1, {"in_flight": 1})]),
    ],
)
def test_policy_orders(policy, order):
    scores = [score(policy, given, cost=cost, **state) for given, cost, state in order]

    assert scores == sorted(set(scores))


def test_hybrid_compares_its_threshold_with_the_seed_formula_per_1k_tokens():
    # 0.0928 $/h at 900 tok/s and overhead 1.1 is 31,507 nano-USD per 1K tokens.
    def tier(threshold):
        settings = type(SETTINGS)(
            **{
                **{name: getattr(SETTINGS, name) for name in SETTINGS.__slots__},
                "cluster_cost_threshold_nanousd": threshold,
            }
        )
        given = ScoreInput(
            deployment=OWN, profile=profile(), state=DeploymentState(), settings=settings, cost_nanousd=0
        )
        return POLICIES["hybrid"](given)

    assert tier(31_507) == 0.0
    assert tier(31_506) > 0.0


@LIGHT
@given(all_rates, st.integers(0, 10**6), st.integers(1, 10**5), st.integers(1, 8))
def test_estimate_at_the_exact_usage_is_the_charge(rate, prompt_tokens, output_tokens, choice_count):
    asked = profile(
        prompt_tokens_estimate=prompt_tokens, output_tokens_max=output_tokens, choice_count=choice_count
    )

    estimated = estimate(provider(rate=rate), asked, output_tokens=float(output_tokens))

    used = Usage(input_fresh_tokens=prompt_tokens, output_text_tokens=output_tokens * choice_count)
    assert estimated == cost_nanousd(usage=used, rate=rate)


@pytest.mark.parametrize(
    ("asked", "learnt", "output_tokens"),
    [
        ({}, {}, OUTPUT_TOKENS_EXPECTED),
        ({"output_tokens_max": 16}, {}, 16),
        ({"output_tokens_max": 4000}, {}, OUTPUT_TOKENS_EXPECTED),
        ({}, {"output_tokens": 33.9}, 33),
        ({"output_tokens_max": 16}, {"output_tokens": 33.0}, 16),
        ({"choice_count": 3, "output_tokens_max": 16}, {}, 48),
        ({"surface": "embeddings", "output_tokens_max": 0}, {}, 0),
    ],
)
def test_estimate_expects_an_answer_as_long_as_is_known(asked, learnt, output_tokens):
    given = provider(rate=flat(0, 1_000))

    assert estimate(given, profile(**asked), **learnt) == output_tokens


def test_estimate_of_an_own_cluster_is_the_seed_formula_at_its_measured_speed():
    asked = profile(prompt_tokens_estimate=100, output_tokens_max=20)
    measured = deployment(rate=flat(10**9, 10**9), measured_tokens_per_s=450)

    # Twice 31,506.17 pico-USD a token, rounded up: 63,013, times 120 tokens.
    assert estimate(measured, asked) == 7_562


def test_estimate_of_an_unpriced_provider_is_nothing():
    assert estimate(provider(rate=None), profile()) == 0
