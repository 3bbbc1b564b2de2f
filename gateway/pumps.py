"""The process's own tasks that carry answers and settle them, whatever becomes of the callers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from gateway.outbox import Outbox
from gateway.patience import Patience

logger = structlog.get_logger(__name__)


class PumpSet:
    """Keeps each pump's task alive and says how it failed; ends what is left when the process goes down."""

    def __init__(self, *, detached_max: int, detached_drain_s: float) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._patiences: set[Patience] = set()
        self._detached_max = detached_max
        self._detached_drain_s = detached_drain_s
        self._detached_count = 0
        self._is_cut = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, pump: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(pump)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def track(self, patience: Patience, outbox: Outbox) -> None:
        """Let a running answer be cut, and shortened when its caller leaves."""
        self._patiences.add(patience)
        outbox.on_abandon(lambda: self._on_abandon(patience))
        if self._is_cut:
            patience.cut()

    def untrack(self, patience: Patience, outbox: Outbox) -> None:
        self._patiences.discard(patience)
        outbox.on_abandon(_nothing)
        if outbox.is_abandoned:
            self._detached_count = max(self._detached_count - 1, 0)

    def cut(self) -> None:
        """End every running answer now; each tells its caller and settles."""
        self._is_cut = True
        for patience in list(self._patiences):
            patience.cut()

    async def join(self) -> None:
        """Wait until every pump has settled."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_abandon(self, patience: Patience) -> None:
        # Read on for a moment: the usage chunk makes the row exact. Many at once are not kept.
        self._detached_count += 1
        patience.shorten(self._detached_drain_s if self._detached_count <= self._detached_max else 0.0)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("pump_failed", exc_info=task.exception())


def _nothing() -> None:
    """An answer that has ended cannot be abandoned any more."""
