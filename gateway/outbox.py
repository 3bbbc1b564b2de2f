"""Hands an answer from the pump that reads it to the caller who gets it, with back-pressure between them."""

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from gateway.errors import ClientClosedError, GatewayError, error_event

Headers = tuple[tuple[str, str], ...]


class Reply(Struct, frozen=True, kw_only=True):
    """The start of an answer: whole where `body` is bytes, a stream to follow where it is None."""

    headers: Headers
    body: bytes | None


class Outbox:
    """One answer on its way. The pump writes, the caller reads; either may leave first.

    At most `bytes_max` wait here; `put` blocks above that, which stops the reading upstream.
    `is_left`: the caller is gone, what comes is dropped. `is_abandoned`: and nobody will come back for it,
    so that the pump may end early.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        # How it begins: one of the two, once.
        self._reply: Reply | None = None
        self._error: GatewayError | None = None
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._is_closed = False
        # Who waits for a change: the caller for bytes, the pump for room.
        self._waiters: list[asyncio.Future[None]] = []
        self._on_abandon: Callable[[], None] | None = None
        self.is_left = False
        self.is_abandoned = False

    # --- The pump's side

    @property
    def is_started(self) -> bool:
        """Whether the caller has been told how the answer begins: no re-route after that."""
        return self._reply is not None or self._error is not None

    @property
    def has_room(self) -> bool:
        return self._size_bytes < self._bytes_max or self.is_left

    def start(self, reply: Reply) -> None:
        if not self.is_started:
            self._reply = reply
            self._ring()

    async def put(self, data: bytes) -> None:
        """Add bytes, waiting for room; once the caller has left they are dropped."""
        while not self.has_room:
            await self._change()
        if data and not self.is_left:
            self._chunks.append(data)
            self._size_bytes += len(data)
            self._ring()

    async def complete(self, reply: Reply, *, last: bytes = b"") -> None:
        """The answer is whole and settled: tell how it begins, if that is still due, and its last bytes."""
        self.start(reply)
        await self.put(last)

    def fail(self, error: GatewayError) -> None:
        """End with an error: as the reply if none has started, else as the stream's last event."""
        if not self.is_started:
            self._error = error
        elif not self._is_closed and not self.is_left:
            self._chunks.append(error_event(error))
        self.close()

    def close(self) -> None:
        """Nothing more comes. An answer that never began ends too: its caller must not wait for ever."""
        if not self.is_started:
            self._error = ClientClosedError("The caller left before the answer began.")
        self._is_closed = True
        self._ring()

    def on_abandon(self, callback: Callable[[], None]) -> None:
        """Call back once when the caller leaves, at once if it has."""
        self._on_abandon = callback
        if self.is_abandoned:
            callback()

    # --- The caller's side

    async def reply(self) -> Reply:
        """Wait for the start of the answer; raises the GatewayError that came instead."""
        while self._reply is None:
            if self._error is not None:
                raise self._error
            await self._change()
        return self._reply

    async def stream(self) -> AsyncIterator[bytes]:
        """The bytes as they come; what waited together leaves together."""
        while True:
            if self._chunks:
                chunks, self._chunks = self._chunks, []
                self._size_bytes = 0
                self._ring()
                yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
            elif self._is_closed or self.is_left:
                return
            else:
                await self._change()

    def abandon(self) -> None:
        """The caller left. The pump goes on by itself, to settle."""
        if self.is_abandoned:
            return
        self.is_abandoned = True
        self.leave()
        if self._on_abandon is not None:
            self._on_abandon()

    def leave(self) -> None:
        """Drop what waits and what comes: nobody reads it."""
        self.is_left = True
        self._chunks.clear()
        self._size_bytes = 0
        self._ring()

    # --- Between them

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _ring(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
