"""The live page's websocket: who may listen, and for how long."""

import pytest
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore

from gateway.consumers import FORBIDDEN, RECHECK_INTERVAL_S, LiveConsumer
from gateway.live import GROUP


def communicator(user, *, clock=lambda: 0.0, session=None):
    class Consumer(LiveConsumer):
        pass

    Consumer.clock = staticmethod(clock)
    made = WebsocketCommunicator(Consumer.as_asgi(), "/ws/live/")
    made.scope["user"] = user
    made.scope["session"] = session
    return made


async def publish():
    await get_channel_layer().group_send(GROUP, {"type": "live.update", "update": {"process": "p"}})


@pytest.mark.django_db
async def test_staff_hears_what_gateways_publish():
    socket = communicator(User(username="op", is_staff=True))
    assert (await socket.connect())[0] is True

    await publish()

    assert await socket.receive_json_from() == {"process": "p"}
    await socket.disconnect()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "user", [AnonymousUser(), User(username="x"), User(is_staff=True, is_active=False), None]
)
async def test_others_are_refused(user):
    assert await communicator(user).connect() == (False, FORBIDDEN)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lost", ["nothing", "session", "right"])
async def test_open_page_goes_silent_when_its_user_may_no_more(lost):
    def prepare():
        user = User.objects.create(username="op", is_staff=True)
        session = SessionStore()
        session.create()
        return user, session

    def lose():
        if lost == "session":
            session.delete()
        if lost == "right":
            User.objects.update(is_staff=False)

    moments = [0.0]
    user, session = await database_sync_to_async(prepare)()
    socket = communicator(user, clock=lambda: moments[0], session=session)
    await socket.connect()
    await database_sync_to_async(lose)()
    moments[0] = RECHECK_INTERVAL_S

    await publish()

    if lost == "nothing":
        assert await socket.receive_json_from() == {"process": "p"}
        await socket.disconnect()
    else:
        assert await socket.receive_output() == {"type": "websocket.close", "code": FORBIDDEN}
