"""LiteLLM's key management on a running gateway: what its clients do, in their order and at their speed."""

import asyncio

import httpx
import openai
import pytest

from tests.e2e.conftest import audited_fleet
from tests.e2e.fleet import Key
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway

pytestmark = pytest.mark.e2e

MASTER = "sk-1234"
TOKENS = 20
# Micro-USD per million tokens: one request costs a multiple of a nano-USD.
PRICE = (1_000_000, 1_000_000)


@pytest.fixture(scope="module")
def litellm_gateway(control, observer, tmp_path_factory):
    gateway = RunningGateway(
        env={
            **control.env,
            "GATEWAY_MASTER_KEY": MASTER,
            # LiteLLM's own test has this key built in.
            "GATEWAY_MASTER_KEY_CHARACTERS_MIN": str(len(MASTER)),
        },
        log_path=tmp_path_factory.mktemp("log") / "gateway.log",
        settings_module="tests.e2e.gateway_settings",
    )
    gateway.wait_until_ready()
    yield gateway
    assert gateway.close() == 0


@pytest.fixture
def fleet(control, litellm_gateway, observer):
    yield from audited_fleet(control, litellm_gateway, observer)


@pytest.fixture
def shim(fleet):
    """A fleet with one priced cluster, and the management calls on it."""
    fleet.add_cluster(kind="provider", price=PRICE)
    fleet.ready()
    return Shim(fleet)


class Shim:
    def __init__(self, fleet):
        self.fleet = fleet
        self.http = fleet.gateway.client

    def post(self, path, body):
        answer = self.http.post(path, json=body, headers={"authorization": f"Bearer {MASTER}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def generate(self, **body):
        answer = self.post("/key/generate", body)
        info = self.info(answer["key"])
        assert info["spend"] == 0
        key_id = self.fleet.control.call("key_id_of", token=answer["token"])
        key = Key(id=key_id, key=answer["key"], name="litellm")
        self.fleet.keys.append(key)
        return key

    def info(self, secret):
        answer = self.http.get("/key/info", headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        return answer.json()["info"]

    def ask(self, key):
        return self.fleet.ask(key, max_tokens=TOKENS)

    def refusal(self, key):
        with pytest.raises(openai.BadRequestError) as refusal:
            self.ask(key)
        return refusal.value


def usd(nanousd):
    return f"{nanousd // 10**9}.{nanousd % 10**9:09d}".rstrip("0").rstrip(".")


def test_new_key_works_at_once_until_its_budget_is_crossed(shim):
    key = shim.generate(max_budget=0.0000000005)

    shim.ask(key)
    error = shim.refusal(key)

    (row,) = shim.fleet.settled_rows(key, count=1)
    assert shim.info(key.key)["spend"] == row["cost_nanousd"] / 10**9 > 0
    assert error.response.headers["x-should-retry"] == "false"
    assert error.body == {
        "message": (
            f"Budget has been exceeded! Current cost: {usd(row['cost_nanousd'])}, Max budget: 0.000000001. "
            f'Raise max_budget of key "litellm" with POST /key/update or in Admin > Budgets.'
        ),
        "type": "budget_exceeded",
        "param": None,
        "code": "400",
    }


def test_budget_of_nothing_lets_nothing_through(shim):
    key = shim.generate(max_budget=0)

    assert shim.refusal(key).body["type"] == "budget_exceeded"
    assert shim.fleet.settled_rows(key, count=0) == []


def test_raised_budget_counts_at_once(shim):
    key = shim.generate(max_budget=0.0000000005)
    shim.ask(key)
    shim.refusal(key)

    shim.post("/key/update", {"key": key.key, "max_budget": 1})
    for _ in range(3):
        shim.ask(key)

    rows = shim.fleet.settled_rows(key, count=4)
    assert shim.info(key.key)["spend"] == sum(row["cost_nanousd"] for row in rows) / 10**9


def test_deleted_key_is_refused_at_once(shim):
    key = shim.generate()
    shim.ask(key)

    shim.post("/key/delete", {"keys": [key.key]})

    with pytest.raises(openai.AuthenticationError):
        shim.ask(key)


def test_team_that_spent_its_budget_is_named(shim):
    team = shim.post("/team/new", {"max_budget": 0.0000000005})["team_id"]
    key = shim.generate(team_id=team, max_budget=1)

    shim.ask(key)

    assert f"Budget has been exceeded! Team={team} Current cost: " in shim.refusal(key).body["message"]


def test_key_of_elsewhere_and_paths_without_v1(shim):
    secret = f"sk-elsewhere-{shim.fleet.token * 3}"
    key = shim.generate(key=secret)
    body = shim.fleet.chat(max_tokens=TOKENS)
    headers = {"authorization": f"Bearer {secret}"}

    chat = shim.http.post("/chat/completions", json=body, headers=headers)
    models = shim.http.get("/models", headers=headers)

    assert (chat.status_code, models.status_code) == (200, 200)
    assert shim.fleet.model in {model["id"] for model in models.json()["data"]}
    assert len(shim.fleet.settled_rows(key, count=1)) == 1


async def test_who_asks_at_once_crosses_the_limit_once(shim):
    probe = shim.generate()
    await asyncio.to_thread(shim.ask, probe)
    (row,) = shim.fleet.settled_rows(probe, count=1)
    # Each request holds more than it costs: room for one and a half of them, and the second crosses.
    limit = row["held_nanousd"] * 3 // 2
    key = await asyncio.to_thread(shim.generate, max_budget=limit / 10**9)
    body = shim.fleet.chat(max_tokens=TOKENS, standin_completion_tokens=TOKENS)

    async with httpx.AsyncClient(base_url=shim.fleet.gateway.url, timeout=CLIENT_TIMEOUT_S) as client:
        headers = {"authorization": f"Bearer {key.key}"}
        asking = (client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(20))
        answers = await asyncio.gather(*asking)

    statuses = [answer.status_code for answer in answers]
    rows = await asyncio.to_thread(shim.fleet.settled_rows, key, count=statuses.count(200))
    # 429: what runs may cost the rest, or may not; 400: it did.
    assert set(statuses) <= {200, 400, 429}
    assert sum(row["cost_nanousd"] for row in rows) < limit + row["cost_nanousd"]
    assert shim.info(key.key)["spend"] == sum(row["cost_nanousd"] for row in rows) / 10**9
