"""One connection: the same answer however its bytes are cut, and a limit on what is held of it."""

import asyncio
import itertools

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.connection import READ_AHEAD_BYTES_MAX, Connection
from tests.fakes.raw_server import OK, answering, run_raw

LOOPS = ("asyncio", "uvloop")
MEGABYTE = 1024 * 1024
HEAD = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-a: 1\r\nx-a: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
    b'9\r\ndata: {}\n\r\n1\r\n\n\r\ne;ext="x"\r\ndata: [DONE]\n\n\r\n0\r\nx-trailer: t\r\n\r\n'
)
ANSWERS = [
    OK,
    STREAM,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + STREAM,
    b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 5\r\n\r\n\r\n\r\n\n",
]


class FakeTransport:
    """Takes what is written; says whether it was told to stop."""

    def __init__(self):
        self.is_aborted = False
        self.is_reading = True
        self.unsent_bytes = self.written_bytes = 0

    def write(self, data):
        assert not self.is_aborted
        self.written_bytes += len(data)

    def is_closing(self):
        return self.is_aborted

    def get_write_buffer_size(self):
        return self.unsent_bytes

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def abort(self):
        self.is_aborted = True


def exchange(pieces):
    """All that a request sees of an answer that comes in these pieces."""

    async def run():
        connection = Connection(loop=asyncio.get_running_loop(), address="127.0.0.1")
        connection.connection_made(FakeTransport())
        asking = asyncio.ensure_future(connection.request(head=b"", body=b""))
        await asyncio.sleep(0)
        for piece in pieces:
            connection.data_received(piece)
        await asking
        body = b""
        while chunk := await connection.read():
            body += chunk
        return connection.status, connection.headers, body, connection.finish()

    return asyncio.run(run())


IN_ONE_PIECE = [exchange([answer]) for answer in ANSWERS]


def test_answers_in_one_piece_are_what_they_say():
    sse = [
        (b"content-type", b"text/event-stream"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"transfer-encoding", b"chunked"),
    ]
    events = b"data: {}\n\ndata: [DONE]\n\n"

    expected = [
        (200, [(b"content-length", b"2")], b"hi", True),
        (200, sse, events, True),
        (200, sse, events, True),
        (204, [(b"x", b"y")], b"", True),
        (400, [(b"Connection", b"close"), (b"Content-Length", b"5")], b"\r\n\r\n\n", False),
    ]
    assert expected == IN_ONE_PIECE


@settings(deadline=None, max_examples=200)
@given(
    number=st.integers(0, len(ANSWERS) - 1),
    cuts=st.lists(st.integers(0, max(map(len, ANSWERS))), max_size=12),
)
def test_answer_is_the_same_however_its_bytes_are_cut(number, cuts):
    answer = ANSWERS[number]
    bounds = [0, *sorted({cut for cut in cuts if cut < len(answer)} - {0}), len(answer)]

    pieces = [answer[start:end] for start, end in itertools.pairwise(bounds)]

    assert exchange(pieces) == IN_ONE_PIECE[number]


def test_answer_in_single_bytes_is_the_same():
    assert [exchange([bytes([byte]) for byte in answer]) for answer in ANSWERS] == IN_ONE_PIECE


@settings(deadline=None, max_examples=200)
@given(noise=st.lists(st.binary(max_size=200), max_size=4), start=st.sampled_from([b"", *ANSWERS]))
def test_any_bytes_end_in_an_answer_or_a_failure(noise, start):
    async def run():
        connection = Connection(loop=asyncio.get_running_loop(), address="127.0.0.1")
        connection.connection_made(FakeTransport())
        asking = asyncio.ensure_future(connection.request(head=b"", body=b""))
        await asyncio.sleep(0)
        for piece in (start, *noise):
            connection.data_received(piece)
        connection.connection_lost(None)
        try:
            await asking
            while await connection.read():
                pass
        except httpx.RemoteProtocolError:
            return False
        return True

    assert asyncio.run(run()) in {True, False}


async def test_bytes_that_nobody_asked_for_close_the_connection():
    loop = asyncio.get_running_loop()
    connection = Connection(loop=loop, address="127.0.0.1")
    transport = FakeTransport()
    connection.connection_made(transport)

    connection.data_received(OK)

    assert transport.is_aborted


