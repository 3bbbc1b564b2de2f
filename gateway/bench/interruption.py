"""Ctrl-C and SIGTERM during a run: noted at once, heard where what was started can still be ended."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class BrokenOffError(Exception):
    """Somebody asked for the end; what was started is ended on the way out."""


class Interruption:
    """While it is entered the first signal ends the load that runs, and a second raises KeyboardInterrupt.

    An exception out of a signal handler comes anywhere: between two steps of the clean-up, or in a callback
    of the event loop, which logs it and goes on.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._running: asyncio.Task[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises BrokenOffError once somebody asked."""
        if self._is_asked:
            raise BrokenOffError

    def run(self, runner: asyncio.Runner, work: Callable[[], Coroutine[None, None, Result]]) -> Result:
        """What the work gives; raises BrokenOffError where it was asked for before or meanwhile."""
        try:
            return runner.run(self._watched(work))
        except asyncio.CancelledError:
            self.check()
            raise

    async def _watched(self, work: Callable[[], Coroutine[None, None, Result]]) -> Result:
        self._running = asyncio.current_task()
        try:
            # After the line above: a signal before it found no task to cancel.
            self.check()
            return await work()
        finally:
            self._running = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        if self._running is not None:
            self._running.get_loop().call_soon_threadsafe(self._running.cancel)
