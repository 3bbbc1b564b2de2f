"""Many streams at once: the client's, the gateway's and the upstreams' accounts agree to the token."""

import asyncio
from collections import Counter

import openai
import pytest

from tests.e2e.fleet import CLIENT_TIMEOUT_S, cost_of, standin_extra, token_counts

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


async def test_200_streams_are_accounted_alike_by_all_three(production_fleet):
    fleet = production_fleet
    pace = {"tokens_per_s": 1500.0}
    sites = [
        fleet.add_cluster(standin=pace, in_flight_max=40),
        fleet.add_cluster(standin=pace, in_flight_max=40),
        fleet.add_cluster(kind="provider", standin={**pace, "kind": "provider", "running_max": 200}),
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
    print(Counter(str((row["decision"]["reason"], row["decision"]["excluded"], row["decision"]["ranked"])) for row in rows))
    assert [len(site.records) for site in sites] == 3
    assert [row["cost_nanousd"] for row in rows] == [cost_of(row) for row in rows]
    (window,) = fleet.windows(key)
    assert (window["spent_nanousd"], window["held_nanousd"]) == (sum(map(cost_of, rows)), 0)
