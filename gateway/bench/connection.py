"""A raw HTTP/1.1 client connection on httptools, which keeps times and counts and nothing else."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import httptools

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 5
TAIL_BYTES = 32
LAST_TURNS = 3
# What stands for the status where the connection broke.
BROKEN = 0


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came of one request; times are of time.monotonic. `tail`: the body's latest bytes."""

    status: int = BROKEN
    sent_s: float
    first_s: float = 0.0
    done_s: float = 0.0
    body_bytes: int = 0
    tail: bytes = b""


class Connection(asyncio.Protocol):
    """One request at a time; `on_done` is called with its Answer, also where the connection broke."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._on_done: Callable[[Connection, Answer], None]
        self._on_first: Callable[[], None] | None = None

    def send(
        self,
        request: bytes,
        on_done: "Callable[[Connection, Answer], None]",
        *,
        on_first: Callable[[], None] | None = None,
    ) -> None:
        self._on_done, self._on_first = on_done, on_first
        self._answer = Answer(sent_s=time.monotonic())
        self._transport.write(request)

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are transports in all but their class.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        self._finish(BROKEN)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if not answer.body_bytes:
            answer.first_s = time.monotonic()
            if self._on_first is not None:
                self._on_first()
        answer.body_bytes += len(body)
        answer.tail = (answer.tail + body[-TAIL_BYTES:])[-TAIL_BYTES:]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        self._finish(status)

    def _finish(self, status: int) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.status, answer.done_s = status, time.monotonic()
            self._on_done(self, answer)


async def connect(*, port: int) -> Connection:
    """Raises OSError or TimeoutError."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


async def close_all(connections: Iterable[Connection]) -> None:
    """Close them, and let the loop do what it does at the end of each."""
    for connection in connections:
        connection.close()
    for _ in range(LAST_TURNS):
        await asyncio.sleep(0)


def request_bytes(
    *, method: str = "POST", path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"content-length: {len(body)}"]
    lines += ["content-type: application/json"] if body else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
