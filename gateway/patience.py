"""One movable time limit over a whole answer: to the first byte, between bytes, in all, and when cut."""

import asyncio
from types import TracebackType
from typing import Any, Self

# A loop that counts milliseconds may ring so much early.
EARLY_S_MAX = 0.001


class Patience:
    """`async with` it around the reading; TimeoutError comes out when a limit passes.

    All limits are seconds from now, on the running loop's clock. A limit that moves away, as with each chunk
    of a stream, is a number only: the timer that was set before looks at it when it rings.
    """

    def __init__(self, *, first_byte_s: float, idle_s: float, total_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._idle_s = idle_s
        self._end_at = now + total_s
        self._ends_at = min(now + first_byte_s, self._end_at)
        self._task: asyncio.Task[Any] | None = None
        self._cancelling_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._is_over = False
        self.is_cut = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling_count = task, task.cancelling()
        # It may have been shortened or cut before it began.
        self._set_timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # As asyncio.timeout does: another's cancellation that came with ours stays one.
        if self._is_over and task.uncancel() <= self._cancelling_count and kind is asyncio.CancelledError:
            raise TimeoutError from error

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
        self._ends_at = min(at, self._end_at)
        if self._timer is not None and self._ends_at < self._rings_at:
            self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._rings_at = self._ends_at
        self._timer = self._loop.call_at(self._rings_at, self._on_ring)

    def _on_ring(self) -> None:
        if self._loop.time() + EARLY_S_MAX < self._ends_at:
            self._set_timer()
            return
        self._timer = None
        self._is_over = True
        assert self._task is not None
        self._task.cancel()
