"""What stands between the socket and the reader: nothing for OpenAI's dialect, a translation for others."""

import orjson
import pytest

from gateway.errors import UnsupportedError, UpstreamInvalidError, UpstreamTooLargeError
from gateway.providers import dialect_of
from gateway.translation import sent_body, translated
from gateway.upstream import UpstreamFailure, UpstreamResponse
from tests.gateway.dialects import test_anthropic_answers as anthropic
from tests.gateway.dialects import test_bedrock_answers as bedrock
from tests.gateway.dialects.calls import call_of, frames

BYTES_MAX = 100_000


async def pieces(*given):
    for piece in given:
        yield piece


def response_of(*given, **headers):
    return UpstreamResponse(headers=headers, chunks=pieces(*given), answer=None)


def through(response, backend, call, **limits):
    given = {"answer_bytes_max": BYTES_MAX, "line_bytes_max": BYTES_MAX, **limits}
    return translated(response, dialect=dialect_of(backend), call=call, **given)


@pytest.mark.parametrize("backend", ["vllm", "openai", "azure"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_openais_dialect_is_not_touched(backend, is_stream):
    response = response_of(b"x")

    assert through(response, backend, call_of(**({"stream": True} if is_stream else {}))) is response


async def test_plain_answer_comes_as_one_piece():
    body = orjson.dumps(anthropic.message({"type": "text", "text": "Hi."}))

    answer = through(response_of(body[:9], body[9:]), "claude", call_of())

    (piece,) = [piece async for piece in answer.chunks]
    assert orjson.loads(piece)["choices"][0]["message"]["content"] == "Hi."


@pytest.mark.parametrize(
    ("given", "fault"), [((b"x" * 60_000,) * 2, UpstreamTooLargeError), ((b"<html>",), UpstreamInvalidError)]
)
async def test_plain_answer_that_is_none_may_be_had_elsewhere(given, fault):
    answer = through(response_of(*given), "claude", call_of())

    with pytest.raises(UpstreamFailure) as raised:
        [piece async for piece in answer.chunks]

    assert (type(raised.value.error), raised.value.is_sent, raised.value.is_retryable) == (fault, True, True)


async def test_stream_is_translated_piece_by_piece_and_silence_is_told():
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    response = response_of(ping, anthropic.TOOLS, **{"content-type": "text/event-stream"})

    answer = through(response, "claude", call_of(stream=True))

    found = [piece async for piece in answer.chunks]
    assert found[0] == b""
    assert frames(b"".join(found))[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/vnd.amazon.eventstream", "text/event-stream"),
        ("application/json", "application/json"),
    ],
)
async def test_makers_stream_is_an_event_stream_from_here_on(content_type, expected):
    response = response_of(bedrock.STREAM, **{"content-type": content_type})

    answer = through(response, "bedrock", call_of(stream=True))

    assert answer.headers["content-type"] == expected


def test_request_without_words_is_not_sent_counts_against_nobody_and_may_go_elsewhere():
    with pytest.raises(UpstreamFailure) as raised:
        sent_body(dialect_of("claude"), call_of(logprobs=True))

    failed = raised.value
    assert (type(failed.error), failed.is_sent, failed.is_counted, failed.is_retryable) == (
        UnsupportedError,
        False,
        False,
        True,
    )
