"""A few threads with a database connection each, for what a request needs of it besides the ledger's door."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, connections

from billing.entries import LedgerUnavailableError

logger = structlog.get_logger(__name__)

# What waits beyond that is refused: it would wait for seconds.
WAITING_MAX = 2_000
CLOSE_WAIT_S = 10.0

Result = TypeVar("Result")


class DatabaseThreads:
    """Each thread keeps its connection; `close` gives all of them back."""

    def __init__(self, *, count: int) -> None:
        self._count = count
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix="database")
        self._waiting_count = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run it in a thread; raises LedgerUnavailableError where the database cannot be reached.

        It is run to its end even where the caller is cancelled.
        """
        if self._waiting_count >= WAITING_MAX:
            raise LedgerUnavailableError("too much waits for the database")
        self._waiting_count += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, _connected, work)
        future.add_done_callback(self._on_done)
        try:
            return await asyncio.shield(future)
        except (DatabaseError, InterfaceError) as error:
            raise LedgerUnavailableError(f"the database cannot be reached: {error}") from error

    def close(self) -> None:
        """End the threads once their work is done. Blocks for as long as that takes."""
        # All of them at once: each closes its own.
        together = threading.Barrier(self._count)
        for _ in range(self._count):
            self._executor.submit(_disconnect, together)
        self._executor.shutdown()

    def _on_done(self, future: "asyncio.Future[Result]") -> None:
        self._waiting_count -= 1
        if not future.cancelled() and future.exception() is not None:
            logger.warning("database_work_failed", error=str(future.exception()))


def _disconnect(together: threading.Barrier) -> None:
    together.wait(CLOSE_WAIT_S)
    connections.close_all()


def _connected(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except (DatabaseError, InterfaceError):
        # It may be broken: the next one makes a new connection.
        connections.close_all()
        raise
