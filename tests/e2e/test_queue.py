"""Requests that wait for a place on a running gateway."""

import asyncio

import httpx
import pytest

from tests.e2e.fleet import CHAT_PATH, Key, wait_until

pytestmark = pytest.mark.e2e

TIMEOUT_S = 30.0
REACHED_S_MAX = 3.0


def queueing(fleet, *, places=50, wait_ms=10_000, **standin):
    """A route with a queue over one cluster that serves one request at a time."""
    site = fleet.add_cluster(standin={"tokens_per_s": 400, **standin}, in_flight_max=1)
    key = fleet.issue_key()
    fleet.ready()
    model = f"queue-{fleet.token}"
    fleet.add_route(model=model, candidates=[fleet.model], queue_places_max=places, queue_wait_ms_max=wait_ms)
    fleet.wait_for_model(model, within_s=REACHED_S_MAX)
    return site, key, model


class Callers:
    """Asks without waiting for the answers; `ended` has the names in the order of their ends."""

    def __init__(self, fleet, model):
        self._fleet, self._model = fleet, model
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S)
        self.ended = []

    def ask(self, name, key, *, tokens=20, headers=None):
        return asyncio.ensure_future(self._ask(name, key, tokens, headers or {}))

    async def _ask(self, name, key, tokens, headers):
        body = {**self._fleet.chat(standin_completion_tokens=tokens), "model": self._model}
        answer = await self._client.post(
            self._fleet.gateway.url + CHAT_PATH,
            json=body,
            headers={"authorization": f"Bearer {key.key}", **headers},
        )
        self.ended.append(name)
        return answer

    async def close(self):
        await self._client.aclose()


@pytest.fixture
async def callers_of(fleet):
    made = []

    def make(model):
        made.append(Callers(fleet, model))
        return made[-1]

    yield make
    for callers in made:
        await callers.close()


async def begun(site, count=1):
    await asyncio.to_thread(wait_until, lambda: site.received_count >= count)


async def test_requests_beyond_the_places_are_answered_in_turn(fleet, callers_of):
    site, key, model = queueing(fleet)
    callers = callers_of(model)
    answers = []
    for number in range(4):
        answers.append(callers.ask(number, key, tokens=60))
        await begun(site)
        await asyncio.sleep(0.02)
    answers = await asyncio.gather(*answers)

    assert [answer.status_code for answer in answers] == [200] * 4
    assert callers.ended == [0, 1, 2, 3]
    assert "x-gateway-queue-position" not in answers[0].headers
    assert [answer.headers["x-gateway-queue-position"] for answer in answers[1:]] == ["1", "2", "3"]
    assert int(answers[3].headers["x-gateway-queue-wait-ms"]) > 100
    fleet.settled_rows(key, count=4)


async def test_a_higher_priority_overtakes(fleet, callers_of):
    site, key, model = queueing(fleet)
    urgent = fleet.issue_key(priority=5)
    fleet.ready()
    callers = callers_of(model)
    answers = [callers.ask("running", key, tokens=150)]
    await begun(site)
    answers.append(callers.ask("usual", key))
    await asyncio.sleep(0.05)
    answers.append(callers.ask("urgent", urgent))
    await asyncio.gather(*answers)

    assert callers.ended == ["running", "urgent", "usual"]


async def test_who_does_not_want_to_wait_is_refused_at_once(fleet, callers_of):
    site, key, model = queueing(fleet)
    callers = callers_of(model)
    running = callers.ask("running", key, tokens=200)
    await begun(site)
    refused = await callers.ask("hasty", key, headers={"x-gateway-max-wait": "0"})
    wrong = await callers.ask("wrong", key, headers={"x-gateway-max-wait": "soon"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (await running).status_code == 200


async def test_a_full_line_says_so(fleet, callers_of):
    site, key, model = queueing(fleet, places=1)
    callers = callers_of(model)
    running = callers.ask("running", key, tokens=200)
    await begun(site)
    waiting = callers.ask("waiting", key)
    await asyncio.sleep(0.1)
    refused = await callers.ask("third", key)

    assert refused.status_code == 503
    assert "1 requests wait already." in refused.json()["error"]["message"]
    assert refused.headers["x-gateway-queue-position"] == "2"
    assert [(await running).status_code, (await waiting).status_code] == [200, 200]


async def test_a_caller_who_leaves_the_line_is_never_sent(fleet, callers_of):
    site, key, model = queueing(fleet)
    callers = callers_of(model)
    running = callers.ask("running", key, tokens=150)
    await begun(site)
    gone = callers.ask("gone", key)
    await asyncio.sleep(0.1)
    gone.cancel()
    last = await callers.ask("last", key)
    await running

    assert last.status_code == 200
    assert site.received_count == 2
    fleet.settled_rows(key, count=2)


async def test_teams_share_the_places_by_their_weights(fleet, callers_of):
    _, key, model = queueing(fleet)
    heavy = Key(**fleet.control.call("issue_key", name="heavy", team=f"heavy-{fleet.token}", team_weight=3))
    fleet.ready()
    callers = callers_of(model)
    answers = [callers.ask("running", key, tokens=150)]
    await asyncio.sleep(0.1)
    for number in range(9):
        answers += [callers.ask("light", key, tokens=2), callers.ask("heavy", heavy, tokens=2)]
        await asyncio.sleep(0.005 if number else 0.0)
    answers = await asyncio.gather(*answers)

    assert {answer.status_code for answer in answers} == {200}
    assert 7 <= callers.ended[1:11].count("heavy") <= 8
