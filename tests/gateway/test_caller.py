"""Heads of requests and responses; the connection itself is tried in tests/e2e/test_caller.py."""

import asyncio

import orjson
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.api import COMPLETIONS
from gateway.caller import CallerProtocol, Flow, Line, away_answer, header_lines, is_whole_request
from gateway.slim import SlimHandler

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n"


@pytest.fixture
def slim():
    return SlimHandler(
        operations=COMPLETIONS, body_bytes_max=100, body_timeout_s=1, write_timeout_s=1, depth_max=10
    )


def test_headers_become_lines():
    assert header_lines((("content-type", "application/json"), ("x-gateway-cluster", "größe"))) == (
        b"content-type: application/json\r\nx-gateway-cluster: gr\xf6\xdfe\r\n"
    )
    assert header_lines(()) == b""


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\rb", "\r\n"])
def test_header_that_would_be_two_lines_is_refused(value):
    with pytest.raises(ValueError, match="a header holds a line break"):
        header_lines((("x-gateway-cluster", value),))


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"\r\n{}",
        HEAD.replace(b"content-length: 2", b"Content-Length:2") + b"\r\n{}",
        HEAD.replace(b"chat/completions", b"embeddings") + b"authorization: Bearer tg_1\r\n\r\n{}",
    ],
)
def test_whole_request_is_known_by_its_bytes(data, slim):
    assert is_whole_request(data, slim=slim)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        HEAD,
        HEAD + b"\r\n{",
        HEAD + b"\r\n{}P",
        HEAD + b"\r\n{}" + HEAD + b"\r\n{}",
        HEAD + b"content-length: 2\r\n\r\n{}",
        HEAD + b"connection: close\r\n\r\n{}",
        HEAD + b"Expect: 100-continue\r\n\r\n{}",
        HEAD + b"upgrade: websocket\r\n\r\n{}",
        HEAD.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD.replace(b"content-length: 2\r\n", b"") + b"\r\n",
        HEAD.replace(b"length: 2", b"length: -2") + b"\r\n{}",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n{}",
        HEAD.replace(b"POST", b"GET") + b"\r\n{}",
        HEAD.replace(b"/v1/chat/completions", b"/v1/messages") + b"\r\n{}",
        HEAD.replace(b"/v1/chat/completions", b"/admin/") + b"\r\n{}",
        HEAD.replace(b"/v1/chat/completions", b"/v1/chat/completions?a=b") + b"\r\n{}",
    ],
)
def test_what_may_be_less_or_more_than_a_request_is_read_by_the_parser(data, slim):
    assert not is_whole_request(data, slim=slim)


def test_who_is_turned_away_unread_is_told_as_any_other():
    head, _, body = away_answer().partition(b"\r\n\r\n")

    assert orjson.loads(body) == {
        "error": {
            "message": "This gateway has more to do than it can; send the request again.",
            "type": "overloaded_error",
            "param": None,
            "code": "overloaded",
        }
    }
    assert dict(line.split(b": ") for line in head.split(b"\r\n")) == {
        b"content-type": b"application/json",
        b"retry-after": b"1",
        b"retry-after-ms": b"1000",
        b"content-length": b"%d" % len(body),
    }


# With more in its dict than this an instance shares no keys, and takes 1,400 bytes more.
SHARED_KEYS_MAX = 30


class Pausable(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.calls = []

    def pause_reading(self):
        self.calls.append("pause")

    def resume_reading(self):
        self.calls.append("resume")


async def test_connection_has_no_more_attributes_in_its_dict_than_share_keys():
    config = Config(lambda *_: None, http=CallerProtocol, ws="none", lifespan="off")
    config.load()

    protocol = CallerProtocol(config=config, server_state=ServerState(), app_state={})

    assert len(protocol.__dict__) <= SHARED_KEYS_MAX


async def test_who_waits_to_write_goes_on_when_the_transport_has_room():
    transport = Pausable()
    flow = Flow(transport)
    await flow.drain()
    flow.pause_writing()
    flow.pause_writing()
    waiting = asyncio.ensure_future(flow.drain())
    await asyncio.sleep(0)
    was_held = (flow.write_paused, waiting.done())
    flow.resume_writing()
    flow.resume_writing()
    await waiting
    flow.pause_reading()
    flow.pause_reading()
    flow.resume_reading()

    assert was_held == (True, False)
    assert (flow.write_paused, transport.calls) == (False, ["pause", "resume"])


def test_line_gives_out_first_what_came_first():
    line = Line()
    line.appendleft("first")
    line.appendleft("second")

    assert [line.pop(), line.pop(), bool(line)] == ["first", "second", False]
