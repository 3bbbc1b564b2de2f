"""The caller's side of a translated answer: as an outbox, and a crash is told in the stream."""

import orjson
import pytest

from gateway.errors import UpstreamInvalidError
from gateway.idempotency import KeptAnswer
from gateway.outbox import Outbox, Reply
from gateway.surface_answers import PutBack, TranslatedOutbox
from gateway.surfaces.messages import MESSAGES
from tests.gateway.surfaces.chats import CIRCUMSTANCES, DONE, RICH, chunk, events, plain

ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
PUT_BACK = PutBack(translation=MESSAGES.translate(ASKED), circumstances=CIRCUMSTANCES)
MORE = (("request-id", "req_42"),)


async def read(outbox):
    return b"".join([data async for data in outbox.stream()])


async def test_stream_is_translated_as_it_is_read():
    outbox = Outbox(bytes_max=1 << 20)
    await outbox.put(RICH)
    outbox.close()

    data = await read(PUT_BACK.outbox(outbox))

    assert [event["type"] for event in events(data)][-2:] == ["message_delta", "message_stop"]


async def test_caller_who_leaves_is_gone_for_the_pump_too():
    outbox = Outbox(bytes_max=1 << 20)
    translated = PUT_BACK.outbox(outbox)

    translated.abandon()

    assert (translated.is_left, outbox.is_abandoned) == (True, True)


class Crashing:
    """Translates nothing but errors."""

    def feed(self, data):
        assert b"error" in data
        return data


async def test_crash_is_an_error_event():
    outbox = Outbox(bytes_max=1 << 20)
    await outbox.put(chunk({"content": "a"}))
    outbox.close()

    data = await read(TranslatedOutbox(outbox, Crashing()))

    assert orjson.loads(data.removeprefix(b"data: "))["error"]["code"] == "internal_error"


def test_whole_answer_is_translated_with_its_headers():
    reply = PUT_BACK.reply(Reply(headers=(("a", "b"),), body=plain({"content": "x"})), more_headers=MORE)

    assert reply.headers == (("a", "b"), *MORE)
    assert orjson.loads(reply.body)["content"] == [{"type": "text", "text": "x"}]
    assert PUT_BACK.reply(Reply(headers=(), body=None), more_headers=MORE).body is None
    with pytest.raises(UpstreamInvalidError):
        PUT_BACK.reply(Reply(headers=(), body=b"{}"), more_headers=())


@pytest.mark.parametrize("is_stream", [True, False])
def test_kept_answer_is_translated_like_the_first(is_stream):
    body = RICH if is_stream else plain({"content": "x"})
    kept = KeptAnswer(request_id="req_42", is_stream=is_stream, headers=(), body=body)

    told = PUT_BACK.kept(kept, more_headers=MORE)

    stream = PUT_BACK.translation.stream(CIRCUMSTANCES)
    whole = stream.feed(RICH.removesuffix(DONE)) + stream.feed(DONE) if is_stream else None
    assert told.headers == MORE
    assert told.body == (whole or PUT_BACK.reply(Reply(headers=(), body=body), more_headers=()).body)