async def begun(body=b""):
    """A connection on a fake transport, and the task of a request on it."""
    connection = Connection(loop=asyncio.get_running_loop(), address="127.0.0.1")
    transport = FakeTransport()
    connection.connection_made(transport)
    asking = asyncio.ensure_future(connection.request(head=b"", body=body))
    await asyncio.sleep(0)
    return connection, transport, asking


async def test_answer_in_front_of_the_end_of_the_body_ends_the_writing():
    connection = Connection(loop=asyncio.get_running_loop(), address="127.0.0.1")
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.pause_writing()
    asking = asyncio.ensure_future(connection.request(head=b"", body=bytes(MEGABYTE)))
    await asyncio.sleep(0)
    connection.data_received(OK)
    await asking

    # All that was written has left, and it is still half a request.
    assert (transport.written_bytes, connection.finish()) == (0, False)


async def test_connection_with_bytes_still_to_be_sent_takes_no_other_request():
    connection, transport, asking = await begun()
    transport.unsent_bytes = 1
    connection.data_received(OK)
    await asking

    assert connection.finish() is False


async def test_connection_that_is_closing_takes_no_other_request():
    connection, transport, asking = await begun()
    connection.data_received(OK)
    await asking
    transport.abort()

    assert connection.finish() is False


async def test_connection_that_was_held_back_reads_again_for_the_next_request():
    """TLS may deliver the rest of what it has deciphered after it was told to pause."""
    connection, transport, asking = await begun()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % MEGABYTE)
    connection.data_received(bytes(MEGABYTE - 1))
    was_reading = transport.is_reading
    connection.data_received(b"x")
    await asking

    assert (was_reading, connection.finish(), transport.is_reading) == (False, True, True)


async def connected(raw):
    loop = asyncio.get_running_loop()
    return await loop.create_connection(lambda: Connection(loop=loop, address=""), "127.0.0.1", raw.port)


async def test_server_that_does_not_read_holds_the_writing_back():
    async def serve(raw, reader, writer):
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with run_raw(serve) as raw:
        transport, connection = await connected(raw)
        body = bytes(32 * MEGABYTE)
        asking = asyncio.ensure_future(connection.request(head=HEAD % len(body), body=body))
        await asyncio.wait([asking], timeout=0.3)
        unsent = transport.get_write_buffer_size()
        asking.cancel()
        await asyncio.wait([asking])

    assert asking.cancelled()
    assert 0 < unsent < MEGABYTE


async def test_answer_that_nobody_reads_is_left_in_the_socket():
    has_sent = [0]

    async def serve(raw, reader, writer):
        await raw.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (24 * MEGABYTE))
        for _ in range(24 * 16):
            writer.write(bytes(MEGABYTE // 16))
            await writer.drain()
            has_sent[0] += MEGABYTE // 16

    async with run_raw(serve) as raw:
        transport, connection = await connected(raw)
        await connection.request(head=HEAD % 2, body=b"{}")
        await asyncio.sleep(0.3)
        is_reading, sent = transport.is_reading(), has_sent[0]
        held = await connection.read()
        size = len(held)
        while chunk := await connection.read():
            size += len(chunk)
        is_reusable = connection.finish()
        transport.abort()

    # One read more than the limit may have come; uvloop reads 256 KiB at once.
    assert (is_reading, sent < 16 * MEGABYTE) == (False, True)
    assert READ_AHEAD_BYTES_MAX < len(held) <= READ_AHEAD_BYTES_MAX + 256 * 1024
    assert (size, is_reusable) == (24 * MEGABYTE, True)


async def test_connection_whose_answer_was_left_unread_serves_the_next_request():
    body = bytes(READ_AHEAD_BYTES_MAX * 3)
    async with run_raw(answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)) as raw:
        transport, connection = await connected(raw)
        await connection.request(head=HEAD % 2, body=b"{}")
        while not connection.is_complete:
            await connection.read()
        assert connection.finish()

        await connection.request(head=HEAD % 2, body=b"{}")
        size = len(await connection.read())
        while chunk := await connection.read():
            size += len(chunk)
        transport.abort()

    assert (size, len(raw.connections)) == (len(body), 1)
