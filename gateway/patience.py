"""One movable time limit over a whole answer: to the first byte, between bytes, in all, and when cut."""

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """`async with` it around the reading; TimeoutError comes out when a limit passes.

    All limits are seconds from now, on the running loop's clock.
    """

    def __init__(self, *, first_byte_s: float, idle_s: float, total_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._idle_s = idle_s
        self._end_at = now + total_s
        self._first_byte_at = min(now + first_byte_s, self._end_at)
        self._timeout = asyncio.timeout_at(self._first_byte_at)
        self._is_entered = False
        self.is_cut = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._is_entered = True
        # It may have been shortened or cut before it began.
        self._move(self._first_byte_at)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_entered = False
        await self._timeout.__aexit__(kind, error, trace)

    def on_progress(self) -> None:
        """Something came: the next may take the idle limit."""
        self._move(self._loop.time() + self._idle_s)

    def wait_for_caller(self) -> None:
        """The caller is slow to read: that is not the upstream's silence."""
        self._move(self._end_at)

    def shorten(self, seconds: float) -> None:
        """Nobody waits for the answer any more: end it within so many seconds."""
        self._end_at = min(self._end_at, self._loop.time() + seconds)
        self._move(self._end_at)

    def cut(self) -> None:
        """End it now: the process is going down."""
        self.is_cut = True
        self.shorten(0.0)

    def _move(self, at: float) -> None:
        if self._is_entered and not self._timeout.expired():
            self._timeout.reschedule(min(at, self._end_at))
