"""Who may serve a request, and the reason of each who may not."""

import pytest

from routing.breaker import Breaker
from routing.eligibility import exclusion_reason
from routing.learning import DeploymentState
from routing.types import RoutingSettings
from tests.routing.values import SETTINGS, deployment, profile, provider


def reason_of(given, *, asked=None, state=None, now_s=100.0, **changed):
    settings = {name: getattr(SETTINGS, name) for name in RoutingSettings.__slots__}
    return exclusion_reason(
        given,
        profile=asked or profile(),
        state=state or DeploymentState(),
        settings=RoutingSettings(**{**settings, **changed}),
        now_s=now_s,
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"state": "draining"}, "draining"),
        ({"state": "disabled"}, "disabled"),
        ({"state": "secret_unreadable"}, "secret_unreadable"),
        ({"state": "vanished"}, "vanished"),
        ({"health": "unhealthy"}, "unhealthy"),
        ({"health": "unknown"}, ""),
        ({"queue_depth": 10}, ""),
        ({"queue_depth": 11}, "queue_depth"),
        ({"queue_depth": None}, ""),
        ({"latency_ms": 5000}, ""),
        ({"latency_ms": 5001}, "latency"),
        ({"latency_ms": None}, ""),
        ({"context_window": 100}, ""),
        ({"context_window": 99}, "context_window"),
        ({"rate": None}, ""),
        ({"in_flight_max": 0}, "in_flight_max"),
        ({"capabilities": frozenset({"embeddings"})}, ""),
    ],
)
def test_exclusion_reason_of_a_deployment(changed, reason):
    assert reason_of(deployment(**changed)) == reason


@pytest.mark.parametrize(
    ("window", "own_max", "asked_max", "refused_window", "reason"),
    [
        (200, None, None, 0, ""),
        (200, None, 100, 0, ""),
        (199, None, 100, 0, "context_window"),
        # The deployment would cut the answer itself.
        (199, 99, 100, 0, ""),
        (199, 100, 5000, 0, "context_window"),
        (99, 1, None, 0, "context_window"),
        # An upstream refused what its window should have held: only a larger one is worth asking.
        (1000, None, None, 1000, "context_window"),
        (1001, None, None, 1000, ""),
    ],
)
def test_exclusion_reason_of_prompt_and_answer_together(window, own_max, asked_max, refused_window, reason):
    asked = profile(output_tokens_max=asked_max, context_tokens_min=refused_window and refused_window + 1)
    given = deployment(context_window=window, output_tokens_max=own_max)

    assert reason_of(given, asked=asked) == reason
    # In one look or reason by reason: the same.
    for trusts_polls in (False, True):
        assert (
            exclusion_reason(
                given,
                profile=asked,
                state=DeploymentState(),
                settings=SETTINGS,
                now_s=100.0,
                trusts_polls=trusts_polls,
            )
            == reason
        )


@pytest.mark.parametrize(
    ("capabilities", "needs", "reason"),
    [
        (frozenset(), {"chat", "vision"}, ""),
        ({"chat", "vision"}, {"chat", "vision"}, ""),
        ({"chat"}, {"chat", "vision"}, "lacks_vision"),
        ({"chat"}, {"chat", "vision", "tools"}, "lacks_tools"),
        ({"embeddings"}, {"chat"}, "lacks_chat"),
    ],
)
def test_exclusion_reason_of_what_a_request_needs(capabilities, needs, reason):
    given = deployment(capabilities=frozenset(capabilities))

    assert reason_of(given, asked=profile(needs=frozenset(needs))) == reason


def test_exclusion_reason_of_an_unpriced_deployment_under_a_hard_budget():
    assert reason_of(provider(rate=None), asked=profile(is_priced_only=True)) == "unpriced"


@pytest.mark.parametrize(("in_flight", "reason"), [(9, ""), (10, "in_flight_max"), (11, "in_flight_max")])
def test_exclusion_reason_of_a_full_deployment(in_flight, reason):
    assert reason_of(deployment(), state=DeploymentState(in_flight=in_flight)) == reason
    assert (
        reason_of(deployment(), state=DeploymentState(in_flight=3, others_in_flight=in_flight - 3)) == reason
    )


@pytest.mark.parametrize(
    ("given", "reason"), [(provider(), "external_fallback_disabled"), (deployment(), "")]
)
def test_exclusion_reason_of_providers_where_they_are_switched_off(given, reason):
    assert reason_of(given, is_external_fallback_enabled=False) == reason


def test_exclusion_reason_of_providers_is_not_their_probe():
    assert reason_of(provider(queue_depth=99, latency_ms=99_999)) == ""


@pytest.mark.parametrize(
    ("breaker", "reason"),
    [
        (Breaker(open_until_s=101.0), "breaker_open"),
        (Breaker(open_until_s=100.0), ""),
        (Breaker(open_until_s=99.0, is_probing=True), "breaker_open"),
        (Breaker(), ""),
    ],
)
def test_exclusion_reason_of_a_breaker(breaker, reason):
    assert reason_of(deployment(), state=DeploymentState(breaker=breaker)) == reason


def test_exclusion_reason_names_the_lasting_cause_before_the_breaker():
    state = DeploymentState(in_flight=99, breaker=Breaker(open_until_s=999.0))

    assert reason_of(deployment(state="draining", health="unhealthy"), state=state) == "draining"
    assert reason_of(deployment(health="unhealthy"), state=state) == "unhealthy"
    assert reason_of(deployment(), state=state) == "in_flight_max"
