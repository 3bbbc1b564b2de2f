"""The committed bounds hold: one is solved anew, and no router's bill lies below its slice's bound."""

import json
import random

import pytest

from routing.baselines import BASELINES
from routing.clairvoyant import PERFECT_INFORMATION, PerfectRouter
from routing.simulate import PolicyRouter, play
from tests.routing.lp_bound import TRACES, read_rows, solved_usd

SUITE = json.loads((TRACES / "fleets.json").read_text())
SCENARIOS = {scenario["name"]: scenario for scenario in SUITE["scenarios"]}
SLICE_S = 300
OURS = {"marginal": PolicyRouter, PERFECT_INFORMATION: PerfectRouter}


def controllable_usd(policy, scenario):
    def make(sites):
        if policy in BASELINES:
            return BASELINES[policy](sites, random.Random(7))
        return OURS[policy](
            "marginal",
            sites=sites,
            slo=SUITE["slo"],
            penalty=SUITE["miss_penalty_usd_per_mtok"],
            chance=random.Random(7),
        )

    result = play(
        scenario=scenario,
        suite=SUITE,
        rows=[row for row in read_rows(scenario["trace"]) if row[0] < SLICE_S * 1000],
        policy=policy,
        router_of=make,
        chance_of=random.Random,
    )
    return result.metered_usd + result.autoscaled_usd + result.penalty_usd


def test_a_whole_scenario_solved_anew_gives_the_committed_bound():
    name = "F1_azure_code_2023_1.0"
    committed = json.loads((TRACES / "bounds.json").read_text())["bounds"][name]

    solved = solved_usd(SCENARIOS[name], suite=SUITE)

    assert solved == pytest.approx(committed, abs=5e-5)
    assert SCENARIOS[name]["lp_controllable_usd"] == committed


@pytest.mark.parametrize("name", ["F1_azure_conv_2023_1.5", "F2_azure_conv_2023_1.5"])
def test_nobody_pays_less_than_the_bound_of_the_first_minutes(name):
    bound_usd = solved_usd(SCENARIOS[name], suite=SUITE, until_s=SLICE_S)

    paid = {policy: controllable_usd(policy, SCENARIOS[name]) for policy in [*OURS, *BASELINES]}

    assert bound_usd > 0
    assert {policy: usd for policy, usd in paid.items() if usd < bound_usd} == {}
