"""A hard budget holds at every instant, however many ask at once."""

import asyncio
from collections import Counter

import httpx
import pytest

from tests.e2e.fleet import CHAT_PATH
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

REQUESTS = 50


async def sampled_windows(fleet, key, *, is_over):
    """(spent, held) of the key's window, looked at again and again until it is over."""
    samples = []
    while not is_over():
        windows = await asyncio.to_thread(fleet.windows, key)
        samples += [(window["spent_nanousd"], window["held_nanousd"]) for window in windows]
        await asyncio.sleep(0.005)
    return samples


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
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code != 200}
    rows = fleet.settled_rows(key, count=statuses[200])
    spent = sum(row["cost_nanousd"] for row in rows)
    assert statuses == {200: 10, 429: REQUESTS - 10}
    assert codes == {"insufficient_quota"}
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
