"""A hard budget holds at every instant, however many ask at once."""

import asyncio
import random
from collections import Counter

import httpx
import orjson
import pytest

from billing.amounts import usd_text
from gateway.schemas import TEMPLATE_TOKENS_MAX
from tests.e2e.fleet import CHAT_PATH, PRICE, standin_extra, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

REQUESTS = 50
CLIENTS = 24
# A client that was not refused for good by then never will be.
TRIES_MAX = 500
OVERRIDE_S = 1.5


async def sampled_windows(fleet, key, *, is_over):
    """(spent, held) of the key's window, looked at again and again until it is over."""
    samples = []
    while not is_over():
        windows = await asyncio.to_thread(fleet.windows, key)
        samples += [(window["spent_nanousd"], window["held_nanousd"]) for window in windows]
        await asyncio.sleep(0.005)
    return samples


def refusal_of(answer):
    headers = answer.headers
    return answer.json()["error"]["code"], headers["x-should-retry"], headers.get("retry-after")


async def test_hard_budget_for_ten_requests_and_a_half_lets_ten_in_at_once(fleet):
    fleet.add_cluster(standin={"tokens_per_s": 2000.0, "ttft_ms": 700.0})
    probe = fleet.issue_key()
    fleet.ready()
    chat = fleet.chat(max_tokens=20, standin_completion_tokens=20)
    assert fleet.post(probe, chat).status_code == 200
    (row,) = fleet.settled_rows(probe, count=1)
    limit = row["held_nanousd"] * 21 // 2
    key = fleet.issue_key(hard_limit_nanousd=limit)
    fleet.ready()

    async with httpx.AsyncClient(
        base_url=fleet.gateway.url,
        headers={"authorization": f"Bearer {key.key}"},
        timeout=CLIENT_TIMEOUT_S,
    ) as client:
        asking = asyncio.gather(*(client.post(CHAT_PATH, json=chat) for _ in range(REQUESTS)))
        samples = await sampled_windows(fleet, key, is_over=asking.done)
        answers = await asking

    statuses = Counter(answer.status_code for answer in answers)
    # What is left is only held: each is asked to come again.
    refusals = {refusal_of(answer) for answer in answers if answer.status_code != 200}
    rows = fleet.settled_rows(key, count=statuses[200])
    spent = sum(row["cost_nanousd"] for row in rows)
    assert statuses == {200: 10, 429: REQUESTS - 10}
    assert refusals == {("rate_limit_exceeded", "true", "1")}
    assert max(spent + held for spent, held in samples) == 10 * row["held_nanousd"] <= limit
    assert fleet.windows(key) == [{"limit_nanousd": limit, "spent_nanousd": spent, "held_nanousd": 0}]


def test_soft_budget_refuses_nobody(fleet):
    fleet.add_cluster()
    key = fleet.issue_key(budgets=[{"limit_nanousd": 1, "window": "day", "is_hard": False}])
    fleet.ready()

    answer = fleet.post(key, fleet.chat())

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.status_code == 200
    assert fleet.windows(key) == [
        {"limit_nanousd": 1, "spent_nanousd": row["cost_nanousd"], "held_nanousd": 0}
    ]


def test_unpriced_provider_is_refused_to_a_hard_budget(fleet):
    fleet.add_cluster(kind="provider", is_priced=False)
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    answer = fleet.post(key, fleet.chat())

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_priced")
    assert fleet.settled_rows(key, count=0) == []


def answer_bytes(fleet, **members):
    """A request whose answer would be long, as bytes: the bound of its prompt counts them."""
    return orjson.dumps(fleet.chat(standin_completion_tokens=500, **members))


def limit_for(body, *, tokens):
    """What a provider at PRICE may charge for the request and so many tokens of answer, in nano-USD."""
    picousd = (len(body) + TEMPLATE_TOKENS_MAX) * PRICE[0] + tokens * PRICE[1]
    return -(-picousd // 1000)


def clamped_key(fleet, *, limit_nanousd):
    budget = {"limit_nanousd": limit_nanousd, "window": "total", "is_hard": True, "is_clamped": True}
    return fleet.issue_key(budgets=[budget])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"max_tokens": 400},
        {"max_completion_tokens": 400},
        {"max_completion_tokens": 400, "max_tokens": 300},
        {"max_tokens": 400, "n": 3},
    ],
)
def test_clamped_budget_shortens_the_answer_and_says_so(fleet, asked):
    fleet.add_cluster(kind="provider")
    body = answer_bytes(fleet, **asked)
    tokens = 50 * asked.get("n", 1)
    key = clamped_key(fleet, limit_nanousd=limit_for(body, tokens=tokens))
    fleet.ready()

    answer = fleet.post(key, body)
    again = fleet.post(key, body)

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-max-tokens-clamped"] == "50"
    assert answer.json()["usage"]["completion_tokens"] == tokens
    assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}
    assert row["held_nanousd"] == limit_for(body, tokens=tokens)
    assert (row["decision"]["output_tokens_max"], row["variance_nanousd"]) == (50, 0)
    # What the prompt cost less than its bound does not pay another one.
    assert refusal_of(again) == ("insufficient_quota", "false", None)


def test_clamped_budget_shortens_a_stream_and_says_so(fleet):
    fleet.add_cluster(kind="provider")
    body = answer_bytes(fleet, stream=True, stream_options={"include_usage": True})
    key = clamped_key(fleet, limit_nanousd=limit_for(body, tokens=50))
    fleet.ready()

    answer = fleet.post(key, body)

    (row,) = fleet.settled_rows(key, count=1)
    frames = answer.content.split(b"\n\n")
    assert answer.headers["x-gateway-max-tokens-clamped"] == "50"
    assert orjson.loads(frames[-3].removeprefix(b"data: "))["usage"]["completion_tokens"] == 50
    assert frames[-2] == b"data: [DONE]"
    assert (row["held_nanousd"], row["outcome"]) == (limit_for(body, tokens=50), "ok")


