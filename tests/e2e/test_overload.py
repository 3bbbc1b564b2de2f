"""A gateway that has more to do than it can: completions are turned away, everything else is answered."""

import httpx
import pytest

from tests.e2e.fleet import CHAT_PATH
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway

pytestmark = pytest.mark.e2e

REFUSED = "gateway_overload_refused_total"


@pytest.fixture(scope="module")
def gateway(control, tmp_path_factory):
    gateway = RunningGateway(
        env=control.env,
        log_path=tmp_path_factory.mktemp("log") / "gateway.log",
        settings_module="tests.e2e.overloaded_settings",
    )
    yield gateway.wait_until_ready()
    assert gateway.close() == 0


def refusals(gateway):
    lines = gateway.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{REFUSED} "))


def test_completions_are_turned_away_and_the_rest_is_answered(control, gateway):
    key = control.call("issue_key", name="overloaded", team="overloaded")
    before = refusals(gateway)
    with httpx.Client(base_url=gateway.url, timeout=CLIENT_TIMEOUT_S) as client:
        answers = [
            client.post(
                path,
                json={"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
                headers={"authorization": f"Bearer {key['key']}"},
            )
            for path in (CHAT_PATH, CHAT_PATH, "/v1/messages", CHAT_PATH)
        ]
        models = client.get("/v1/models", headers={"authorization": f"Bearer {key['key']}"})
        ready = client.get("/health/ready")

    assert [answer.status_code for answer in answers] == [503, 503, 529, 503]
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert {answer.json()["error"].get("code") for answer in answers} == {"overloaded", None}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    assert (models.status_code, ready.status_code) == (200, 200)
    assert refusals(gateway) - before == 4
