"""The only writer of money: holds, settlements and what follows from them, in batches.

The protocol of one attempt. Each step carries our own attempt id and may be repeated.

1. hold: before anything is sent, a Reservation is committed for an upper bound of the attempt's cost,
   and the same amount is added to `held` of each budget window it counts against. A hard window takes
   it only while spent + held + amount <= limit: one conditional UPDATE, so no two processes can both
   pass. A failover settles attempt n as void and holds attempt n+1 in the same transaction.
2. checkpoint: while the answer runs, the tokens handed out so far are noted on the Reservation.
3. settle or void: one conditional UPDATE takes the Reservation from held (or in_doubt) to its end. Only
   the caller whose UPDATE changed the row goes on, in the same transaction: it inserts the
   UsageRecord (append-only, one per attempt), moves the amount from held to spent and adds to the
   hour's rollup. At most what was held is charged; a surplus is booked as variance.
4. in_doubt: a process that died leaves Reservations held. Whoever proves its death (billing.ownership)
   marks them in_doubt; the money stays held until the attempt is settled or an operator decides.

On SQLite one file lock, fair between processes, stands in front of every write.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import connections, transaction

from billing import holds, ownership, settlements
from billing.entries import Batch, BudgetExceededError
from billing.statements import placeholders, uuid_of


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
    path = Path(settings.DATA_DIR) / "ledger.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with transaction.atomic(using=settings.LEDGER_DATABASE):
            yield
    finally:
        os.close(descriptor)


def commit(batch: Batch) -> dict[UUID, BudgetExceededError]:
    """Write the batch in one transaction; give back the holds that a hard budget refused."""
    with ledger_transaction():
        connection = connections[settings.LEDGER_DATABASE]
        with connection.cursor() as cursor:
            holds.ensure_windows(cursor, connection, batch.holds)
            holds.lock_windows(cursor, connection, batch)
            settlements.write_settlements(cursor, connection, batch.settlements)
            holds.write_checkpoints(cursor, connection, batch.checkpoints)
            return holds.write_holds(cursor, connection, batch.holds)


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
        cursor.execute(sql, [connection.ops.adapt_datetimefield_value(now), *dead])
        return int(cursor.rowcount)