def test_clamped_budget_leaves_alone_what_fits(fleet):
    fleet.add_cluster(kind="provider")
    key = clamped_key(fleet, limit_nanousd=10**12)
    fleet.ready()

    answer = fleet.post(key, answer_bytes(fleet, max_tokens=40))

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.json()["usage"]["completion_tokens"] == 40
    assert "x-gateway-max-tokens-clamped" not in answer.headers
    assert "output_tokens_max" not in row["decision"]


def test_clamped_budget_without_room_for_a_short_answer_refuses(fleet):
    fleet.add_cluster(kind="provider")
    body = answer_bytes(fleet)
    limit = limit_for(body, tokens=16) - 1
    key = clamped_key(fleet, limit_nanousd=limit)
    fleet.ready()

    answer = fleet.post(key, body)

    assert answer.status_code == 429
    assert refusal_of(answer) == ("insufficient_quota", "false", None)
    assert answer.json()["error"]["message"] == (
        f'The total budget of key "{key.name}" has no room for this request, which needs at least '
        f"{usd_text(limit + 1)} for its prompt and 16 tokens of answer: $0.00 of {usd_text(limit)} is spent. "
        "It never starts anew: send less, or raise it in Admin > Budgets."
    )
    assert fleet.settled_rows(key, count=0) == []


def test_embeddings_are_taken_whole_or_refused_by_a_clamped_budget(fleet):
    fleet.add_cluster(kind="provider")
    body = orjson.dumps({"model": fleet.model, "input": "A sentence."})
    keys = [clamped_key(fleet, limit_nanousd=limit_for(body, tokens=0) - less) for less in (0, 1)]
    fleet.ready()

    taken, refused = (fleet.post(key, body, path="/v1/embeddings") for key in keys)

    assert taken.status_code == 200, taken.text
    assert "x-gateway-max-tokens-clamped" not in taken.headers
    assert (refused.status_code, *refusal_of(refused)) == (429, "insufficient_quota", "false", None)
    fleet.settled_rows(keys[0], count=1)


async def test_clamped_budget_is_used_up_by_many_and_never_exceeded(fleet):
    fleet.add_cluster(kind="provider", standin={"tokens_per_s": 2000.0, "ttft_ms": 30.0})
    body = answer_bytes(fleet, max_tokens=200)
    limit = limit_for(body, tokens=200) * 21 // 2
    key = clamped_key(fleet, limit_nanousd=limit)
    fleet.ready()

    async with httpx.AsyncClient(
        base_url=fleet.gateway.url,
        headers={"authorization": f"Bearer {key.key}"},
        timeout=CLIENT_TIMEOUT_S,
    ) as client:
        clients = (ask_until_refused(client, fleet, random.Random(number)) for number in range(CLIENTS))
        asking = asyncio.gather(*clients)
        samples = await sampled_windows(fleet, key, is_over=asking.done)
        clamped_counts = await asking

    (window,) = fleet.windows(key)
    assert max(spent + held for spent, held in samples) <= limit
    assert window["held_nanousd"] == 0
    assert limit * 95 // 100 <= window["spent_nanousd"] <= limit
    assert sum(clamped_counts) > 0


async def ask_until_refused(client, fleet, chance):
    """Ask for answers of any length until it is refused for good; how many of them were clamped."""
    clamped_count = 0
    for _ in range(TRIES_MAX):
        tokens = chance.randint(1, 200)
        answer = await client.post(
            CHAT_PATH, json=fleet.chat(max_tokens=200, standin_completion_tokens=tokens)
        )
        clamped_count += "x-gateway-max-tokens-clamped" in answer.headers
        if answer.status_code == 200:
            continue
        assert answer.status_code == 429, answer.text
        if answer.headers["x-should-retry"] == "false":
            return clamped_count
        # Sooner than it was told, so that the test is quick.
        await asyncio.sleep(chance.uniform(0.02, 0.06))
    raise AssertionError("never refused for good")


async def test_sdk_comes_again_where_running_requests_hold_the_rest(fleet):
    fleet.add_cluster(kind="provider", standin={"ttft_ms": 300.0})
    chat = fleet.chat(max_tokens=20)
    # The SDK's body is a little longer.
    limit = limit_for(orjson.dumps(chat) + bytes(100), tokens=20) * 3 // 2
    key = fleet.issue_key(hard_limit_nanousd=limit)
    fleet.ready()

    client, shorter = fleet.client(key, max_retries=2), standin_extra(completion_tokens=5)
    answers = await asyncio.gather(
        *(asyncio.to_thread(client.chat.completions.create, **chat, **shorter) for _ in range(2))
    )

    assert [answer.usage.completion_tokens for answer in answers] == [5, 5]
    assert len(fleet.settled_rows(key, count=2)) == 2


def test_override_counts_at_once_and_ends_by_itself(fleet):
    fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=1)
    fleet.ready()
    before = fleet.post(key, fleet.chat())

    fleet.control.call("override_budgets", key_id=key.id, limit_nanousd=10**12, for_s=OVERRIDE_S)
    fleet.ready()
    during = fleet.post(key, fleet.chat())
    # No snapshot says when it is over: the gateway looks at the clock with each request.
    wait_until(lambda: fleet.post(key, fleet.chat()).status_code == 429)
    after = fleet.post(key, fleet.chat())

    assert (before.status_code, during.status_code) == (429, 200)
    assert refusal_of(after) == ("insufficient_quota", "false", None)
