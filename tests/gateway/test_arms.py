"""Who a caller is, and which arm its request is in."""

from datetime import UTC, datetime

import pytest

from clusters.experiments import ExperimentView
from gateway.arms import SESSION_CHARACTERS_MAX, Arms, caller_of, in_its_arm, join_arms
from gateway.schemas import decode_completion
from routing.sequential import Guards
from routing.types import RoutePlan
from tests.routing.values import deployment

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VIEW = ExperimentView(
    name="trial",
    route="fast",
    arms=(("ours", 0), ("theirs", 1)),
    state="running",
    started_at=NOW,
    stopped_at=None,
    stopped_reason="",
    ramp_s=0,
    ramp_steps=(),
    guards=Guards(error_increase_permille=50, latency_increase_percent=50, samples_min=100),
)


def request(model="fast"):
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}]}' % model.encode()
    return decode_completion(surface="chat", body=body, depth_max=8, needs_priced=False)


@pytest.mark.parametrize(
    ("headers", "document", "caller"),
    [
        ([], {}, "key"),
        ([], {"user": "u"}, "key\0user\0u"),
        ([], {"user": ""}, "key"),
        ([], {"user": 7}, "key"),
        ([], {"user": "u" * (SESSION_CHARACTERS_MAX + 1)}, "key"),
        ([(b"x-gateway-session", b"s")], {"user": "u"}, "key\0session\0s"),
        ([(b"x-gateway-session", b"")], {"user": "u"}, "key\0user\0u"),
        ([(b"x-gateway-session", b"s" * 257)], {}, "key"),
    ],
)
def test_caller_is_the_session_else_the_user_else_the_key(headers, document, caller):
    assert caller_of(key_id="key", headers=headers, document=document) == caller


def test_request_of_a_route_without_experiment_stays_as_it_is():
    asked = request()

    found = in_its_arm(asked, arms=Arms(), key_id="key", headers=[], now_s=NOW.timestamp())

    assert found is asked


def test_request_gets_its_experiment_and_its_arm():
    routes = {"fast": RoutePlan(model="fast", policy="", candidates=(), fallbacks=())}
    arms = join_arms([VIEW], routes=routes, deployments=[])

    found = in_its_arm(request(), arms=arms, key_id="key", headers=[], now_s=NOW.timestamp())

    assert (found.profile.experiment, found.profile.arm) == ("trial", "theirs")


def test_arm_that_the_route_does_not_name_joins_its_candidates():
    ours, theirs = deployment("a", model="ours"), deployment("b", model="theirs")
    routes = {"fast": RoutePlan(model="fast", policy="", candidates=(ours,), fallbacks=(theirs,))}

    arms = join_arms([VIEW], routes=routes, deployments=[ours, theirs])

    assert (routes["fast"].candidates, routes["fast"].fallbacks) == ((ours, theirs), ())
    assert {key: plan.candidates for key, plan in arms.plans.items()} == {
        ("fast", "ours"): (ours,),
        ("fast", "theirs"): (theirs,),
    }


def test_experiment_of_a_route_that_is_switched_off_is_left_out():
    assert join_arms([VIEW], routes={}, deployments=[]) == Arms()
