"""Many streams at once: the client's, the gateway's and the upstreams' accounts agree to the token."""

import asyncio
import itertools
import time
from collections import Counter

import httpx
import openai
import pytest

from tests.e2e.fleet import CHAT_PATH, cost_of, standin_extra, token_counts
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

STREAMS = 200


async def read_stream(client, chat, *, tokens):
    """What the caller got: the request's id and the usage it was told."""
    raw = await client.chat.completions.with_raw_response.create(
        **chat, stream=True, stream_options={"include_usage": True}, **standin_extra(completion_tokens=tokens)
    )
    usage, words = None, 0
    async for chunk in raw.parse():
        usage = chunk.usage or usage
        words += sum(len((choice.delta.content or "").split()) for choice in chunk.choices)
    assert words == usage.completion_tokens == tokens
    return raw.request_id, (usage.prompt_tokens, usage.completion_tokens)


def test_stream_is_handed_on_as_it_comes(fleet):
    fleet.add_cluster(standin={"tokens_per_s": 40.0})
    key = fleet.issue_key()
    fleet.ready()
    arrived_s = []

    with fleet.client(key).chat.completions.create(
        **fleet.chat(), stream=True, **standin_extra(completion_tokens=20)
    ) as stream:
        arrived_s.extend(time.monotonic() for _ in stream)

    (row,) = fleet.settled_rows(key, count=1)
    gaps_s = [after - before for before, after in itertools.pairwise(arrived_s)]
    assert max(gaps_s) < 0.3
    assert arrived_s[-1] - arrived_s[0] > 0.3
    assert row["ttft_ms"] < row["duration_ms"] / 2


async def test_burst_stays_within_the_limits_of_its_clusters(fleet):
    slow = {"tokens_per_s": 1000.0, "ttft_ms": 500.0}
    sites = [fleet.add_cluster(standin=slow, in_flight_max=10) for _ in range(2)]
    key = fleet.issue_key()
    fleet.ready()

    async with httpx.AsyncClient(
        base_url=fleet.gateway.url,
        headers={"authorization": f"Bearer {key.key}"},
        timeout=CLIENT_TIMEOUT_S,
    ) as client:
        chat = fleet.chat(max_tokens=5)
        answers = await asyncio.gather(*(client.post(CHAT_PATH, json=chat) for _ in range(30)))

    refusals = [answer.json()["error"]["code"] for answer in answers if answer.status_code == 503]
    assert Counter(answer.status_code for answer in answers) == {200: 20, 503: 10}
    assert refusals == ["overloaded"] * 10
    assert [site.received_count for site in sites] == [10, 10]
    assert len(fleet.settled_rows(key, count=20)) == 20


async def test_200_streams_are_accounted_alike_by_all_three(production_fleet):
    fleet = production_fleet
    pace = {"tokens_per_s": 1500.0}
    sites = [
        fleet.add_cluster(standin=pace, in_flight_max=40),
        fleet.add_cluster(standin=pace, in_flight_max=40),
        fleet.add_cluster(
            kind="provider",
            standin={**pace, "kind": "provider", "running_max": 200},
            in_flight_max=200,
        ),
    ]
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    async with openai.AsyncOpenAI(
        base_url=f"{fleet.gateway.url}/v1", api_key=key.key, max_retries=0, timeout=CLIENT_TIMEOUT_S
    ) as client:
        told = await asyncio.gather(
            *(
                read_stream(client, fleet.chat("word " * (n % 7 + 1)), tokens=10 + n % 31)
                for n in range(STREAMS)
            )
        )

    rows = fleet.settled_rows(key, count=STREAMS)
    records = [record for site in sites for record in site.records]
    by_gateway = {row["request_id"]: token_counts(row) for row in rows}
    by_upstreams = {
        (record["request_id"], record["attempt_id"], record["prompt_tokens"], record["completion_tokens"])
        for record in records
    }
    assert by_gateway == dict(told)
    assert by_upstreams == {(row["request_id"], row["attempt_id"], *token_counts(row)) for row in rows}
    assert Counter(row["outcome"] for row in rows) == {"ok": STREAMS}
    assert len(records) == STREAMS
    assert all(site.records for site in sites)
    assert [row["cost_nanousd"] for row in rows] == [cost_of(row) for row in rows]
    (window,) = fleet.windows(key)
    assert (window["spent_nanousd"], window["held_nanousd"]) == (sum(map(cost_of, rows)), 0)
