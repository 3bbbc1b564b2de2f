"""Each failure on the wire as the exception that says whether the request may have been read."""

import asyncio
import socket

import httpx
import pytest

from gateway import connection_pool
from gateway.connection import HEAD_BYTES_MAX, AnswerError
from gateway.connection_pool import ConnectionPool
from gateway.transport import Transport, request_head
from tests.fakes.raw_server import OK, answering, run_raw

LOOPS = ("asyncio", "uvloop")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: site\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MEGABYTE = 1024 * 1024
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.LocalProtocolError)


def new_transport(port, *, addresses=("127.0.0.1",), tls=None, connect_timeout_s=2.0, host="localhost"):
    pool = ConnectionPool(
        host=host, port=port, addresses=addresses, tls=tls, connect_timeout_s=connect_timeout_s
    )
    return Transport(pool=pool)


async def ask(transport, body=b"{}"):
    """Status and body of the answer."""
    answer = await transport.send(head=HEAD % len(body), body=body)
    try:
        return answer.status, b"".join([chunk async for chunk in answer])
    finally:
        await answer.aclose()


async def failure(transport, body=b"{}"):
    with pytest.raises(httpx.TransportError) as failed:
        await ask(transport, body)
    await transport.aclose()
    return type(failed.value), str(failed.value)


# Never sent.


async def test_refused_connection_is_a_connect_error():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))

        failed = await failure(new_transport(bound.getsockname()[1]))

    assert failed == (httpx.ConnectError, "connection refused")


async def test_connection_that_is_not_taken_in_time_is_a_connect_timeout():
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for taker in (first, second):
            taker.setblocking(False)
            taker.connect_ex(full.getsockname())

        failed = await failure(new_transport(full.getsockname()[1], connect_timeout_s=0.05))

    assert failed == (httpx.ConnectTimeout, "it did not take the connection in time")


@pytest.mark.parametrize(
    "header", [("x-request-id", "a\r\nx-evil: 1"), ("x", "a\nb"), ("x", "a\rb"), ("x", "a\0b"), ("x", "ä")]
)
def test_header_that_would_break_out_of_its_line_is_refused(header):
    with pytest.raises(httpx.LocalProtocolError):
        request_head(start="POST / HTTP/1.1\r\n", headers=[header])


# May have been sent.


async def test_server_that_closes_at_once_may_have_read_the_request():
    async def serve(raw, reader, writer):
        writer.close()

    async with run_raw(serve) as raw:
        kind, _ = await failure(new_transport(raw.port))

    # It depends on which comes first, the end or the reset that answers our bytes.
    assert kind in {httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError}


@pytest.mark.parametrize(
    ("pieces", "then", "kind"),
    [
        ([], "close", httpx.RemoteProtocolError),
        ([], "reset", httpx.ReadError),
        ([b"HTTP/1.1 200 OK\r\ncontent-"], "close", httpx.RemoteProtocolError),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "close", httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi"], "close", httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi"], "reset", httpx.ReadError),
        ([CHUNKED, b"2\r\nhi\r\n"], "close", httpx.RemoteProtocolError),
        ([CHUNKED, b"2\r\nhi\r\n0\r\n"], "close", httpx.RemoteProtocolError),
        ([CHUNKED, b"2\r\nhi\r\n"], "reset", httpx.ReadError),
        ([CHUNKED, b"zz\r\n"], "hold", AnswerError),
        ([b"<html>Hello</html>"], "hold", AnswerError),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
            "hold",
            AnswerError,
        ),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi"], "hold", AnswerError),
        ([b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n"], "hold", AnswerError),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n"] * (HEAD_BYTES_MAX // 20), "hold", AnswerError),
        ([CHUNKED, b"0\r\n", b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n"], "hold", AnswerError),
    ],
)
async def test_answer_that_breaks_off_or_is_none_is_a_failure(pieces, then, kind):
    async with run_raw(answering(*pieces, then=then)) as raw:
        transport = new_transport(raw.port)

        failed, _ = await failure(transport)

    assert failed is kind
    assert not issubclass(kind, NEVER_SENT)


async def test_what_came_before_a_cut_is_given_before_the_failure():
    async with run_raw(answering(CHUNKED, b"2\r\nhi\r\n", then="reset")) as raw:
        transport = new_transport(raw.port)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        first = await answer.read()

        with pytest.raises(httpx.ReadError):
            await answer.read()
        await answer.aclose()

    assert (answer.status, first) == (200, b"hi")


async def test_request_is_sent_once_whatever_happens():
    async with run_raw(answering(then="close")) as raw:
        transport = new_transport(raw.port)

        await failure(transport)

    assert len(raw.requests) == 1


# Answers.


@pytest.mark.parametrize(
    ("pieces", "expected", "is_kept"),
    [
        ([OK], (200, b"hi"), True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], (200, b"hi"), True),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK], (200, b"hi"), True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, b""), True),
        ([b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"], (304, b""), True),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], (200, b""), True),
        ([CHUNKED, b"2;a=b\r\nhi\r\n", b"0\r\nx: y\r\n\r\n"], (200, b"hi"), True),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"], (200, b"hi"), False),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"], (200, b"hi"), False),
        (
            [b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi"],
            (200, b"hi"),
            True,
        ),
        ([OK + OK], (200, b"hi"), False),
        ([OK + b"H"], (200, b"hi"), False),
        ([OK + b"garbage"], (200, b"hi"), False),
        ([OK.replace(b"200 OK", b"500 Oh")], (500, b"hi"), True),
        ([b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nhi"], (200, b"hi"), False),
        (
            [b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=60, max=9\r\ncontent-length: 2\r\n\r\nhi"],
            (200, b"hi"),
            True,
        ),
    ],
)
async def test_answers_are_read_whole_and_connections_kept_where_they_may_be(pieces, expected, is_kept):
    async with run_raw(answering(*pieces)) as raw:
        transport = new_transport(raw.port)

        answers = [await ask(transport), await ask(transport)]
        await transport.aclose()

    assert answers == [expected, expected]
    assert len(raw.connections) == (1 if is_kept else 2)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"]
)
async def test_body_without_a_length_ends_with_the_connection(head):
    async with run_raw(answering(head, b"hel", b"lo", then="close")) as raw:
        transport = new_transport(raw.port)

        answers = [await ask(transport), await ask(transport)]

    assert (answers, len(raw.connections)) == ([(200, b"hello")] * 2, 2)


async def test_body_without_a_length_that_is_reset_is_a_failure():
    async with run_raw(answering(b"HTTP/1.1 200 OK\r\n\r\n", b"hel", then="reset")) as raw:
        kind, _ = await failure(new_transport(raw.port))

    assert kind is httpx.ReadError


async def test_request_goes_out_as_it_was_given():
    body = bytes(range(256)) * 4096
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)

        for size in (0, 2, 16 * 1024, 16 * 1024 + 1, MEGABYTE):
            await ask(transport, body[:size])
        await transport.aclose()

    assert raw.requests == [(HEAD % size, body[:size]) for size in (0, 2, 16 * 1024, 16 * 1024 + 1, MEGABYTE)]
    assert len(raw.connections) == 1


