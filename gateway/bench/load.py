"""Load: so many connections that never rest (closed loop), or so many requests a second (open loop)."""

import asyncio
import gc
import itertools
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.bench.connection import BROKEN, Answer, Connection, close_all, connect
from gateway.bench.timer import Timer

# What is under way at the end of a run may take so long.
FINISH_TIMEOUT_S = 60
OPEN_CONNECTIONS_MAX = 4096
# The first request of an open loop comes so much later than its beginning.
FIRST_DUE_NS = 1_000_000
# Where no other stream begins for so long, no other will.
STALL_S = 15
STREAM_END = b"data: [DONE]\n\n"


class LoadError(Exception):
    """The load could not be put on as it was meant; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run saw. Latencies are in seconds, sorted, of the answers with status 200 alone.

    `statuses` counts all answers by status; BROKEN stands for connections that ended without one, and
    for streams without their last event.
    """

    seconds: float
    statuses: dict[int, int]
    latencies_s: tuple[float, ...]
    first_bytes_s: tuple[float, ...]
    refusals_s: tuple[float, ...]

    @property
    def answered_count(self) -> int:
        return self.statuses.get(200, 0)

    @property
    def failed_count(self) -> int:
        return sum(self.statuses.values()) - self.answered_count

    @property
    def per_s(self) -> float:
        return self.answered_count / self.seconds


