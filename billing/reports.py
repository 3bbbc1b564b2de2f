"""Sums of spend and tokens between two moments, grouped as asked; read from the rollups only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Q, QuerySet, Sum

from billing.ledger import ROLLUP_SUMS
from billing.models import SpendRollup

GROUPS = ("day", "hour", "key", "team", "organisation", "model", "cluster")
SPLITS = ("cluster", "team", "organisation", "model")
SPAN_MAX = timedelta(days=1100)
HOURLY_SPAN_MAX = timedelta(days=35)
SERIES_MAX = 8
OTHER = "other"
PROVIDER = "provider"

# Which columns make a group of rows, and which is shown beside its name.
_COLUMNS: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "key": (("key_id",), "key_name", "team"),
    "team": (("team",), "team", "organisation"),
    "organisation": (("organisation",), "organisation", ""),
    "model": (("model",), "model", ""),
    "cluster": (("cluster",), "cluster", "cluster_kind"),
}
_SUMS = (*ROLLUP_SUMS, "metered_nanousd")


class ReportError(ValueError):
    """A report that cannot be made as asked; the message says what is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """Keeps the rows that match all that is given."""

    key_id: str | None = None
    team: str | None = None
    organisation: str | None = None
    model: str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One group's sums. `metered_nanousd` is the part of the cost that providers charge by the token."""

    name: str
    id: str = ""
    detail: str = ""
    requests: int = 0
    failures: int = 0
    estimates: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0
    metered_nanousd: int = 0

    @property
    def amortised_nanousd(self) -> int:
        """What own clusters cost at their internal rates."""
        return self.cost_nanousd - self.metered_nanousd


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    rows: tuple[ReportRow, ...]
    totals: ReportRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Spend over time: `values_nanousd[i]` are the amounts of `names[i]`, one for each of `moments`."""

    moments: tuple[datetime, ...]
    names: tuple[str, ...]
    values_nanousd: tuple[tuple[int, ...], ...]


def spend_report(
    *, group: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> Report:
    """The sums from the hour of `from_at` up to `to_at`, dearest first; two queries.

    Right to the last settled request, whether or not the hours were folded into days yet.
    Days and hours are in UTC and come in their own order.
    """
    if group not in GROUPS:
        raise ReportError(f"unknown group {group!r}: it is one of {', '.join(GROUPS)}")
    rollups = _rollups(from_at=from_at, to_at=to_at, only=only, is_hourly=group == "hour")
    sums = {name: Sum(name) for name in ROLLUP_SUMS}
    metered = Sum("cost_nanousd", filter=Q(cluster_kind=PROVIDER), default=0)
    if group in ("day", "hour"):
        # Few moments come back (24 a day at most), so the days are added up here: no database
        # function for it is fast and the same everywhere.
        rows = rollups.values("starts_at").annotate(metered_nanousd=metered, **sums)
        report_rows = _rows_by_time(rows=rows, is_hourly=group == "hour")
    else:
        columns, name, detail = _COLUMNS[group]
        labels = {label: Max(column) for label, column in (("label", name), ("note", detail)) if column}
        rows = rollups.values(*columns).annotate(**labels, metered_nanousd=metered, **sums)
        found = (
            _row(row, name=row["label"], id=str(row[columns[0]]), detail=row.get("note", "")) for row in rows
        )
        report_rows = sorted(found, key=lambda row: (-row.cost_nanousd, row.name, row.id))
    return Report(rows=tuple(report_rows), totals=_sum(report_rows, name="Total"))


def daily_series(
    *, split: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> Series:
    """Spend per UTC day, split by cluster, team, organisation or model: the dearest eight, then "other"."""
    return _series(split=split, step=timedelta(days=1), from_at=from_at, to_at=to_at, only=only)


def hourly_series(
    *, split: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> Series:
    """The same per hour, for spans of at most 35 days."""
    return _series(split=split, step=timedelta(hours=1), from_at=from_at, to_at=to_at, only=only)


def _series(
    *, split: str, step: timedelta, from_at: datetime, to_at: datetime, only: ReportFilter | None
) -> Series:
    if split not in SPLITS:
        raise ReportError(f"unknown split {split!r}: it is one of {', '.join(SPLITS)}")
    is_hourly = step < timedelta(days=1)
    rollups = _rollups(from_at=from_at, to_at=to_at, only=only, is_hourly=is_hourly)
    moments = _moments(from_at=_floor(from_at, is_hourly=is_hourly), to_at=to_at, step=step)
    amounts: dict[str, dict[datetime, int]] = {}
    for row in rollups.values("starts_at", split).annotate(cost=Sum("cost_nanousd")):
        by_moment = amounts.setdefault(row[split], {})
        moment = _floor(row["starts_at"], is_hourly=is_hourly)
        by_moment[moment] = by_moment.get(moment, 0) + int(row["cost"])
    names = sorted(amounts, key=lambda name: (-sum(amounts[name].values()), name))
    kept = names if len(names) <= SERIES_MAX + 1 else names[:SERIES_MAX]
    values = [tuple(amounts[name].get(moment, 0) for moment in moments) for name in kept]
    if rest := names[len(kept) :]:
        values.append(tuple(sum(amounts[name].get(moment, 0) for name in rest) for moment in moments))
        kept = [*kept, OTHER]
    return Series(moments=moments, names=tuple(kept), values_nanousd=tuple(values))


def _rollups(
    *, from_at: datetime, to_at: datetime, only: ReportFilter | None, is_hourly: bool
) -> QuerySet[SpendRollup]:
    """The rows that add up to the span, each attempt in exactly one of them."""
    if from_at.tzinfo is None or to_at.tzinfo is None:
        raise ReportError("the span of a report needs a time zone at both ends")
    if to_at <= from_at:
        raise ReportError("the report ends before it begins: `to` must be later than `from`")
    span_max = HOURLY_SPAN_MAX if is_hourly else SPAN_MAX
    if to_at - from_at > span_max:
        raise ReportError(f"a report of this kind spans at most {span_max.days} days")
    start = _floor(from_at, is_hourly=True)
    hours = Q(period=SpendRollup.Period.HOUR, starts_at__lt=to_at)
    folded_until = None if is_hourly else _folded_until()
    first_day = _ceiling_day(start)
    last_day = None if folded_until is None else min(folded_until, _floor(to_at, is_hourly=False))
    if last_day is None or last_day <= first_day:
        rows = hours & Q(starts_at__gte=start)
    else:
        days = Q(period=SpendRollup.Period.DAY, starts_at__gte=first_day, starts_at__lt=last_day)
        rows = days | (hours & Q(starts_at__gte=last_day))
        if start < first_day:
            rows |= Q(period=SpendRollup.Period.HOUR, starts_at__gte=start, starts_at__lt=first_day)
    return SpendRollup.objects.filter(rows, **_conditions(only))


def _folded_until() -> datetime | None:
    """The moment up to which DAY rows are complete.

    Not the last day that was folded, but two days before it: the hours of those may have grown since.
    """
    days = SpendRollup.objects.filter(period=SpendRollup.Period.DAY).order_by("-starts_at")
    latest = days.values_list("starts_at", flat=True).first()
    return None if latest is None else latest - timedelta(days=2)


def _conditions(only: ReportFilter | None) -> dict[str, str]:
    if only is None:
        return {}
    if only.key_id is not None and not _is_uuid(only.key_id):
        raise ReportError(f"{only.key_id!r} is not the id of a key: open the report from the list of keys")
    given = {
        "key_id": only.key_id,
        "team": only.team,
        "organisation": only.organisation,
        "model": only.model,
        "cluster": only.cluster,
    }
    return {column: value for column, value in given.items() if value is not None}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _rows_by_time(*, rows: Iterable[Mapping[str, Any]], is_hourly: bool) -> list[ReportRow]:
    by_moment: dict[datetime, list[ReportRow]] = {}
    for row in rows:
        moment = _floor(row["starts_at"], is_hourly=is_hourly)
        by_moment.setdefault(moment, []).append(_row(row, name=""))
    form = "%Y-%m-%d %H:%M" if is_hourly else "%Y-%m-%d"
    return [_sum(by_moment[moment], name=f"{moment:{form}}") for moment in sorted(by_moment)]


def _row(row: Mapping[str, Any], *, name: str, id: str = "", detail: str = "") -> ReportRow:  # noqa: A002
    # PostgreSQL sums big integers as decimals.
    sums: dict[str, Any] = {column: int(row[column]) for column in _SUMS}
    return ReportRow(name=name, id=id, detail=detail, **sums)


def _sum(rows: Iterable[ReportRow], *, name: str) -> ReportRow:
    totals: dict[str, Any] = dict.fromkeys(_SUMS, 0)
    for row in rows:
        for column in _SUMS:
            totals[column] += getattr(row, column)
    return ReportRow(name=name, **totals)


def _moments(*, from_at: datetime, to_at: datetime, step: timedelta) -> tuple[datetime, ...]:
    count = -((from_at - to_at) // step)
    return tuple(from_at + step * index for index in range(count))


def _floor(moment: datetime, *, is_hourly: bool) -> datetime:
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if is_hourly else hour.replace(hour=0)


def _ceiling_day(moment: datetime) -> datetime:
    day = _floor(moment, is_hourly=False)
    return day if day == moment else day + timedelta(days=1)
