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
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db import connections, transaction

from billing import ownership
from billing.models import BudgetWindow, Reservation, SpendRollup, UsageRecord
from billing.rollup_key import rollup_id
from billing.statements import InsertStatement, chunks, converter, placeholders
from routing.types import Usage


class LedgerError(Exception):
    """Root of what the ledger refuses."""


class BudgetExceededError(LedgerError):
    """A hard budget has no room for the hold."""

    def __init__(self, *, claim: "WindowClaim", held_nanousd: int) -> None:
        super().__init__(f"budget of {claim.owner} is spent")
        self.claim = claim
        self.needed_nanousd = held_nanousd


class LedgerUnavailableError(LedgerError):
    """The ledger could not commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClaim:
    """One budget's window that a hold counts against; `is_hard` says whether it may refuse."""

    window_id: str
    budget_id: UUID
    owner: str
    limit_nanousd: int
    is_hard: bool
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One attempt's reservation: who asked, where it goes, and the most it can cost."""

    attempt_id: UUID
    request_id: str
    owner: UUID
    held_nanousd: int
    claims: tuple[WindowClaim, ...]
    # Columns of UsageRecord known before sending: names, rate, decision.
    attribution: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How one attempt ended. `is_void`: nothing is charged."""

    hold: Hold
    usage: Usage
    cost_nanousd: int
    outcome: str
    error_code: str = ""
    ttft_ms: int | None = None
    duration_ms: int
    at: datetime
    is_void: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Tokens handed out so far in a running attempt."""

    attempt_id: UUID
    output_tokens: int
    at: datetime


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one transaction writes. Settlements come first: they free what holds may need."""

    holds: list[Hold] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


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
            _ensure_windows(cursor, connection, batch.holds)
            _lock_windows(cursor, connection, batch)
            _write_settlements(cursor, connection, batch.settlements)
            _write_checkpoints(cursor, connection, batch.checkpoints)
            return _write_holds(cursor, connection, batch.holds)


def mark_in_doubt(*, now: datetime) -> int:
    """Mark the open reservations of owners that are proven dead; give back how many."""
    # States as literals, in the words of the index reservation_open: SQLite matches no parameter with an
    # index's condition, and would read every closed reservation at each start.
    is_held = "state IN ('held', 'in_doubt') AND state = 'held'"
    connection = connections[settings.LEDGER_DATABASE]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT owner FROM billing_reservation WHERE {is_held}")  # noqa: S608 -- constants
        dead = [owner for (owner,) in cursor.fetchall() if ownership.is_proven_dead(_uuid(owner))]
    if not dead:
        return 0
    sql = (
        f"UPDATE billing_reservation SET state = 'in_doubt', updated_at = %s "  # noqa: S608 -- constants
        f"WHERE {is_held} AND owner IN ({placeholders(len(dead))})"
    )
    with ledger_transaction(), connection.cursor() as cursor:
        cursor.execute(sql, [connection.ops.adapt_datetimefield_value(now), *dead])
        return int(cursor.rowcount)


# --- Holds


def _write_holds(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, BudgetExceededError]:
    if not holds:
        return {}
    try:
        # All at once behind one savepoint: the usual case, a statement per window.
        with transaction.atomic(using=settings.LEDGER_DATABASE):
            _insert_holds(cursor, connection, holds)
            return {}
    except BudgetExceededError:
        pass
    # Some window has no room for all of them: one by one, in order, so that each that fits passes.
    refused: dict[UUID, BudgetExceededError] = {}
    for hold in holds:
        try:
            with transaction.atomic(using=settings.LEDGER_DATABASE):
                _insert_holds(cursor, connection, [hold])
        except BudgetExceededError as error:
            refused[hold.attempt_id] = error
    return refused


def _insert_holds(cursor: Any, connection: Any, holds: Sequence[Hold]) -> None:
    rows = [
        {
            "attempt_id": hold.attempt_id,
            "request_id": hold.request_id,
            "owner": hold.owner,
            "state": Reservation.State.HELD.value,
            "held_nanousd": hold.held_nanousd,
            "windows": [claim.window_id for claim in hold.claims],
            "attribution": hold.attribution,
            "output_tokens_checkpoint": 0,
            "created_at": hold.at,
            "updated_at": hold.at,
        }
        for hold in holds
    ]
    suffix = "ON CONFLICT (attempt_id) DO NOTHING RETURNING attempt_id"
    inserted = InsertStatement(Reservation, connection=connection, suffix=suffix).execute(cursor, rows)
    # A hold repeated under the same attempt id is there already and is not counted again.
    new = {_uuid(row[0]) for row in inserted}
    amounts: dict[str, int] = defaultdict(int)
    claims: dict[str, WindowClaim] = {}
    for hold in holds:
        for claim in hold.claims if hold.attempt_id in new else ():
            amounts[claim.window_id] += hold.held_nanousd
            claims[claim.window_id] = claim
    # In id order, so that two processes never lock two windows crosswise.
    for window_id in sorted(amounts):
        claim, amount = claims[window_id], amounts[window_id]
        sql = "UPDATE billing_budgetwindow SET held_nanousd = held_nanousd + %s WHERE id = %s"
        values: tuple[Any, ...] = (amount, window_id)
        if claim.is_hard:
            sql += " AND spent_nanousd + held_nanousd + %s <= %s"
            values = (*values, amount, claim.limit_nanousd)
        cursor.execute(sql, values)
        if cursor.rowcount != 1:
            raise BudgetExceededError(claim=claim, held_nanousd=amount)


def _ensure_windows(cursor: Any, connection: Any, holds: Sequence[Hold]) -> None:
    claims = {claim.window_id: claim for hold in holds for claim in hold.claims}
    if not claims:
        return
    rows = [
        {
            "id": claim.window_id,
            "budget_id": claim.budget_id,
            "starts_at": claim.starts_at,
            "ends_at": claim.ends_at,
            "spent_nanousd": 0,
            "held_nanousd": 0,
        }
        for _, claim in sorted(claims.items())
    ]
    suffix = "ON CONFLICT (id) DO NOTHING"
    InsertStatement(BudgetWindow, connection=connection, suffix=suffix).execute(cursor, rows)


def _lock_windows(cursor: Any, connection: Any, batch: Batch) -> None:
    """Lock every window that the batch touches, in id order, before anything that another process locks.

    Settlements lock windows and rollups, holds lock windows again, and one by one where one is refused:
    on PostgreSQL two processes would wait for each other. Settlements alone keep the order by themselves.
    """
    if connection.vendor == "sqlite" or not batch.holds:
        return
    holds = [*batch.holds, *(settlement.hold for settlement in batch.settlements)]
    for chunk in chunks(sorted({claim.window_id for hold in holds for claim in hold.claims})):
        sql = (
            f"SELECT id FROM billing_budgetwindow WHERE id IN ({placeholders(len(chunk))}) "  # noqa: S608 -- constants only
            f"ORDER BY id FOR NO KEY UPDATE"
        )
        cursor.execute(sql, chunk)


# --- Settlements


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    settlement: Settlement
    windows: tuple[str, ...]
    held_nanousd: int
    charged_nanousd: int


def _write_settlements(cursor: Any, connection: Any, settlements: Sequence[Settlement]) -> None:
    settled: list[_Settled] = []
    for state in (Reservation.State.SETTLED, Reservation.State.VOID):
        chosen = [s for s in settlements if s.is_void == (state == Reservation.State.VOID)]
        settled += _close_reservations(cursor, connection, chosen, state=state.value)
    if not settled:
        return
    suffix = "ON CONFLICT (attempt_id) DO NOTHING"
    records = [_usage_row(one) for one in settled]
    InsertStatement(UsageRecord, connection=connection, suffix=suffix).execute(cursor, records)
    _move_to_spent(cursor, settled)
    _add_to_rollups(cursor, connection, settled)


def _close_reservations(
    cursor: Any, connection: Any, settlements: Sequence[Settlement], *, state: str
) -> list[_Settled]:
    """Take open reservations to their end; only those that this call closed come back."""
    by_id = {settlement.hold.attempt_id: settlement for settlement in settlements}
    uuid_value = converter(Reservation._meta.get_field("attempt_id"), connection=connection)
    moment_value = connection.ops.adapt_datetimefield_value
    closed: list[_Settled] = []
    for chunk in chunks(list(by_id)):
        sql = (
            f"UPDATE billing_reservation SET state = %s, updated_at = %s "  # noqa: S608 -- constants only
            f"WHERE attempt_id IN ({placeholders(len(chunk))}) AND state IN ('held', 'in_doubt') "
            f"RETURNING attempt_id, held_nanousd, windows"
        )
        at = moment_value(by_id[chunk[0]].at)
        cursor.execute(sql, [state, at, *map(uuid_value, chunk)])
        for attempt_id, held, windows in cursor.fetchall():
            settlement = by_id[_uuid(attempt_id)]
            cost = 0 if settlement.is_void else settlement.cost_nanousd
            closed.append(
                _Settled(
                    settlement=settlement,
                    windows=tuple(orjson.loads(windows) if isinstance(windows, str) else windows),
                    held_nanousd=held,
                    charged_nanousd=min(cost, held),
                )
            )
    return closed


def _usage_row(one: _Settled) -> dict[str, Any]:
    settlement, usage = one.settlement, one.settlement.usage
    cost = 0 if settlement.is_void else settlement.cost_nanousd
    return {
        **settlement.hold.attribution,
        "key_id": UUID(settlement.hold.attribution["key_id"]),
        "attempt_id": settlement.hold.attempt_id,
        "request_id": settlement.hold.request_id,
        "started_at": settlement.hold.at,
        "settled_at": settlement.at,
        "outcome": settlement.outcome,
        "error_code": settlement.error_code,
        "input_fresh_tokens": usage.input_fresh_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_5m_tokens": usage.cache_write_5m_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "output_text_tokens": usage.output_text_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": usage.audio_tokens,
        "is_estimate": usage.is_estimate,
        "held_nanousd": one.held_nanousd,
        "cost_nanousd": one.charged_nanousd,
        "variance_nanousd": cost - one.charged_nanousd,
        "ttft_ms": settlement.ttft_ms,
        "duration_ms": settlement.duration_ms,
    }


def _move_to_spent(cursor: Any, settled: Sequence[_Settled]) -> None:
    moves: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in settled:
        for window_id in one.windows:
            moves[window_id][0] += one.held_nanousd
            moves[window_id][1] += one.charged_nanousd
    sql = (
        "UPDATE billing_budgetwindow SET held_nanousd = held_nanousd - %s, "
        "spent_nanousd = spent_nanousd + %s WHERE id = %s"
    )
    for window_id in sorted(moves):
        held, charged = moves[window_id]
        cursor.execute(sql, (held, charged, window_id))
        assert cursor.rowcount == 1, "a window outlives the holds that count against it"


ROLLUP_SUMS = (
    "requests",
    "failures",
    "estimates",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "cost_nanousd",
)


def _add_to_rollups(cursor: Any, connection: Any, settled: Sequence[_Settled]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for one in settled:
        addition = _rollup_row(one)
        row = rows.setdefault(addition["id"], addition)
        if row is not addition:
            for name in ROLLUP_SUMS:
                row[name] += addition[name]
    sums = ", ".join(f"{name} = billing_spendrollup.{name} + excluded.{name}" for name in ROLLUP_SUMS)
    suffix = f"ON CONFLICT (id) DO UPDATE SET {sums}, updated_at = excluded.updated_at"
    ordered = [rows[row_id] for row_id in sorted(rows)]
    InsertStatement(SpendRollup, connection=connection, suffix=suffix).execute(cursor, ordered)


def _rollup_row(one: _Settled) -> dict[str, Any]:
    settlement, names = one.settlement, one.settlement.hold.attribution
    starts_at = settlement.at.replace(minute=0, second=0, microsecond=0)
    group = {
        "period": SpendRollup.Period.HOUR.value,
        "starts_at": starts_at,
        "organisation": names["organisation"],
        "team": names["team"],
        "key_id": names["key_id"],
        "model": names["model"],
        "cluster": names["cluster"],
    }
    usage = settlement.usage
    return {
        **group,
        "id": rollup_id(**group),
        "key_id": UUID(names["key_id"]),
        "key_name": names["key_name"],
        "cluster_kind": names["cluster_kind"],
        "requests": 1,
        "failures": int(settlement.outcome == UsageRecord.Outcome.FAILED),
        "estimates": int(usage.is_estimate),
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        "cost_nanousd": one.charged_nanousd,
        "amortised_nanousd": 0,
        "updated_at": settlement.at,
    }


def _write_checkpoints(cursor: Any, connection: Any, checkpoints: Sequence[Checkpoint]) -> None:
    latest = {checkpoint.attempt_id: checkpoint for checkpoint in checkpoints}
    uuid_value = converter(Reservation._meta.get_field("attempt_id"), connection=connection)
    sql = (
        "UPDATE billing_reservation SET output_tokens_checkpoint = %s, updated_at = %s "
        "WHERE attempt_id = %s AND state = 'held'"
    )
    moment_value = connection.ops.adapt_datetimefield_value
    for checkpoint in latest.values():
        at = moment_value(checkpoint.at)
        cursor.execute(sql, (checkpoint.output_tokens, at, uuid_value(checkpoint.attempt_id)))


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(hex=value)
