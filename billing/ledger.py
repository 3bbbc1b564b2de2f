"""The only writer of money: holds, settlements and what follows from them, in batches.

The protocol of one attempt. Each step carries our own attempt id and may be repeated.

1. hold: before anything is sent, a Reservation is committed for an upper bound of the attempt's cost,
   and the same amount is added to `held` of each budget window it counts against. A hard window takes
   it only while spent + held + amount <= limit: one conditional UPDATE, so no two processes can both
   pass. Where a clamped one has less left, the hold is lowered to that, and so is the answer's length.
   A failover settles attempt n as void and holds attempt n+1 in the same transaction.
2. checkpoint: while the answer runs, the tokens handed out so far are noted on the Reservation.
3. settle or void: one conditional UPDATE takes the Reservation from held (or in_doubt) to its end. Only
   the caller whose UPDATE changed the row goes on, in the same transaction: it inserts the
   UsageRecord (append-only, one per attempt), moves the amount from held to spent and adds to the
   hour's rollup. At most what was held is charged; a surplus is booked as variance.
4. in_doubt: a process that died leaves Reservations held. Whoever proves its death (billing.ownership)
   marks them in_doubt; the money stays held until the attempt is settled or an operator decides.
5. release: a hold whose COMMIT failed may or may not be there, or may yet arrive. Its caller is refused, and
   the attempt is voided under its id: an empty Reservation is inserted where there is none, which waits for
   one that is being committed and shuts out one that comes later, and then it is closed as in step 3.

On SQLite one file lock, fair between processes, stands in front of every write.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, transaction

from billing import holds, ownership, settlements
from billing.databases import ledger_file
from billing.entries import Batch, Hold, Settlement, Verdict
from billing.statements import DriverCursor, moment_value, placeholders, uuid_of
from routing.types import Usage

RELEASE_LOCK_WAIT_MS = 1_000
LOCK_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC


class LostCommitError(OperationalError):
    """The COMMIT itself failed: nobody knows whether it counts."""


@contextmanager
def ledger_transaction() -> Iterator[None]:
    """A transaction on the ledger's database; on SQLite behind a file lock that queues fairly.

    SQLite's own busy handler sleeps and starves: four writers at once were seen to wait 2-3 s.
    """
    connection = connections[settings.LEDGER_DATABASE]
    if connection.vendor != "sqlite":
        with transaction.atomic(using=settings.LEDGER_DATABASE):
            yield
        return
    descriptor = os.open(ledger_file().with_suffix(".lock"), LOCK_FLAGS, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with transaction.atomic(using=settings.LEDGER_DATABASE):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def ledger_snapshot() -> Iterator[None]:
    """One state of the ledger for many queries; writers go on meanwhile. Inside a transaction: that one's."""
    connection = connections[settings.LEDGER_DATABASE]
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "sqlite":
        # By hand: Django's own transactions take the write lock at once.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
    else:
        with transaction.atomic(using=settings.LEDGER_DATABASE), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield


def commit(batch: Batch) -> dict[UUID, Verdict]:
    """Write the batch in one transaction; give back the holds that a budget refused, or lowered.

    Raises LostCommitError where the batch was written and its COMMIT failed.
    """
    is_written = False
    try:
        with ledger_transaction():
            connection = connections[settings.LEDGER_DATABASE]
            if connection.vendor == "sqlite":
                with connection.wrap_database_errors:
                    refused = _write(DriverCursor(connection), connection, batch)
            else:
                with connection.cursor() as cursor:
                    refused = _write(cursor, connection, batch)
            is_written = True
    except (OperationalError, InterfaceError) as error:
        if is_written:
            raise LostCommitError(str(error)) from error
        raise
    return refused


def release(*, lost: Sequence[Hold], now: datetime) -> None:
    """Void attempts whose hold got no answer, whether it was committed, is being committed, or never was."""
    connection = connections[settings.LEDGER_DATABASE]
    ended = [_never_sent(hold, now=now) for hold in lost]
    with ledger_transaction(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # One that is being committed may take long: others wait for this thread.
            cursor.execute(f"SET LOCAL lock_timeout = {RELEASE_LOCK_WAIT_MS}")
        settlements.write_tombstones(cursor, connection, lost)
        settlements.write_settlements(cursor, connection, ended)


def mark_in_doubt(*, now: datetime) -> int:
    """Mark the open reservations of owners that are proven dead; give back how many."""
    # States as literals, in the words of the index reservation_open: SQLite matches no parameter with an
    # index's condition, and would read every closed reservation at each start.
    is_held = "state IN ('held', 'in_doubt') AND state = 'held'"
    connection = connections[settings.LEDGER_DATABASE]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT owner FROM billing_reservation WHERE {is_held}")  # noqa: S608 -- constants
        dead = [owner for (owner,) in cursor.fetchall() if ownership.is_proven_dead(uuid_of(owner))]
    if not dead:
        return 0
    sql = (
        f"UPDATE billing_reservation SET state = 'in_doubt', updated_at = %s "  # noqa: S608 -- constants
        f"WHERE {is_held} AND owner IN ({placeholders(len(dead))})"
    )
    with ledger_transaction(), connection.cursor() as cursor:
        cursor.execute(sql, [moment_value(now, connection=connection), *dead])
        return int(cursor.rowcount)


def _write(cursor: Any, connection: Any, batch: Batch) -> dict[UUID, Verdict]:
    holds.lock_windows(cursor, connection, batch)
    settlements.write_settlements(cursor, connection, batch.settlements)
    holds.write_checkpoints(cursor, connection, batch.checkpoints)
    # A hold that is in the batch twice is taken once.
    once = {hold.attempt_id: hold for hold in batch.holds}
    return holds.write_holds(cursor, connection, list(once.values()))


def _never_sent(hold: Hold, *, now: datetime) -> Settlement:
    return Settlement(
        hold=hold,
        usage=Usage(),
        cost_nanousd=0,
        outcome="failed",
        error_code="ledger_unavailable",
        duration_ms=int((now - hold.at).total_seconds() * 1000),
        at=now,
        is_void=True,
    )
