import asyncio
import contextlib
import time

import pytest

from gateway.bench import load
from gateway.bench.connection import BROKEN
from gateway.bench.load import HeldStreams, LoadError, closed_loop, open_loop, percentile
from gateway.bench.processes import free_port

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Scripted:
    """A server whose connections answer as told: bytes, or None to close; `delay_s` before each answer."""

    def __init__(self, *, answers=(), delay_s=0.0):
        self.connection_count = 0
        self.lines = []
        self._answers, self._delay_s = list(answers), delay_s
        self._handlers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error):
        self._server.close()
        await asyncio.gather(*self._handlers)

    async def _serve(self, reader, writer):
        self._handlers.append(asyncio.current_task())
        self.connection_count += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while line := await reader.readuntil(b"\r\n\r\n"):
                self.lines.append(line.split()[1])
                await asyncio.sleep(self._delay_s)
                answer = self._answers.pop(0) if self._answers else OK
                if answer is None:
                    break
                writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_closed_loop_sends_as_many_as_it_may_and_counts_each(stub):
    sample = await closed_loop(
        port=stub.port, requests=stub.target.chat(), connection_count=4, seconds=20, request_count_max=50
    )

    assert sample.statuses == {200: 50}
    assert len(sample.latencies_s) == len(sample.first_bytes_s) == 50
    assert list(sample.latencies_s) == sorted(sample.latencies_s)


async def test_closed_loop_ends_by_time(stub):
    begun_s = time.monotonic()

    sample = await closed_loop(port=stub.port, requests=stub.target.chat(), connection_count=2, seconds=0.2)

    assert 0.2 <= time.monotonic() - begun_s < 5
    assert sample.per_s == sample.answered_count / sample.seconds


async def test_broken_and_refused_answers_are_no_answers():
    answers = [None, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", b"nonsense\r\n\r\n"]
    async with Scripted(answers=answers) as server:
        sample = await closed_loop(
            port=server.port, requests=[REQUEST], connection_count=1, seconds=20, request_count_max=5
        )

    assert sample.statuses == {BROKEN: 2, 200: 2, 503: 1}
    assert (sample.answered_count, sample.failed_count) == (2, 3)
    assert (len(sample.latencies_s), len(sample.refusals_s)) == (2, 3)
    # A connection that broke was replaced.
    assert server.connection_count == 3


async def test_stream_without_its_last_event_is_no_answer():
    async with Scripted() as server:
        sample = await closed_loop(
            port=server.port,
            requests=[REQUEST],
            connection_count=1,
            seconds=20,
            request_count_max=2,
            is_stream=True,
        )

    assert sample.statuses == {BROKEN: 2}


async def test_open_loop_counts_from_when_a_request_was_due():
    async with Scripted(delay_s=0.05) as server:
        sample = await open_loop(port=server.port, requests=[REQUEST], per_s=100, seconds=0.5)

    assert sample.statuses == {200: 50}
    assert sample.latencies_s[0] >= 0.05
    # Evenly due over half a second; it was not the answers that set the pace.
    assert 0.45 <= sample.seconds < 5


async def test_open_loop_charges_a_stall_to_who_waits_behind_it(stub):
    requests = stub.target.chat()

    async def stall():
        await asyncio.sleep(0.1)
        time.sleep(0.3)  # noqa: ASYNC251 -- the generator itself stalls: latencies must show it

    sample, _ = await asyncio.gather(
        open_loop(port=stub.port, requests=requests, per_s=100, seconds=0.5), stall()
    )

    assert sample.statuses == {200: 50}
    assert sample.latencies_s[-1] >= 0.25


async def test_open_loop_takes_turns_over_the_keys():
    requests = [f"GET /{name} HTTP/1.1\r\n\r\n".encode() for name in "abc"]

    async with Scripted() as server:
        await open_loop(port=server.port, requests=requests, per_s=200, seconds=0.03)

    assert server.lines == [b"/a", b"/b", b"/c", b"/a", b"/b", b"/c"]


async def test_nobody_there_is_said():
    with pytest.raises(LoadError, match=r"port \d+ takes no 2 connections"):
        await closed_loop(port=free_port(), requests=[REQUEST], connection_count=2, seconds=1)
    with pytest.raises(LoadError, match=r"port \d+ takes no connection"):
        await open_loop(port=free_port(), requests=[REQUEST], per_s=10, seconds=1)


async def test_held_streams_are_open_at_once(stub):
    stub.set_mode(is_held=True)

    streams = HeldStreams(port=stub.port, request=stub.target.chat(is_stream=True)[0])

    await streams.open(20)

    assert streams.begun_count == 20
    await streams.close()


async def test_as_many_are_held_as_begin(monkeypatch):
    monkeypatch.setattr(load, "STALL_S", 0.2)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with Scripted(answers=[head + b"1\r\nx\r\n", head]) as server:
        streams = HeldStreams(port=server.port, request=REQUEST)
        await streams.open(2)
        await streams.close()

    assert streams.begun_count == 1


async def test_a_stream_that_cannot_be_held_is_said():
    async with Scripted(answers=[b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]) as server:
        streams = HeldStreams(port=server.port, request=REQUEST)
        with pytest.raises(LoadError, match="ended with status 500"):
            await streams.open(1)
        await streams.close()


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 51), (99, 100), (100, 100)])
def test_percentile_is_of_the_nearest_rank(percent, value):
    assert percentile(range(1, 101), percent) == value
    assert percentile([], percent) == 0.0
