"""One thread that commits the ledger's operations in groups: each takes what queued during the last.

No fixed window: an idle ledger commits at once, a busy one in larger groups. Callers on the event
loop await a future; it resolves after the commit, once, on the loop that asked.

A hold whose COMMIT failed is refused to its caller and released by its attempt id (billing.ledger, 5), again
and again until that is committed; what is left when the process ends is marked in doubt by the next.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.utils import timezone
from msgspec import Struct
from msgspec.structs import replace

from billing import ledger
from billing.entries import Batch, BudgetExceededError, Checkpoint, Hold, LedgerUnavailableError, Settlement
from billing.ledger import LostCommitError
from billing.ownership import Owner

logger = structlog.get_logger(__name__)

# A settlement that cannot be committed is retried for so long, then its attempt stays in doubt.
SETTLE_RETRY_S = 10.0
RETRY_PAUSE_S = 0.2
# How far apart groups begin at least, by what the one before carried: under load the next gathers as much.
# From 1,000 requests/s on that goes to the longest, below it to the shortest.
INTERVAL_S_PER_ENTRY = 0.0005
INTERVAL_S_MIN, INTERVAL_S_MAX = 0.0003, 0.005
BATCH_MAX = 500
# More lost holds than fit into the queue cannot be waiting for an answer.
LOST_HOLDS_MAX = 20_000


class _Entry(Struct, kw_only=True):
    hold: Hold | None
    settlement: Settlement | None
    future: asyncio.Future[Hold | None]
    deadline_s: float  # monotonic; 0: no retry
    is_lost: bool = False  # a COMMIT that held for it failed


class GroupCommit:
    """The data plane's door to money. One per process; `start` and `stop` frame its thread.

    `clock` gives monotonic seconds, `pause` waits so many of them. `owner` is the claim to life under which
    holds are written: it is looked at before each batch with holds. None: the holds' own.
    """

    def __init__(
        self,
        *,
        owner: Owner | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        wall_clock: Callable[[], datetime] = timezone.now,  # noqa: TID251 -- a loop's edge
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._pause = pause
        self._wall_clock = wall_clock
        self._lost: dict[UUID, Hold] = {}
        self._release_at_s = 0.0
        self._next_commit_s = 0.0
        self._group_size = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._entries: list[_Entry] = []
        self._checkpoints: dict[UUID, Checkpoint] = {}
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self.commit_count = 0
        self.is_available = True

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued, then end the thread. Blocks for as long as that takes."""
        self._is_stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def hold(self, hold: Hold, *, replaced: Settlement | None = None) -> Hold:
        """Commit a hold and give it back, lowered where a clamped budget has less left.

        `replaced` settles the attempt before it in the same transaction.

        Raises BudgetExceededError, or LedgerUnavailableError when it cannot be committed now.
        """
        deadline_s = self._clock() + SETTLE_RETRY_S if replaced is not None else 0.0
        lowered = await self._enqueue(hold=hold, settlement=replaced, deadline_s=deadline_s)
        return hold if lowered is None else lowered

    async def settle(self, settlement: Settlement) -> None:
        """Commit a settlement; raises LedgerUnavailableError after SETTLE_RETRY_S of failures."""
        deadline_s = self._clock() + SETTLE_RETRY_S
        await self._enqueue(hold=None, settlement=settlement, deadline_s=deadline_s)

    def checkpoint(self, *, attempt_id: UUID, output_tokens: int, at: datetime) -> None:
        """Note progress with the next commit; the latest of an attempt wins, nobody waits."""
        with self._lock:
            self._checkpoints[attempt_id] = Checkpoint(
                attempt_id=attempt_id, output_tokens=output_tokens, at=at
            )
        self._wake.set()

    @property
    def queue_depth(self) -> int:
        return len(self._entries)

    async def _enqueue(
        self, *, hold: Hold | None, settlement: Settlement | None, deadline_s: float
    ) -> Hold | None:
        if len(self._entries) >= settings.LEDGER_QUEUE_MAX and settlement is None:
            raise LedgerUnavailableError("the ledger's queue is full")
        future: asyncio.Future[Hold | None] = asyncio.get_running_loop().create_future()
        entry = _Entry(hold=hold, settlement=settlement, future=future, deadline_s=deadline_s)
        with self._lock:
            self._entries.append(entry)
        if not self._wake.is_set():
            self._wake.set()
        # Cancelled with its caller, but the write goes on: money does not depend on who waits.
        return await future

    def _run(self) -> None:
        while True:
            self._wake.wait(RETRY_PAUSE_S if self._lost else None)
            self._keep_apart()
            self._wake.clear()
            self._release_lost()
            with self._lock:
                entries, self._entries = self._entries[:BATCH_MAX], self._entries[BATCH_MAX:]
                checkpoints, self._checkpoints = self._checkpoints, {}
            self._group_size = len(entries)
            if entries or checkpoints:
                self._commit(entries, list(checkpoints.values()))
            if self._entries:
                self._wake.set()
            elif self._is_stopping:
                self._release_at_s = 0.0
                self._release_lost()
                connections[settings.LEDGER_DATABASE].close()
                return

    def _keep_apart(self) -> None:
        """Under load, let a group gather: sixteen in a transaction cost a third each (tests.bench_ledger)."""
        now_s = self._clock()
        if now_s < self._next_commit_s and not self._is_stopping:
            self._pause(self._next_commit_s - now_s)
            now_s = self._next_commit_s
        interval_s = self._group_size * INTERVAL_S_PER_ENTRY
        self._next_commit_s = now_s + min(max(interval_s, INTERVAL_S_MIN), INTERVAL_S_MAX)

    def _commit(self, entries: list[_Entry], checkpoints: list[Checkpoint]) -> None:
        try:
            verdicts = ledger.commit(self._claimed(_batch(entries, checkpoints)))
        except Exception as error:  # noqa: BLE001 -- the thread's edge: whatever it was, callers learn of it
            self._on_failure(entries, error)
            return
        self.is_available = True
        self.commit_count += 1
        _resolve(entries, lambda entry: verdicts.get(entry.hold.attempt_id) if entry.hold else None)

    def _claimed(self, batch: Batch) -> Batch:
        """The batch with its holds under this process's present epoch."""
        if self._owner is None or not batch.holds:
            return batch
        self._owner.renew_if_lost()
        owner = self._owner.id
        batch.holds = [hold if hold.owner == owner else replace(hold, owner=owner) for hold in batch.holds]
        return batch

    def _release_lost(self) -> None:
        """Void the attempts whose hold's COMMIT failed; what fails now is tried again after a pause."""
        if not self._lost or self._clock() < self._release_at_s:
            return
        lost = list(self._lost.values())[:BATCH_MAX]
        try:
            ledger.release(lost=lost, now=self._wall_clock())
        except Exception as error:  # noqa: BLE001 -- the thread's edge: it goes on, and tries again
            logger.warning("ledger_release_failed", error=str(error), attempts=len(self._lost))
            _drop_connection()
            self._release_at_s = self._clock() + RETRY_PAUSE_S
            return
        for hold in lost:
            del self._lost[hold.attempt_id]
        logger.info("ledger_lost_holds_released", attempts=len(lost))

    def _keep_lost(self, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.hold is None or not entry.is_lost:
                continue
            if len(self._lost) >= LOST_HOLDS_MAX:
                logger.error("ledger_lost_hold_not_kept", attempt_id=str(entry.hold.attempt_id))
                continue
            self._lost[entry.hold.attempt_id] = entry.hold

    def _on_failure(self, entries: list[_Entry], error: Exception) -> None:
        """Holds fail now, settlements are tried again; a batch that one entry spoils is split."""
        logger.error("ledger_commit_failed", error=str(error), entries=len(entries), exc_info=error)
        is_outage = isinstance(error, OperationalError | InterfaceError)
        self.is_available = not is_outage
        _drop_connection()
        if len(entries) > 1 and not is_outage:
            for entry in entries:
                self._commit([entry], [])
            return
        for entry in entries:
            entry.is_lost |= isinstance(error, LostCommitError)
        unavailable = LedgerUnavailableError(f"the ledger cannot commit: {error}")
        now_s = self._clock()
        again = [entry for entry in entries if entry.deadline_s > now_s]
        given_up = [entry for entry in entries if entry.deadline_s <= now_s]
        self._keep_lost(given_up)
        _resolve(given_up, lambda _entry: unavailable)
        if again:
            self._pause(RETRY_PAUSE_S)
            with self._lock:
                self._entries = again + self._entries
            self._wake.set()


def _batch(entries: list[_Entry], checkpoints: list[Checkpoint]) -> Batch:
    return Batch(
        holds=[entry.hold for entry in entries if entry.hold is not None],
        settlements=[entry.settlement for entry in entries if entry.settlement is not None],
        checkpoints=checkpoints,
    )


def _drop_connection() -> None:
    """Forget a connection that may be broken: the next commit makes a new one."""
    try:
        connections[settings.LEDGER_DATABASE].close()
    except DatabaseError as error:
        logger.warning("ledger_connection_close_failed", error=str(error))


def _resolve(entries: list[_Entry], result_of: Callable[[_Entry], Hold | BaseException | None]) -> None:
    """Resolve the futures on their loops, one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Hold | None], Any]]] = {}
    for entry in entries:
        by_loop.setdefault(entry.future.get_loop(), []).append((entry.future, result_of(entry)))
    for loop, results in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_results, results)
        except RuntimeError:
            logger.warning("ledger_caller_gone", entries=len(results))


def _set_results(results: list[tuple[asyncio.Future[Hold | None], Hold | BaseException | None]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


__all__ = ["BudgetExceededError", "GroupCommit", "Hold", "LedgerUnavailableError", "Settlement"]
