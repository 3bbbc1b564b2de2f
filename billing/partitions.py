"""Months of the ledger as partitions of PostgreSQL: made ahead, dropped whole. SQLite has none.

Reservations and usage rows lie in partitions by the time in their attempt's id. `…_default` takes what no
month is there for, so that nothing is ever refused; making that month later moves its rows over.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import OperationalError, connections, transaction

from billing.attempt_months import begun_at, first_attempt_id, month_of, next_month
from billing.ledger import ledger_transaction
from billing.ownership import LOCK_NAMESPACE
from billing.sums import LEAST_ID

logger = structlog.get_logger(__name__)

# In the order in which a settlement locks them.
TABLES = ("billing_reservation", "billing_usagerecord")
MONTHS_AHEAD = 2
# A change of partitions stops all who read or write: it waits so long for its turn, and gives way.
LOCK_WAIT_MS = 100
LOCK_TRIES = 20
LOCK_PAUSE_S = 0.5
# Rows moved out of the default partition at once: settling waits meanwhile.
MOVED_ROWS_MAX = 20_000
CHANGES_LOCK = 1

_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[0-9a-f-]{36}')\) TO \('([0-9a-f-]{36})'\)")


class PartitionBusyError(Exception):
    """Somebody uses the tables for longer than a change of partitions may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthPartition:
    """A range [first, end) of attempts, with a partition of each table; `month_end` is the time of `end`."""

    first: UUID
    end: UUID
    month_end: datetime
    names: tuple[str, ...]


def lock_changes() -> None:
    """Inside the ledger's transaction, until its end: one process at a time changes what is kept."""
    connection = connections[settings.LEDGER_DATABASE]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_NAMESPACE, CHANGES_LOCK])


def months_before(before: datetime) -> list[MonthPartition]:
    """The partitions whose attempts were all begun before a moment, oldest first."""
    if connections[settings.LEDGER_DATABASE].vendor != "postgresql":
        return []
    bounds = [_bounds_of(table) for table in TABLES]
    shared = sorted(set(bounds[0]) & set(bounds[1]), key=lambda bound: bound[1])
    found = []
    for first, end in shared:
        month_end = begun_at(end)
        if month_end is not None and month_end <= before:
            names = tuple(each[first, end] for each in bounds)
            found.append(MonthPartition(first=first, end=end, month_end=month_end, names=names))
    return found


def drop_month(partition: MonthPartition, *, pause: Callable[[float], None]) -> None:
    """Inside a transaction, as its last step; raises PartitionBusyError."""
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        _lock_tables(cursor, pause=pause)
        for name in partition.names:
            cursor.execute(f"DROP TABLE {name}")


def make_months(*, now: datetime, pause: Callable[[float], None]) -> int:
    """Make the partitions of this month and those ahead that are missing; gives back how many months."""
    if connections[settings.LEDGER_DATABASE].vendor != "postgresql":
        return 0
    made = 0
    month = month_of(now)
    for _ in range(MONTHS_AHEAD + 1):
        end = next_month(month)
        missing = [table for table in TABLES if not _is_covered(table, month=month)]
        if missing:
            with ledger_transaction(), connections[settings.LEDGER_DATABASE].cursor() as cursor:
                lock_changes()
                _lock_tables(cursor, pause=pause)
                for table in missing:
                    _make_month(cursor, table, month=month, end=end)
            made += 1
        month = end
    return made


def _make_month(cursor: Any, table: str, *, month: datetime, end: datetime) -> None:
    first_id, end_id = first_attempt_id(month=month), first_attempt_id(month=end)
    bounds = [str(first_id), str(end_id)]
    name = f"{table}_{month:%Y_%m}"
    # The names are ours, the bounds UUIDs: DDL takes no parameters.
    inside = f"attempt_id >= '{bounds[0]}' AND attempt_id < '{bounds[1]}'"
    cursor.execute(f"SELECT COUNT(*) FROM {table}_default WHERE {inside}")  # noqa: S608
    stray = cursor.fetchone()[0]
    if stray > MOVED_ROWS_MAX:
        logger.error("ledger_month_not_made", table=table, month=f"{month:%Y-%m}", rows=stray)
        return
    cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    if stray:
        cursor.execute("SELECT set_config('tollgate.pruning', 'on', true)")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {table}_default WHERE {inside} RETURNING *) "  # noqa: S608
            f"INSERT INTO {name} SELECT * FROM moved"
        )
        cursor.execute("SELECT set_config('tollgate.pruning', 'off', true)")
    cursor.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )


def _lock_tables(cursor: Any, *, pause: Callable[[float], None]) -> None:
    for _ in range(LOCK_TRIES):
        try:
            with transaction.atomic(using=settings.LEDGER_DATABASE):
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                cursor.execute(f"LOCK TABLE {', '.join(TABLES)} IN ACCESS EXCLUSIVE MODE")
        except OperationalError:
            pause(LOCK_PAUSE_S)
        else:
            return
    raise PartitionBusyError


def _is_covered(table: str, *, month: datetime) -> bool:
    wanted = first_attempt_id(month=month)
    return any(first <= wanted < end for first, end in _bounds_of(table))


def _bounds_of(table: str) -> dict[tuple[UUID, UUID], str]:
    """The partitions of a table by their bounds, without the default one."""
    sql = (
        "SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) FROM pg_inherits "
        "JOIN pg_class child ON child.oid = inhrelid WHERE inhparent = %s::regclass"
    )
    found = {}
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute(sql, [table])
        for name, expression in cursor.fetchall():
            if match := _BOUNDS.fullmatch(expression):
                first, end = match.groups()
                least = LEAST_ID if first == "MINVALUE" else UUID(first.strip("'"))
                found[least, UUID(end)] = name
    return found
