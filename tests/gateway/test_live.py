"""The live feed: what it tells, and that a lost layer costs nothing."""

import asyncio
import json
import uuid

import pytest
import structlog
from channels.layers import get_channel_layer

from gateway import live
from gateway.live import REQUESTS_MAX, LiveFeed
from tests.gateway.snapshots import keeper_of

LINE = {
    "request_id": "req_1",
    "cost_nanousd": 5,
    "model": "fast",
    "cluster": "aws",
    "served_model": "llama",
}


def new_feed():
    return LiveFeed(process_id=uuid.UUID(int=1), keeper=keeper_of(), states={}, clock=lambda: 0.0)


def test_update_tells_what_happened_since_the_last_one():
    feed = new_feed()
    feed.listener(LINE)
    feed.listener(LINE)

    first, second = feed.update(), feed.update()

    assert (first["request_count"], first["cost_nanousd"], first["requests"]) == (2, 10, [LINE, LINE])
    assert (second["request_count"], second["cost_nanousd"], second["requests"]) == (0, 0, [])


def test_update_counts_more_requests_than_it_shows():
    feed = new_feed()
    for _ in range(REQUESTS_MAX + 7):
        feed.listener(LINE)

    update = feed.update()

    assert (update["request_count"], len(update["requests"])) == (REQUESTS_MAX + 7, REQUESTS_MAX)


def test_update_describes_each_deployment():
    assert new_feed().update()["fleet"] == [
        {
            "cluster": "aws",
            "model": "llama",
            "kind": "own",
            "state": "active",
            "health": "unknown",
            "reason": "",
            "breaker": "closed",
            "in_flight": 0,
            "queue_depth": None,
            "requests_per_s": 0.0,
            "tokens_per_s": None,
            "ttft_ms": None,
            "cache_hit_share": None,
        }
    ]


def test_update_tells_what_each_deployment_served_per_second():
    moments = iter([0.0, 4.0, 4.5])
    feed = LiveFeed(process_id=uuid.UUID(int=1), keeper=keeper_of(), states={}, clock=lambda: next(moments))
    feed.listener(LINE)
    feed.listener(LINE)
    feed.listener({**LINE, "served_model": "another"})

    first, second = feed.update(), feed.update()

    assert [update["fleet"][0]["requests_per_s"] for update in (first, second)] == [0.5, 0.0]


def test_update_is_plain_json():
    feed = new_feed()
    feed.listener(LINE)

    update = feed.update()

    assert json.loads(json.dumps(update)) == update


async def test_lost_layer_is_told_once_a_minute_and_costs_nothing(monkeypatch):
    calls = 0

    async def lost(*_arguments):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise asyncio.CancelledError
        raise ConnectionError("valkey is gone")

    monkeypatch.setattr(live, "INTERVAL_S", 0.001)
    monkeypatch.setattr(get_channel_layer(), "group_send", lost)

    with structlog.testing.capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await new_feed().run()

    assert [(entry["event"], entry["error"]) for entry in logs] == [("live_feed_lost", "valkey is gone")]
