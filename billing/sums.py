"""Adds up the ledger's attempts and rows as its sums should stand; the database does it, range by range."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db import connections
from django.db.models import Case, Count, F, Q, QuerySet, Sum, When
from django.db.models.functions import Coalesce, TruncHour

from billing.models import Reservation, SpendRollup, UsageRecord
from billing.rollup_key import rollup_id
from billing.settlements import ROLLUP_SUMS
from billing.statements import uuid_value

LEAST_ID = UUID(int=0)
GROUP_FIELDS = ("organisation", "team", "key_id", "model", "cluster")
OPEN_STATES = frozenset({Reservation.State.HELD.value, Reservation.State.IN_DOUBT.value})
# Each of settlements.ROLLUP_SUMS, said of the rows that it is the sum of.
ROW_SUMS: Mapping[str, Any] = {
    "requests": Count("attempt_id"),
    "failures": Count("attempt_id", filter=Q(outcome=UsageRecord.Outcome.FAILED.value)),
    "estimates": Count("attempt_id", filter=Q(is_estimate=True)),
    "input_tokens": Sum(
        F("input_fresh_tokens")
        + F("cache_read_tokens")
        + F("cache_write_5m_tokens")
        + F("cache_write_1h_tokens")
        + F("input_audio_tokens")
        + F("input_image_tokens")
    ),
    "cache_read_tokens": Sum("cache_read_tokens"),
    "output_tokens": Sum(F("output_text_tokens") + F("reasoning_tokens") + F("audio_tokens")),
    "cost_nanousd": Sum("cost_nanousd"),
    "reported_cost_nanousd": Sum(Coalesce("reported_cost_nanousd", 0)),
    "compared_cost_nanousd": Sum(
        Case(When(reported_cost_nanousd__isnull=False, then="cost_nanousd"), default=0)
    ),
}
assert tuple(ROW_SUMS) == ROLLUP_SUMS


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptGroup:
    """The attempts of a range that share a state and their windows, and the usage rows that they have."""

    state: str
    windows: tuple[str, ...]
    attempts: int
    rows: int
    held_nanousd: int
    cost_nanousd: int

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


def attempt_ranges(*, rows_max: int) -> Iterator[tuple[UUID, UUID | None]]:
    """Ranges [first, end) of at most so many attempts, that together hold every id; None: no end."""
    first = LEAST_ID
    while True:
        later = Reservation.objects.filter(attempt_id__gte=first).order_by("attempt_id")
        end = later.values_list("attempt_id", flat=True)[rows_max : rows_max + 1].first()
        yield first, end
        if end is None:
            return
        first = end


def attempt_groups(*, first: UUID, end: UUID | None) -> list[AttemptGroup]:
    """The attempts with ids in [first, end), grouped; one statement."""
    connection = connections[settings.LEDGER_DATABASE]
    bound, values = "", [uuid_value(first, connection=connection)]
    if end is not None:
        bound = "AND r.attempt_id < %s "
        values.append(uuid_value(end, connection=connection))
    # The range is said of one table alone: PostgreSQL takes any range of UUIDs for one row, and would go
    # through the other table's range for each attempt instead of looking its row up.
    sql = (
        "SELECT r.state, r.windows, COUNT(*), COUNT(u.attempt_id), SUM(r.held_nanousd), SUM(u.cost_nanousd) "  # noqa: S608 -- constants only
        "FROM billing_reservation r LEFT JOIN billing_usagerecord u ON u.attempt_id = r.attempt_id "
        f"WHERE r.attempt_id >= %s {bound}GROUP BY r.state, r.windows"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [
            AttemptGroup(
                state=state,
                windows=tuple(orjson.loads(windows) if isinstance(windows, str) else windows),
                attempts=attempts,
                rows=rows,
                held_nanousd=int(held),
                cost_nanousd=int(cost or 0),
            )
            for state, windows, attempts, rows, held, cost in cursor.fetchall()
        ]


def rows_between(*, first: UUID, end: UUID | None) -> "QuerySet[UsageRecord]":
    rows = UsageRecord.objects.filter(attempt_id__gte=first)
    return rows if end is None else rows.filter(attempt_id__lt=end)


def sums_of_hour(*, starts_at: datetime, ends_at: datetime) -> dict[str, tuple[int, ...]]:
    """What the rows that were settled in one hour add up to, by their rollups' ids, as in ROLLUP_SUMS."""
    rows = UsageRecord.objects.filter(settled_at__gte=starts_at, settled_at__lt=ends_at)
    groups = rows.order_by().values(*GROUP_FIELDS).annotate(**_named(ROW_SUMS))
    return {
        _hour_id(starts_at, *names): tuple(map(int, sums))
        for names, sums in _split(groups.values_list(*GROUP_FIELDS, *_named(ROW_SUMS)))
    }


def sums_by_hour(rows: "QuerySet[UsageRecord]") -> dict[str, dict[str, int]]:
    """What these rows add up to, by the ids of their hours' rollups."""
    hours = rows.order_by().annotate(hour=TruncHour("settled_at", tzinfo=UTC))
    groups = hours.values("hour", *GROUP_FIELDS).annotate(**_named(ROW_SUMS))
    listed = groups.values_list(*GROUP_FIELDS, *_named(ROW_SUMS), "hour")
    return {
        _hour_id(hour, *names): dict(zip(ROLLUP_SUMS, map(int, sums), strict=True))
        for names, (*sums, hour) in _split(listed.iterator())
    }


def _named(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Under names that meet no column's."""
    return {f"{name}_sum": expression for name, expression in sums.items()}


def _split(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    for row in rows:
        yield row[: len(GROUP_FIELDS)], row[len(GROUP_FIELDS) :]


def _hour_id(
    starts_at: datetime, organisation: str, team: str, key_id: UUID, model: str, cluster: str
) -> str:
    return rollup_id(
        period=SpendRollup.Period.HOUR.value,
        starts_at=starts_at,
        organisation=organisation,
        team=team,
        key_id=str(key_id),
        model=model,
        cluster=cluster,
    )
