"""Writes settlements inside the ledger's transaction: step 3 of the protocol in billing.ledger."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct

from billing import experiment_sums
from billing.entries import Hold, Settlement
from billing.models import Reservation, SpendRollup, UsageRecord
from billing.rollup_key import rollup_id
from billing.statements import (
    additions,
    chunks,
    execute_all,
    insert_into,
    moment_value,
    placeholders,
    uuid_value,
)

DURATION_MS_MAX = 2**31 - 1  # what the columns take: 24 days
KEY_IDS_MAX = 4096


class _Settled(Struct, frozen=True, kw_only=True):
    settlement: Settlement
    windows: tuple[str, ...]
    held_nanousd: int
    charged_nanousd: int


def write_settlements(cursor: Any, connection: Any, settlements: Sequence[Settlement]) -> None:
    settled: list[_Settled] = []
    for state in (Reservation.State.SETTLED, Reservation.State.VOID):
        chosen = [s for s in settlements if s.is_void == (state == Reservation.State.VOID)]
        settled += _close_reservations(cursor, connection, chosen, state=state.value)
    if not settled:
        return
    records = [_usage_row(one) for one in settled]
    # No ON CONFLICT: a row that is there though its attempt was open is drift, and nothing may move for it.
    insert = insert_into(UsageRecord, connection=connection, suffix="")
    moves = _moves_to_spent(settled)
    # Rows, windows in id order, rollups in id order, arms' sums in id order: as every process locks them.
    row_inserts = list(insert.statements(records))
    rollups = (_rollup_row(one) for one in settled)
    statements = [
        *row_inserts,
        *moves,
        *additions(SpendRollup, rollups, connection=connection, sums=ROLLUP_SUMS),
        *experiment_sums.arm_additions(connection, records),
    ]
    counts = execute_all(cursor, connection, statements)
    assert set(counts[len(row_inserts) : len(row_inserts) + len(moves)]) <= {1}, "a window outlives its holds"


def write_tombstones(cursor: Any, connection: Any, lost: Sequence[Hold]) -> None:
    """An open reservation of nothing for each attempt that has none: a late hold of its id finds it there."""
    rows = [
        {
            "attempt_id": hold.attempt_id,
            "request_id": hold.request_id,
            "owner": hold.owner,
            "state": Reservation.State.HELD.value,
            "held_nanousd": 0,
            "windows": [],
            "attribution": hold.attribution,
            "output_tokens_checkpoint": 0,
            "created_at": hold.at,
            "updated_at": hold.at,
        }
        for hold in lost
    ]
    suffix = "ON CONFLICT (attempt_id) DO NOTHING"
    insert_into(Reservation, connection=connection, suffix=suffix).execute(cursor, rows)


def _close_reservations(
    cursor: Any, connection: Any, settlements: Sequence[Settlement], *, state: str
) -> list[_Settled]:
    """Take open reservations to their end; only those that this call closed come back."""
    # By the id as the driver writes and gives it back: making a UUID of it costs more than all else here.
    by_id = {uuid_value(one.hold.attempt_id, connection=connection): one for one in settlements}
    closed: list[_Settled] = []
    for chunk in chunks(list(by_id)):
        sql = (
            f"UPDATE billing_reservation SET state = %s, updated_at = %s "  # noqa: S608 -- constants only
            f"WHERE attempt_id IN ({placeholders(len(chunk))}) AND state IN ('held', 'in_doubt') "
            f"RETURNING attempt_id, held_nanousd, windows"
        )
        at = moment_value(by_id[chunk[0]].at, connection=connection)
        cursor.execute(sql, [state, at, *chunk])
        for attempt_id, held, windows in cursor.fetchall():
            settlement = by_id[attempt_id]
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
        # Attempts that began before an upgrade, and imported ones, say nothing of experiments.
        "experiment": "",
        "arm": "",
        **settlement.hold.attribution,
        "key_id": _key_id(settlement.hold.attribution["key_id"]),
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
        "input_audio_tokens": usage.input_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
        "is_estimate": usage.is_estimate,
        "held_nanousd": one.held_nanousd,
        "cost_nanousd": one.charged_nanousd,
        "variance_nanousd": cost - one.charged_nanousd,
        "reported_cost_nanousd": settlement.reported_cost_nanousd,
        "service_tier": settlement.service_tier,
        "ttft_ms": None if settlement.ttft_ms is None else _as_column(settlement.ttft_ms),
        "duration_ms": _as_column(settlement.duration_ms),
    }


# The same keys again and again: a UUID is made in 2 us, found in 0.1.
@lru_cache(maxsize=KEY_IDS_MAX)
def _key_id(text: str) -> UUID:
    return UUID(text)


def _as_column(duration_ms: int) -> int:
    """What ended weeks later, or after the clock was set back, must not fail its batch."""
    return min(max(duration_ms, 0), DURATION_MS_MAX)


def _moves_to_spent(settled: Sequence[_Settled]) -> list[tuple[str, Sequence[Any]]]:
    moves: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in settled:
        for window_id in one.windows:
            moves[window_id][0] += one.held_nanousd
            moves[window_id][1] += one.charged_nanousd
    sql = (
        "UPDATE billing_budgetwindow SET held_nanousd = held_nanousd - %s, "
        "spent_nanousd = spent_nanousd + %s WHERE id = %s"
    )
    return [(sql, (*moves[window_id], window_id)) for window_id in sorted(moves)]


ROLLUP_SUMS = (
    "requests",
    "failures",
    "estimates",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "cost_nanousd",
    "reported_cost_nanousd",
    "compared_cost_nanousd",
)


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
        "key_id": _key_id(names["key_id"]),
        "key_name": names["key_name"],
        "cluster_kind": names["cluster_kind"],
        "provider": names["provider"],
        "requests": 1,
        "failures": int(settlement.outcome == UsageRecord.Outcome.FAILED),
        "estimates": int(usage.is_estimate),
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        "cost_nanousd": one.charged_nanousd,
        "reported_cost_nanousd": settlement.reported_cost_nanousd or 0,
        "compared_cost_nanousd": 0 if settlement.reported_cost_nanousd is None else one.charged_nanousd,
        "amortised_nanousd": 0,
        "updated_at": settlement.at,
    }