class _Tally:
    """Answers as they come, cheap to add to."""

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._statuses: dict[int, int] = {}
        self._latencies_s: list[float] = []
        self._first_bytes_s: list[float] = []
        self._refusals_s: list[float] = []
        self._begun_s = time.monotonic()
        self._ended_s = self._begun_s

    def add(self, answer: Answer, *, due_s: float) -> None:
        status = answer.status
        if status == 200 and self._is_stream and not answer.tail.endswith(STREAM_END):
            status = BROKEN
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._ended_s = answer.done_s
        if status == 200:
            self._latencies_s.append(answer.done_s - due_s)
            self._first_bytes_s.append(answer.first_s - due_s)
        else:
            self._refusals_s.append(answer.done_s - due_s)

    def sample(self) -> Sample:
        return Sample(
            seconds=max(self._ended_s - self._begun_s, 1e-9),
            statuses=dict(sorted(self._statuses.items())),
            latencies_s=tuple(sorted(self._latencies_s)),
            first_bytes_s=tuple(sorted(self._first_bytes_s)),
            refusals_s=tuple(sorted(self._refusals_s)),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank, of values that are sorted; 0 of none."""
    if not values:
        return 0.0
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


async def closed_loop(
    *,
    port: int,
    requests: Sequence[bytes],
    connection_count: int,
    seconds: float,
    request_count_max: int | None = None,
    is_stream: bool = False,
) -> Sample:
    """Each connection sends its next request when it has the answer to the last, in turn from `requests`."""
    try:
        connections = [await connect(port=port) for _ in range(connection_count)]
    except (OSError, TimeoutError) as error:
        raise LoadError(f"port {port} takes no {connection_count} connections: {error}") from error
    loop = _ClosedLoop(port=port, requests=requests, is_stream=is_stream)
    try:
        with _undisturbed():
            return await loop.run(connections, seconds=seconds, request_count_max=request_count_max)
    finally:
        await close_all([*connections, *loop.replacements])


class _ClosedLoop:
    def __init__(self, *, port: int, requests: Sequence[bytes], is_stream: bool) -> None:
        self._port = port
        self._requests = itertools.cycle(requests)
        self._tally = _Tally(is_stream=is_stream)
        # For those that the server closed.
        self.replacements: list[Connection] = []
        self._left_count: float = 0
        self._deadline_s = 0.0
        self._running_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def run(
        self, connections: list[Connection], *, seconds: float, request_count_max: int | None
    ) -> Sample:
        self._left_count = request_count_max or float("inf")
        self._deadline_s = time.monotonic() + seconds
        self._running_count = len(connections)
        for connection in connections:
            self._next(connection)
        try:
            async with asyncio.timeout(seconds + FINISH_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError as error:
            message = (
                f"{self._running_count} answers on port {self._port} did not end in {FINISH_TIMEOUT_S} s"
            )
            raise LoadError(message) from error
        return self._tally.sample()

    def _next(self, connection: Connection) -> None:
        if time.monotonic() >= self._deadline_s or self._left_count <= 0:
            self._rest()
        elif connection.is_open:
            self._left_count -= 1
            connection.send(next(self._requests), self._done)
        else:
            task = asyncio.ensure_future(self._again())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _done(self, connection: Connection, answer: Answer) -> None:
        self._tally.add(answer, due_s=answer.sent_s)
        self._next(connection)

    async def _again(self) -> None:
        """In the place of a connection that the server closed. One that refuses us rests."""
        try:
            connection = await connect(port=self._port)
        except (OSError, TimeoutError):
            self._rest()
        else:
            self.replacements = [*filter(_is_open, self.replacements), connection]
            self._next(connection)

    def _rest(self) -> None:
        self._running_count -= 1
        if self._running_count == 0:
            self._ended.set()


async def open_loop(
    *, port: int, requests: Sequence[bytes], per_s: float, seconds: float, is_stream: bool = False
) -> Sample:
    """So many requests a second at even distances, whatever the answers do.

    Latencies count from the moment at which a request was due, so that an upstream that stalls is charged
    for those who wait behind it. Connections that are free are used again, others made as they are needed.
    """
    loop = _OpenLoop(port=port, requests=requests, is_stream=is_stream)
    try:
        with _undisturbed():
            return await loop.run(per_s=per_s, seconds=seconds)
    finally:
        await close_all(loop.connections)


class _OpenLoop:
    def __init__(self, *, port: int, requests: Sequence[bytes], is_stream: bool) -> None:
        self._port = port
        self._requests = itertools.cycle(requests)
        self._tally = _Tally(is_stream=is_stream)
        self.connections: set[Connection] = set()
        self._free: list[Connection] = []
        self._opening_count = 0
        self._waiting: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running_count = 0
        self._left_count = 0
        self._timer: Timer
        self._ended = asyncio.Event()

    async def run(self, *, per_s: float, seconds: float) -> Sample:
        count = max(1, round(per_s * seconds))
        # Made before, so that the first requests are like the later ones.
        try:
            for _ in range(min(count, 8)):
                connection = await connect(port=self._port)
                self.connections.add(connection)
                self._free.append(connection)
        except (OSError, TimeoutError) as error:
            raise LoadError(f"port {self._port} takes no connection: {error}") from error
        self._left_count = count
        self._timer = Timer()
        self._tick(time.monotonic_ns() + FIRST_DUE_NS, round(1e9 / per_s))
        try:
            async with asyncio.timeout(seconds + FINISH_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError as error:
            message = (
                f"{self._running_count} answers on port {self._port} did not end in {FINISH_TIMEOUT_S} s"
            )
            raise LoadError(message) from error
        finally:
            self._timer.close()
        return self._tally.sample()

    def _tick(self, due_ns: int, interval_ns: int) -> None:
        """Begin what is due at `due_ns`, and at even distances what is left."""
        self._timer.call_at(due_ns, lambda: self._begin_due(due_ns, interval_ns))

    def _begin_due(self, due_ns: int, interval_ns: int) -> None:
        self._left_count -= 1
        self._begin(due_ns / 1e9)
        if self._left_count:
            self._tick(due_ns + interval_ns, interval_ns)

    def _begin(self, due_s: float) -> None:
        self._running_count += 1
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                self._send(connection, due_s)
                return
            self.connections.discard(connection)
        if len(self.connections) + self._opening_count < OPEN_CONNECTIONS_MAX:
            self._opening_count += 1
            self._own(self._connect_and_send(due_s))
        else:
            self._waiting.append(due_s)

    def _send(self, connection: Connection, due_s: float) -> None:
        connection.send(next(self._requests), lambda used, answer: self._done(used, answer, due_s))

    def _done(self, connection: Connection, answer: Answer, due_s: float) -> None:
        self._tally.add(answer, due_s=due_s)
        if not connection.is_open:
            self.connections.discard(connection)
        elif self._waiting:
            self._send(connection, self._waiting.pop(0))
        else:
            self._free.append(connection)
        self._end_one()

    async def _connect_and_send(self, due_s: float) -> None:
        try:
            connection = await connect(port=self._port)
        except (OSError, TimeoutError):
            self._opening_count -= 1
            now_s = time.monotonic()
            self._tally.add(Answer(sent_s=now_s, done_s=now_s), due_s=due_s)
            self._end_one()
        else:
            self._opening_count -= 1
            self.connections.add(connection)
            self._send(connection, due_s)

    def _end_one(self) -> None:
        self._running_count -= 1
        if self._running_count == 0 and self._left_count == 0:
            self._ended.set()

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class HeldStreams:
    """Streams that are open at once; `begun_count` of them have sent their first bytes."""

    def __init__(self, *, port: int, request: bytes) -> None:
        self.begun_count = 0
        self._port = port
        self._request = request
        self._ended_statuses: list[int] = []
        self._connections: list[Connection] = []
        self._changed = asyncio.Event()

    async def open(self, count: int) -> None:
        """Until all have begun, or no other does. Raises LoadError where none did, or where one ended."""
        try:
            for _ in range(count):
                connection = await connect(port=self._port)
                self._connections.append(connection)
                connection.send(self._request, self._on_done, on_first=self._on_first)
            while self.begun_count < count and not self._ended_statuses:
                self._changed.clear()
                async with asyncio.timeout(STALL_S):
                    await self._changed.wait()
        except (OSError, TimeoutError):
            if not self.begun_count:
                raise LoadError(f"no stream on port {self._port} began") from None
        if self._ended_statuses:
            raise LoadError(f"a stream on port {self._port} ended with status {self._ended_statuses[0]}")

    async def close(self) -> None:
        await close_all(self._connections)

    def _on_first(self) -> None:
        self.begun_count += 1
        self._changed.set()

    def _on_done(self, _connection: Connection, answer: Answer) -> None:
        self._ended_statuses.append(answer.status)
        self._changed.set()


def _is_open(connection: Connection) -> bool:
    return connection.is_open


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without our own garbage collection, whose pauses would count as latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
