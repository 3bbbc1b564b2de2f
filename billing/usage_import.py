"""Takes usage from a CSV file into the ledger: all of it or nothing, and each line once however often.

1. The whole file is read and checked; a bad line refuses it, and bad lines are named by their numbers.
2. In one transaction of the ledger each attempt is held and settled as a request is, with the same
   statements, but against no budget. An attempt that the ledger has already is left as it is; where it
   says something else, or is still running, nothing is written.
3. The own clusters' hours and the days that the lines fall into are closed and folded anew.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson
from django.conf import settings
from django.db import connections

from billing import capacity, holds, rollups, settlements
from billing.entries import Hold, Settlement
from billing.ledger import ledger_transaction
from billing.models import Reservation, UsageRecord
from billing.settled_rows import pruned_before, usage_of
from billing.usage_files import COLUMNS, CellError, Column
from routing.money import NANOUSD_MAX
from routing.types import TOKEN_BUCKETS

REQUIRED = ("settled_at", "model", "cost_usd")
# They are read into memory, then one transaction keeps the ledger: some seconds, in which requests wait on
# SQLite.
LINES_MAX = 50_000
LINES_AT_ONCE = 500
ERRORS_SHOWN_MAX = 20
CLOSING_RUNS_MAX = 100
IMPORTED = "imported"
NAMESPACE = UUID("6b1b6a0e-7a3c-5d5e-9a34-3f0c1b7f2d11")
OWNER = uuid5(NAMESPACE, "owner")
OPEN_STATES = (Reservation.State.HELD, Reservation.State.IN_DOUBT)
NAME_FIELDS = ("organisation", "team", "key_name", "model", "served_model", "cluster")


class UsageFileError(ValueError):
    """A file that cannot be imported; the message names the lines and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageImport:
    """What came of a file: `added_count` lines are new to the ledger, the others were there already."""

    line_count: int
    added_count: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    number: int
    settlement: Settlement


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What one pass over the file has seen so far."""

    now: datetime
    # Attempts that began before were pruned: whether they were here, nobody can tell.
    pruned_before: datetime | None = field(default_factory=pruned_before)
    derived: Counter[UUID] = field(default_factory=Counter)
    given: dict[UUID, int] = field(default_factory=dict)


def import_usage(*, path: Path, now: datetime, is_dry_run: bool) -> UsageImport:
    """Raises UsageFileError, and then nothing was written. A dry run checks all and writes nothing."""
    lines = _read(path, reading=_Reading(now=now))
    added_count = 0
    with ledger_transaction():
        connection = connections[settings.LEDGER_DATABASE]
        with connection.cursor() as cursor:
            for start in range(0, len(lines), LINES_AT_ONCE):
                new = _new_settlements(lines[start : start + LINES_AT_ONCE])
                added_count += len(new)
                if not is_dry_run:
                    holds.write_holds(cursor, connection, [settlement.hold for settlement in new])
                    settlements.write_settlements(cursor, connection, new)
    if lines and not is_dry_run:
        moments = {line.settlement.at for line in lines}
        _fold(sorted({at.replace(hour=0, minute=0, second=0, microsecond=0) for at in moments}), now=now)
    charged = (min(line.settlement.cost_nanousd, line.settlement.hold.held_nanousd) for line in lines)
    return UsageImport(line_count=len(lines), added_count=added_count, cost_nanousd=sum(charged))


def _read(path: Path, *, reading: _Reading) -> list[_Line]:
    """The file's lines as settlements, all of them good."""
    lines: list[_Line] = []
    errors: list[str] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = _header(next(reader, []))
            for cells in reader:
                if not any(cells):
                    continue
                number = reader.line_num
                try:
                    settlement = _settlement(columns=columns, cells=cells, reading=reading, number=number)
                except CellError as error:
                    errors.append(f"line {number}: {error}")
                    if len(errors) == ERRORS_SHOWN_MAX:
                        break
                    continue
                lines.append(_Line(number=number, settlement=settlement))
                if len(lines) > LINES_MAX:
                    raise UsageFileError(f"the file has more than {LINES_MAX:,} lines: split it")
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageFileError(f"line {reader.line_num + 1} is no CSV in UTF-8: {error}") from error
    if errors:
        raise UsageFileError("\n".join([*errors, "Nothing was imported: correct these lines and try again."]))
    return lines


