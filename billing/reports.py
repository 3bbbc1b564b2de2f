"""Sums of spend and tokens between two moments, grouped as asked; read from the rollups only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Q, QuerySet, Sum

from billing.models import CapacityHour, SpendRollup
from billing.settlements import ROLLUP_SUMS
from routing.capacity import nanousd_per_mtok, seed_nanousd_per_1k, shares

GROUPS = ("day", "hour", "key", "team", "organisation", "model", "cluster")
SPLITS = ("cluster", "team", "organisation", "model")
SPAN_MAX = timedelta(days=1100)
HOURLY_SPAN_MAX = timedelta(days=35)
SERIES_MAX = 8
OTHER = "other"
PROVIDER = "provider"
OWN = "own"
# The seed's overhead factor. The installation's own stands in the inventory, which accounts do not read.
OVERHEAD_PERMILLE = 1100

# Which columns make a group of rows, and which is shown beside its name.
_COLUMNS: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "key": (("key_id",), "key_name", "team"),
    "team": (("team",), "team", "organisation"),
    "organisation": (("organisation",), "organisation", ""),
    "model": (("model",), "model", ""),
    "cluster": (("cluster",), "cluster", "cluster_kind"),
}
_SUMS = (*ROLLUP_SUMS, "amortised_nanousd", "metered_nanousd")
_CAPACITY_SUMS = ("cost_nanousd", "capacity_tokens", "idle_nanousd")


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
    """One group's sums.

    `cost_nanousd` is what was charged: to budgets, at prices and internal rates. The bill is another sum:
    `metered_nanousd`, the part of the charges that providers bill by the token, `amortised_nanousd`, what was
    used of the own clusters' closed hours, and `idle_nanousd`, what nobody used of them. Idle belongs to
    clusters and moments; a model's is its share by use; keys, teams and organisations have none.
    """

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
    reported_cost_nanousd: int = 0
    compared_cost_nanousd: int = 0
    metered_nanousd: int = 0
    amortised_nanousd: int = 0
    idle_nanousd: int = 0
    # Of a cluster's closed hours: what they cost, and the output tokens it could have made.
    capacity_nanousd: int = 0
    capacity_tokens: int = 0

    @property
    def bill_nanousd(self) -> int:
        return self.metered_nanousd + self.amortised_nanousd + self.idle_nanousd

    @property
    def used_nanousd_per_mtok(self) -> int | None:
        """Per million output tokens, without what was idle; None where nothing is billed or was made."""
        return self._per_mtok(self.metered_nanousd + self.amortised_nanousd)

    @property
    def loaded_nanousd_per_mtok(self) -> int | None:
        """Per million output tokens, fully loaded."""
        return self._per_mtok(self.bill_nanousd)

    @property
    def seed_nanousd_per_1k(self) -> int | None:
        """The seed's formula at the speed that the hours were rated with: what a full cluster would cost."""
        if self.capacity_tokens == 0:
            return None
        return seed_nanousd_per_1k(
            cost_nanousd=self.capacity_nanousd,
            capacity_tokens=self.capacity_tokens,
            overhead_permille=OVERHEAD_PERMILLE,
        )

    def _per_mtok(self, nanousd: int) -> int | None:
        if self.output_tokens == 0 or self.bill_nanousd == 0:
            return None
        return nanousd_per_mtok(cost_nanousd=nanousd, tokens=self.output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows and their sums; the idle of the totals is of all clusters, whatever the rows are."""

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
    """The sums from the hour of `from_at` up to `to_at`, dearest first; at most four queries.

    Right to the last settled request, whether or not the hours were folded into days yet.
    Days and hours are in UTC and come in their own order. Idle is left out where only some keys, teams,
    organisations or models are asked for: it is nobody's.
    """
    if group not in GROUPS:
        raise ReportError(f"unknown group {group!r}: it is one of {', '.join(GROUPS)}")
    rollups = _rollups(from_at=from_at, to_at=to_at, only=only, is_hourly=group == "hour")
    capacity = _capacity(group=group, from_at=from_at, to_at=to_at, only=only)
    idle_nanousd = sum(one["idle_nanousd"] for one in capacity.values())
    sums = {name: Sum(name) for name in (*ROLLUP_SUMS, "amortised_nanousd")}
    metered = Sum("cost_nanousd", filter=Q(cluster_kind=PROVIDER), default=0)
    if group in ("day", "hour"):
        # Few moments come back (24 a day at most), so the days are added up here: no database
        # function for it is fast and the same everywhere.
        rows = rollups.values("starts_at").annotate(metered_nanousd=metered, **sums)
        report_rows = _rows_by_time(rows=rows, capacity=capacity, is_hourly=group == "hour")
    else:
        columns, name, detail = _COLUMNS[group]
        labels = {label: Max(column) for label, column in (("label", name), ("note", detail)) if column}
        rows = rollups.values(*columns).annotate(**labels, metered_nanousd=metered, **sums)
        found = (
            _row(row, name=row["label"], id=str(row[columns[0]]), detail=row.get("note", "")) for row in rows
        )
        report_rows = sorted(found, key=lambda row: (-row.cost_nanousd, row.name, row.id))
    if group == "cluster":
        report_rows = _with_capacity(report_rows, capacity=capacity)
    elif group == "model" and idle_nanousd > 0:
        report_rows = _with_idle_shares(report_rows, capacity=capacity, rollups=rollups)
    totals = replace(_sum(report_rows, name="Total"), idle_nanousd=idle_nanousd)
    return Report(rows=tuple(report_rows), totals=totals)


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


def _capacity(
    *, group: str, from_at: datetime, to_at: datetime, only: ReportFilter | None
) -> dict[Any, dict[str, int]]:
    """Sums of the closed hours by cluster, for days and hours by moment; one query, or none."""
    asked = _conditions(only)
    if set(asked) - {"cluster"}:
        return {}
    hours = CapacityHour.objects.filter(
        is_closed=True, starts_at__gte=_floor(from_at, is_hourly=True), starts_at__lt=to_at, **asked
    )
    column = "starts_at" if group in ("day", "hour") else "cluster"
    rows = hours.values_list(column).annotate(*(Sum(name) for name in _CAPACITY_SUMS))
    return {key: dict(zip(_CAPACITY_SUMS, map(int, sums), strict=True)) for key, *sums in rows}


def _with_capacity(
    rows: Iterable[ReportRow], *, capacity: Mapping[str, Mapping[str, int]]
) -> list[ReportRow]:
    """Clusters' rows with what their hours cost; those that nobody used come last."""
    by_name = {row.name: row for row in rows}
    for cluster in sorted(set(capacity) - set(by_name)):
        by_name[cluster] = ReportRow(name=cluster, id=cluster, detail=OWN)
    return [
        replace(
            row,
            idle_nanousd=capacity[name]["idle_nanousd"],
            capacity_nanousd=capacity[name]["cost_nanousd"],
            capacity_tokens=capacity[name]["capacity_tokens"],
        )
        if name in capacity
        else row
        for name, row in by_name.items()
    ]


def _with_idle_shares(
    rows: Iterable[ReportRow], *, capacity: Mapping[str, Mapping[str, int]], rollups: QuerySet[SpendRollup]
) -> list[ReportRow]:
    """Models' rows, each with its part of the idle of the clusters that it used, by use; one query."""
    used = rollups.filter(amortised_nanousd__gt=0).values_list("cluster", "model")
    by_cluster: dict[str, list[tuple[str, int]]] = {}
    for cluster, model, part in used.annotate(part=Sum("amortised_nanousd")).order_by("cluster", "model"):
        by_cluster.setdefault(cluster, []).append((model, int(part)))
    idle: dict[str, int] = {}
    for cluster, parts in by_cluster.items():
        total = capacity[cluster]["idle_nanousd"] if cluster in capacity else 0
        for (model, _), share in zip(
            parts, shares(total=total, weights=[part for _, part in parts]), strict=True
        ):
            idle[model] = idle.get(model, 0) + share
    return [replace(row, idle_nanousd=idle.get(row.name, 0)) for row in rows]


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


def _rows_by_time(
    *,
    rows: Iterable[Mapping[str, Any]],
    capacity: Mapping[datetime, Mapping[str, int]],
    is_hourly: bool,
) -> list[ReportRow]:
    by_moment: dict[datetime, list[ReportRow]] = {}
    for row in rows:
        moment = _floor(row["starts_at"], is_hourly=is_hourly)
        by_moment.setdefault(moment, []).append(_row(row, name=""))
    idle: dict[datetime, int] = {}
    for starts_at, sums in capacity.items():
        moment = _floor(starts_at, is_hourly=is_hourly)
        idle[moment] = idle.get(moment, 0) + sums["idle_nanousd"]
    form = "%Y-%m-%d %H:%M" if is_hourly else "%Y-%m-%d"
    return [
        replace(_sum(by_moment.get(moment, ()), name=f"{moment:{form}}"), idle_nanousd=idle.get(moment, 0))
        for moment in sorted({*by_moment, *idle})
    ]


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
