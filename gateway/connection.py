"""One HTTP/1.1 connection to a cluster: a request at a time, and its answer in pieces as they come."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import httptools
import httpx

# Read ahead of who reads the answer; above it the socket is left alone, so that the cluster is held back.
READ_AHEAD_BYTES_MAX = 64 * 1024
# What may come without a byte of the body: a head, trailers, the extensions of chunks.
HEAD_BYTES_MAX = 64 * 1024
# Up to here head and body go out as one piece: copying is dearer than a second packet only beyond it.
JOINED_BYTES_MAX = 16 * 1024
# A larger body is written in slices, each when the one before has left.
SLICE_BYTES = 256 * 1024


class AnswerError(httpx.RemoteProtocolError):
    """What came is no answer in HTTP/1.1, or its head is too large."""


class Connection(asyncio.Protocol):
    """Made by `gateway.connection_pool`; used by one request at a time, from one task.

    1. `request` writes, and returns when the head of the answer is there: `status` and `headers`.
    2. `read` gives what has come of the body since, b"" at its end.
    3. `is_reusable` says whether another request may follow; if not, `abort` it.

    Bytes that nobody asked for close the connection, since they would pass for the next answer. A wait that
    is cancelled closes it too. Failures are httpx's: WriteError, ReadError (reset), RemoteProtocolError
    (closed too early), AnswerError; from `request` on, each means that the request may have been read.
    """

    __slots__ = (
        "_buffered_bytes",
        "_cause",
        "_chunks",
        "_fault",
        "_is_asked",
        "_is_headed",
        "_is_kept",
        "_is_lost",
        "_is_reading_paused",
        "_is_sending",
        "_is_writing_paused",
        "_loop",
        "_on_end",
        "_parser",
        "_silent_bytes",
        "_transport",
        "_waiter",
        "address",
        "headers",
        "idle_limit_s",
        "idle_since_s",
        "is_complete",
        "on_body",
        "on_lost",
        "ssl_object",
        "status",
    )

    def __init__(self, *, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.address = address
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False
        # The pool's: since when it is idle on the loop's clock, how long it may be (None: not known yet).
        self.idle_since_s = 0.0
        self.idle_limit_s: float | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self.ssl_object: ssl.SSLObject | None = None
        self._loop = loop
        self._on_end: Callable[[Connection], None] | None = None
        self._chunks: list[bytes] = []
        # The parser calls the list's own append: no Python frame for each chunk of a burst.
        self.on_body = self._chunks.append
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._cause: Exception | None = None
        self._fault = ""
        self._buffered_bytes = self._silent_bytes = 0
        self._is_asked = self._is_headed = self._is_kept = self._is_lost = False
        self._is_sending = self._is_reading_paused = self._is_writing_paused = False

    async def request(self, *, head: bytes, body: bytes) -> None:
        """Write a request and wait for the head of its answer, which may come before all is written."""
        assert not self._is_asked, "one request at a time"
        assert not self.is_closing, "the pool gives out open connections"
        self.status, self.headers, self.is_complete = 0, [], False
        self._is_asked, self._is_headed, self._is_kept = True, False, False
        self._buffered_bytes = self._silent_bytes = 0
        if len(body) <= JOINED_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            await self._write_slices(memoryview(body))
        while not self._is_headed:
            await self._wait()

    async def read(self) -> bytes:
        """What came of the body since the last call, waiting for some; b"" at its end."""
        chunks = self._chunks
        while not chunks:
            if self.is_complete:
                return b""
            await self._wait()
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered_bytes = 0
        if self._is_reading_paused and not self.is_closing:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return data

    def finish(self) -> bool:
        """End the exchange; whether another request may follow on this connection."""
        is_reusable = (
            self.is_complete
            and self._is_kept
            and not self._is_sending
            and not self.is_closing
            and self._transport.get_write_buffer_size() == 0
        )
        self._is_asked = False
        self._on_end = None
        self._chunks.clear()
        if self._is_reading_paused and is_reusable:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return is_reusable

    def await_end(self, on_end: Callable[["Connection"], None]) -> None:
        """Nobody reads any more, but the end of the message is due: call back when it has come."""
        self._on_end = on_end

    def close(self) -> None:
        """Close in good order (TLS says so to the other side)."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    @property
    def is_closing(self) -> bool:
        return self._is_lost or self._transport.is_closing()

    def extra_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream socket's; uvloop's are no subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(f"what came is no answer in HTTP/1.1 ({error})")
            return
        if self._chunks:
            self._silent_bytes = 0
            self._buffered_bytes += len(data)
            if self._buffered_bytes > READ_AHEAD_BYTES_MAX and not self.is_complete:
                self._pause_reading()
        elif not self.is_complete:
            self._silent_bytes += len(data)
            if self._silent_bytes > HEAD_BYTES_MAX:
                self._refuse(f"the head or the trailers are larger than {HEAD_BYTES_MAX} bytes")
                return
        if self._on_end is not None and self.is_complete:
            self._on_end(self)
        elif self._is_headed:
            self._wake()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._cause = error
        if self._is_headed and not self.is_complete and error is None and not self._fault:
            self.is_complete = _is_ended_by_close(self.headers)
        # The parser holds our bound methods: without it no cycle is left for the collector.
        del self._parser
        if self.on_lost is not None:
            self.on_lost(self)
        self._wake()

    # What the parser calls, beside `on_body`.

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("more came than the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come when the head is over: nobody asks for any.
        if not self._is_headed:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= httpx.codes.OK:
            self._is_headed = True

    def on_message_complete(self) -> None:
        if self._is_headed:
            self._is_kept = self._parser.should_keep_alive()
            self.is_complete = True
            return
        # 100 Continue, 103 Early Hints: the answer is still to come.
        self.headers.clear()
        self._chunks.clear()

    async def _write_slices(self, body: memoryview) -> None:
        """An answer that comes before the body is written ends the writing: it is a refusal."""
        self._is_sending = True
        for start in range(0, len(body), SLICE_BYTES):
            while self._is_writing_paused and not self._is_headed:
                await self._wait()
            if self._is_headed or self._is_lost:
                return
            self._transport.write(body[start : start + SLICE_BYTES])
        self._is_sending = False

    async def _wait(self) -> None:
        """Until something happened. Raises what ended the connection."""
        if self._is_lost or self._fault:
            raise self._error() from self._cause
        assert self._waiter is None, "one task at a time"
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except BaseException:
            # Cancelled: what is still to come of this answer must not meet another request.
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and not self.is_closing:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _refuse(self, fault: str) -> None:
        """Take nothing more from this connection. An answer that was whole before stays whole."""
        if not self.is_complete:
            self._fault = fault
        self._is_kept = False
        self.abort()
        self._wake()

    def _error(self) -> httpx.TransportError:
        if self._fault:
            return AnswerError(self._fault)
        if self._cause is None:
            return httpx.RemoteProtocolError("the connection was closed before the end of the answer")
        if isinstance(self._cause, BrokenPipeError) or self._is_sending:
            return httpx.WriteError(f"the request could not be written whole ({self._cause})")
        return httpx.ReadError(f"the connection broke ({self._cause})")


def _is_ended_by_close(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the end of the connection is that of the body (RFC 9112, section 6.3, point 8)."""
    for name, value in headers:
        if name.lower() == b"content-length":
            return False
        if name.lower() == b"transfer-encoding" and value.lower().rpartition(b",")[2].strip() == b"chunked":
            return False
    return True