def _header(names: list[str]) -> list[Column]:
    known = {column.name: column for column in COLUMNS}
    for name in names:
        if name not in known:
            raise UsageFileError(
                f"line 1: unknown column {name[:40]!r}: leave it out, or name it one of "
                f"{', '.join(column.name for column in COLUMNS)}"
            )
        if names.count(name) > 1:
            raise UsageFileError(f"line 1: the column {name} is there twice")
    if missing := [name for name in REQUIRED if name not in names]:
        raise UsageFileError(
            f"line 1: the column {missing[0]} is missing; {', '.join(REQUIRED)} must be there"
        )
    return [known[name] for name in names]


def _settlement(*, columns: list[Column], cells: list[str], reading: _Reading, number: int) -> Settlement:
    if len(cells) != len(columns):
        raise CellError(f"it has {len(cells)} cells, the header {len(columns)}")
    given: dict[str, str] = {}
    row: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        if cell:
            try:
                row[column.field] = column.read(cell)
            except CellError as error:
                raise CellError(f"{column.name}: {error}") from error
            given[column.name] = cell
        elif column.name in REQUIRED:
            raise CellError(f"{column.name} is empty")
    attempt_id = _attempt_id(row=row, given=given, reading=reading, number=number)
    filled = _filled(row)
    _check_row(filled, reading=reading)
    return _as_settlement(filled, attempt_id=attempt_id)


