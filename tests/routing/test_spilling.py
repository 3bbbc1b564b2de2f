"""Whom a request is spilt for: a cluster with room for one replica more, were it there."""

import pytest

from routing.choose import choose
from routing.learning import DeploymentState
from routing.spilling import spilt_for, stranded_for, warm_in_s
from routing.types import Wakeable
from tests.routing.values import deployment, flat, fleet, profile, provider

NOW_S = 1000.0
PRICED = provider("p", rate=flat(2_500_000, 10_000_000))


def autoscaled(name="auto", **changed):
    wakeable = Wakeable(warm_up_s=90.0, window_s=300)
    return deployment(name, **{"billing": "autoscaled", "state": "cold", "wakeable": wakeable, **changed})


def decided(*candidates, state=None, **changed):
    """A decision about these, and for whom it was spilt."""
    policy = changed.pop("policy", "marginal")
    asked = profile(**changed)
    one = fleet(*candidates, policy=policy)
    decision = choose(asked, one, state or {}, NOW_S, 0.0)
    spilt = spilt_for(decision, plan=one.routes["m"], profile=asked, settings=one.settings, now_s=NOW_S)
    return decision, spilt and spilt.id


@pytest.mark.parametrize("asleep", ["cold", "waking"])
def test_request_is_spilt_for_a_cluster_that_is_asleep(asleep):
    decision, spilt = decided(autoscaled(state=asleep), PRICED)

    assert [each.deployment.id for each in decision.ranked] == ["p"]
    assert [(each.deployment.id, each.reason) for each in decision.exclusions] == [("auto", asleep)]
    assert spilt == "auto"


def test_request_is_spilt_for_a_warm_cluster_that_is_full():
    full = {"auto": DeploymentState(in_flight=10)}

    assert decided(autoscaled(state="active"), PRICED, state=full)[1] == "auto"
    assert decided(autoscaled(state="active"), PRICED)[1] is None


@pytest.mark.parametrize(
    "unfit",
    [
        {"context_window": 50},
        {"capabilities": frozenset({"chat"})},
        {"region": "elsewhere", "state": "draining"},
        {"wakeable": Wakeable(warm_up_s=90.0, can_grow=False)},
        {"wakeable": None},
    ],
)
def test_nothing_is_spilt_for_who_could_not_serve_it_or_not_be_woken(unfit):
    assert decided(autoscaled(**unfit), PRICED, needs=frozenset({"tools"}))[1] is None


@pytest.mark.parametrize(
    ("policy", "spilt"),
    [("marginal", "auto"), ("cluster_first", "auto"), ("external_first", None)],
)
def test_nothing_is_spilt_where_the_policy_would_not_go_there(policy, spilt):
    assert decided(autoscaled(), PRICED, policy=policy)[1] == spilt


def test_what_is_spilt_counts_once_for_the_cheapest_hour_whose_hook_works():
    dear = autoscaled("dear", cost_per_hour_nanousd=2)
    cheap = autoscaled("cheap", cost_per_hour_nanousd=1)
    broken = autoscaled("broken", cost_per_hour_nanousd=0, wakeable=Wakeable(warm_up_s=90.0, failure_count=3))

    assert decided(dear, broken, cheap, PRICED)[1] == "cheap"
    assert decided(broken, PRICED)[1] == "broken"


def test_nobody_but_the_cheapest_cold_one_is_woken_for_a_request_without_a_place():
    dear, cheap = (autoscaled(name, cost_per_hour_nanousd=cost) for name, cost in (("a", 2), ("b", 1)))
    decision, _ = decided_nowhere(dear, cheap)

    assert stranded_for(decision).id == "b"
    assert stranded_for(decided_nowhere(dear, autoscaled("w", state="waking"))[0]) is None
    assert stranded_for(decided_nowhere(autoscaled(wakeable=None))[0]) is None
    assert stranded_for(decided_nowhere(deployment(state="draining"))[0]) is None


def decided_nowhere(*candidates):
    decision = choose(profile(), fleet(*candidates, policy="marginal"), {}, NOW_S, 0.0)
    assert decision.ranked == ()
    return decision, None


@pytest.mark.parametrize(
    ("wakeable", "state", "left_s"),
    [
        (Wakeable(warm_up_s=90.0), "cold", 90.0),
        (Wakeable(warm_up_s=90.0, warm_at_s=NOW_S + 20), "waking", 20.0),
        (Wakeable(warm_up_s=90.0, warm_at_s=NOW_S - 20), "waking", 1.0),
        (Wakeable(warm_up_s=90.0, can_grow=False), "cold", None),
        (Wakeable(warm_up_s=90.0, can_grow=False), "waking", 90.0),
        (None, "cold", None),
    ],
)
def test_warm_in_s_is_what_is_left_of_the_warm_up(wakeable, state, left_s):
    decision, _ = decided_nowhere(autoscaled(wakeable=wakeable, state=state))

    assert warm_in_s(decision, now_s=NOW_S) == left_s