async def test_refusal_that_comes_before_the_body_is_written_is_the_answer():
    async def serve(raw, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK", b"413 Too Large"))
        await asyncio.Event().wait()

    async with run_raw(serve) as raw:
        transport = new_transport(raw.port)

        answers = [await ask(transport, bytes(32 * MEGABYTE)), await ask(transport, bytes(32 * MEGABYTE))]
        await transport.aclose()

    # Half a request stands on the connection: it takes no other.
    assert (answers, len(raw.connections)) == ([(413, b"hi")] * 2, 2)


async def test_client_of_httpx_runs_on_it():
    async with run_raw(
        answering(b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-A: 2\r\ncontent-length: 2\r\n\r\nhi")
    ) as raw:
        url = f"http://localhost:{raw.port}/v1?a=b"
        async with httpx.AsyncClient(transport=new_transport(raw.port)) as client:
            response = await client.post(url, content=b"body", headers={"x-b": "3"})

    ((head, body),) = raw.requests
    assert (response.status_code, response.content, response.headers.get_list("x-a")) == (
        200,
        b"hi",
        ["1", "2"],
    )
    assert (head.split(b"\r\n")[0], body) == (b"POST /v1?a=b HTTP/1.1", b"body")
    assert b"\r\nx-b: 3\r\n" in head
    assert head.lower().count(b"content-length") == 1


async def test_answer_that_was_given_back_cannot_be_read():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        answer = await transport.send(head=HEAD % 2, body=b"{}")
        await answer.aclose()
        await answer.aclose()

        with pytest.raises(httpx.StreamClosed):
            await answer.read()
        status = await ask(transport)
        await transport.aclose()

    assert (status, len(raw.connections)) == ((200, b"hi"), 1)


# Cancellation.


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 200 OK\r\n"], [CHUNKED], [CHUNKED, b"2\r\nhi\r\n"]])
async def test_cancelled_wait_closes_the_connection(monkeypatch, pieces):
    monkeypatch.setattr(connection_pool, "CONNECTIONS_MAX", 1)
    has_ended = asyncio.Event()

    async def serve(raw, reader, writer):
        await raw.next_request(reader)
        if not has_ended.is_set():
            writer.writelines(pieces)
            await reader.read()
            has_ended.set()
        writer.write(OK)

    async with run_raw(serve) as raw:
        transport = new_transport(raw.port)
        asking = asyncio.ensure_future(ask(transport))
        await asyncio.wait([asking], timeout=0.05)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.wait_for(has_ended.wait(), 2)
        # Its place is free, and nothing that came for it is given to another.
        answer = await ask(transport)
        await transport.aclose()

    assert asking.cancelled()
    assert (answer, len(raw.connections)) == ((200, b"hi"), 2)


async def test_cancellation_that_meets_the_answer_is_heard_and_closes_the_connection():
    async with run_raw(answering(OK)) as raw:
        transport = new_transport(raw.port)
        await ask(transport)
        asking = asyncio.ensure_future(ask(transport))
        while not raw.requests[1:]:  # noqa: ASYNC110 -- the very next step of the loop counts
            await asyncio.sleep(0)
        (connection,) = raw.connections
        asking.cancel()
        await asyncio.wait([asking])
        await ask(transport)
        await transport.aclose()

    assert asking.cancelled()
    assert connection.is_closing()
    assert len(raw.connections) == 2


def test_each_exception_says_whether_the_request_was_sent():
    """Which is what gateway.upstream relies on: no type stands on both sides."""
    may_have_been_sent = (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError, AnswerError)

    assert not any(issubclass(kind, NEVER_SENT) for kind in may_have_been_sent)