def _attempt_id(*, row: Mapping[str, Any], given: Mapping[str, str], reading: _Reading, number: int) -> UUID:
    """The line's own, else one made of all that it says and of how many said the same before it."""
    attempt_id: UUID | None = row.get("attempt_id")
    if attempt_id is not None:
        if attempt_id in reading.given:
            raise CellError(f"attempt_id: line {reading.given[attempt_id]} has the same")
        reading.given[attempt_id] = number
        return attempt_id
    content = uuid5(NAMESPACE, orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode())
    reading.derived[content] += 1
    return uuid5(content, str(reading.derived[content]))


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with what a file from elsewhere may leave out."""
    duration_ms = row.get("duration_ms", 0)
    owner = {name: row.get(name, IMPORTED) for name in ("organisation", "team", "key_name")}
    return {
        "request_id": IMPORTED,
        "attempt_number": 1,
        "started_at": row["settled_at"] - timedelta(milliseconds=duration_ms),
        **owner,
        "key_id": _key_id(**owner),
        "served_model": row["model"],
        "cluster": row.get("provider") or IMPORTED,
        "cluster_kind": "provider",
        "provider": "",
        "surface": "chat",
        "is_stream": False,
        "outcome": UsageRecord.Outcome.OK.value,
        "error_code": "",
        **dict.fromkeys(TOKEN_BUCKETS, 0),
        "is_estimate": False,
        "held_nanousd": row["cost_nanousd"],
        "variance_nanousd": 0,
        "reported_cost_nanousd": None,
        "service_tier": "",
        "ttft_ms": None,
        "duration_ms": duration_ms,
        "experiment": "",
        "arm": "",
        "rate": {"source": IMPORTED},
        **row,
    }


@lru_cache(maxsize=1_000)
def _key_id(*, organisation: str, team: str, key_name: str) -> UUID:
    """Of a key that is known by its names alone."""
    return uuid5(NAMESPACE, orjson.dumps([organisation, team, key_name]).decode())


def _check_row(row: Mapping[str, Any], *, reading: _Reading) -> None:
    for name in NAME_FIELDS:
        if not row[name]:
            raise CellError(f"{name} is empty")
    if reading.pruned_before is not None and row["started_at"] < reading.pruned_before:
        raise CellError(
            f"it began before {reading.pruned_before.isoformat()}, and what began before that was pruned: "
            f"nobody can tell whether it was counted; leave it out"
        )
    if row["settled_at"] > reading.now:
        raise CellError(f"settled_at: {row['settled_at'].isoformat()} is not over yet")
    if row["started_at"] > row["settled_at"]:
        raise CellError("started_at is later than settled_at")
    if row["cost_nanousd"] > row["held_nanousd"]:
        raise CellError("cost_usd is above held_usd: an attempt is never charged more than was held for it")
    if row["variance_nanousd"] and row["cost_nanousd"] != row["held_nanousd"]:
        raise CellError("variance_usd is what cost more than held_usd: there cost_usd equals held_usd")
    if row["cost_nanousd"] + row["variance_nanousd"] > NANOUSD_MAX:
        raise CellError("cost_usd and variance_usd are more than the ledger can count")


def _as_settlement(row: Mapping[str, Any], *, attempt_id: UUID) -> Settlement:
    usage = usage_of(row, is_estimate=row["is_estimate"])
    attribution = {name: row[name] for name in _ATTRIBUTION}
    hold = Hold(
        attempt_id=attempt_id,
        request_id=row["request_id"],
        owner=OWNER,
        held_nanousd=row["held_nanousd"],
        # No budget: what was spent elsewhere, or before, takes nothing from those of today.
        claims=(),
        attribution={**attribution, "key_id": str(row["key_id"]), "decision": {"policy": IMPORTED}},
        at=row["started_at"],
    )
    cost_nanousd = row["cost_nanousd"] + row["variance_nanousd"]
    return Settlement(
        hold=hold,
        usage=usage,
        cost_nanousd=cost_nanousd,
        outcome=row["outcome"],
        error_code=row["error_code"],
        ttft_ms=row["ttft_ms"],
        duration_ms=row["duration_ms"],
        at=row["settled_at"],
        is_void=cost_nanousd == 0 and usage.input_tokens + usage.output_tokens == 0,
        reported_cost_nanousd=row["reported_cost_nanousd"],
        service_tier=row["service_tier"],
    )


_ATTRIBUTION = (
    "attempt_number",
    "organisation",
    "team",
    "key_name",
    "model",
    "served_model",
    "cluster",
    "cluster_kind",
    "provider",
    "surface",
    "is_stream",
    "experiment",
    "arm",
    "rate",
)


def _new_settlements(lines: list[_Line]) -> list[Settlement]:
    """Of lines that the ledger does not have; raises where it has one that runs or says something else."""
    by_id = {line.settlement.hold.attempt_id: line for line in lines}
    states = dict(
        Reservation.objects.filter(attempt_id__in=by_id).values_list("attempt_id", "state").order_by()
    )
    rows = UsageRecord.objects.filter(attempt_id__in=by_id).order_by()
    recorded = {attempt_id: said for attempt_id, *said in rows.values_list("attempt_id", *_COMPARED)}
    for attempt_id, line in by_id.items():
        if states.get(attempt_id) in OPEN_STATES:
            raise UsageFileError(
                f"line {line.number}: the attempt {attempt_id} is still open here. {NOTHING}"
            )
        if attempt_id in recorded and recorded[attempt_id] != _said(line.settlement):
            raise UsageFileError(
                f"line {line.number}: the ledger has the attempt {attempt_id} with another cost, model, key "
                f"or moment; rows are never changed: leave the line out. {NOTHING}"
            )
    known = {*states, *recorded}
    return [line.settlement for attempt_id, line in by_id.items() if attempt_id not in known]


NOTHING = "Nothing was imported."
_COMPARED = ("settled_at", "model", "key_id", "cost_nanousd")


def _said(settlement: Settlement) -> list[Any]:
    names = settlement.hold.attribution
    charged = min(settlement.cost_nanousd, settlement.hold.held_nanousd)
    return [settlement.at, names["model"], UUID(names["key_id"]), charged]


def _fold(days: list[datetime], *, now: datetime) -> None:
    """Close and fold anew what the lines fall into; one run of either does a bounded piece of it."""
    for _ in range(CLOSING_RUNS_MAX):
        if capacity.close_hours(now=now, again_from=days[0]) == 0:
            break
    reached = days[0]
    for day in days:
        if day >= reached:
            rollups.fold_days(now=now, again_from=day)
            reached = day + timedelta(days=rollups.DAYS_PER_RUN_MAX)
