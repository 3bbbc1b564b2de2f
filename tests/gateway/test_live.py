"""The live feed: what it tells, who may listen, and that a lost layer costs nothing."""

import uuid

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, User

from gateway.consumers import LiveConsumer
from gateway.live import GROUP, REQUESTS_MAX, LiveFeed
from tests.gateway.snapshots import keeper_of

LINE = {"request_id": "req_1", "cost_nanousd": 5, "model": "fast"}


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
            "tokens_per_s": None,
            "ttft_ms": None,
        }
    ]


def communicator(user):
    made = WebsocketCommunicator(LiveConsumer.as_asgi(), "/ws/live/")
    made.scope["user"] = user
    return made


async def test_staff_hears_what_gateways_publish():
    socket = communicator(User(username="op", is_staff=True))
    assert (await socket.connect())[0] is True

    await get_channel_layer().group_send(GROUP, {"type": "live.update", "update": {"process": "p"}})

    assert await socket.receive_json_from() == {"process": "p"}
    await socket.disconnect()


@pytest.mark.parametrize(
    "user", [AnonymousUser(), User(username="x"), User(is_staff=True, is_active=False), None]
)
async def test_others_are_refused(user):
    socket = communicator(user)

    assert (await socket.connect())[0] is False
