"""Sums of spend and tokens between two moments, grouped as asked; read from the rollups only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import F, Max, Q, Sum

from billing.models import CapacityHour
from billing.rollup_rows import (
    MomentText,
    ReportError,
    ReportFilter,
    conditions,
    floor,
    moment_text,
    moments_of,
    span_pieces,
)
from billing.settlements import ROLLUP_SUMS
from routing.capacity import nanousd_per_mtok, seed_nanousd_per_1k, shares

GROUPS = ("day", "hour", "key", "team", "organisation", "model", "cluster")
BY_TIME = ("day", "hour")
SPLITS = ("cluster", "team", "organisation", "model")
SERIES_MAX = 8
OTHER = "other"
PROVIDER = "provider"
OWN = "own"
# The seed's overhead factor, for hours that did not keep the router's.
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
_SEED_COST = "seed_permille_nanousd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One group's sums.

    `cost_nanousd` is what was charged: to budgets, at prices and internal rates. The bill is another sum:
    `metered_nanousd`, the part of the charges that providers bill by the token, `amortised_nanousd`, what was
    used of the own clusters' closed hours, and `idle_nanousd`, what nobody used of them. Idle belongs to
    clusters and moments; a model's is its share by use; keys, teams and organisations have none.
    `reported_cost_nanousd` is what upstreams said that their answers cost them, and `compared_cost_nanousd`
    what we charged for the same answers; most say nothing.
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
    # Each hour's cost times the overhead factor of its time, in thousandths.
    seed_permille_nanousd: int = 0

    @property
    def bill_nanousd(self) -> int:
        return self.metered_nanousd + self.amortised_nanousd + self.idle_nanousd

    @property
    def is_compared(self) -> bool:
        """Whether any upstream reported a cost of its own."""
        return self.reported_cost_nanousd > 0 or self.compared_cost_nanousd > 0

    @property
    def reported_difference_nanousd(self) -> int:
        """How much more the upstreams say than we charged; below 0: less."""
        return self.reported_cost_nanousd - self.compared_cost_nanousd

    @property
    def used_nanousd_per_mtok(self) -> int | None:
        """Per million output tokens, without what was idle; None where nothing is billed or was made.

        Per million input tokens where no output token was made at all (embeddings), as hours are split.
        """
        return self._per_mtok(self.metered_nanousd + self.amortised_nanousd)

    @property
    def loaded_nanousd_per_mtok(self) -> int | None:
        """The same fully loaded: with what was idle."""
        return self._per_mtok(self.bill_nanousd)

    @property
    def seed_nanousd_per_1k(self) -> int | None:
        """The seed's formula at the speed that the hours were rated with: what a full cluster would cost."""
        if self.capacity_tokens == 0:
            return None
        return seed_nanousd_per_1k(
            cost_nanousd=self.seed_permille_nanousd,
            capacity_tokens=self.capacity_tokens,
            # It is in the cost already.
            overhead_permille=1,
        )

    def _per_mtok(self, nanousd: int) -> int | None:
        tokens = self.output_tokens or self.input_tokens
        if tokens == 0 or self.bill_nanousd == 0:
            return None
        return nanousd_per_mtok(cost_nanousd=nanousd, tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows and their sums; the idle of the totals is of all clusters, whatever the rows are."""

    rows: tuple[ReportRow, ...]
    totals: ReportRow

    @property
    def unshared_idle_nanousd(self) -> int:
        """The idle that no row has: with it as a line of its own the rows add up to the bill."""
        return self.totals.idle_nanousd - sum(row.idle_nanousd for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Spend over time: `values_nanousd[i]` are the amounts of `names[i]`, one for each of `moments`."""

    moments: tuple[datetime, ...]
    names: tuple[str, ...]
    values_nanousd: tuple[tuple[int, ...], ...]


def spend_report(
    *, group: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> Report:
    """The sums from the hour of `from_at` up to `to_at`, dearest first; at most five queries.

    Right to the last settled request, whether or not the hours were folded into days yet.
    Days and hours are in UTC and come in their own order. Idle is left out where only some keys, teams,
    organisations or models are asked for: it is nobody's.
    """
    rows = _read_rows(group=group, step="", from_at=from_at, to_at=to_at, only=only)
    return _report(rows, group=group, from_at=from_at, to_at=to_at, only=only)


def spend_series(
    *, split: str, step: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> Series:
    """Spend per UTC month, day or hour, split by cluster, team, organisation or model; at most four queries.

    The dearest eight, then "other". Hours for spans of at most 35 days.
    """
    if split not in SPLITS:
        raise ReportError(f"unknown split {split!r}: it is one of {', '.join(SPLITS)}")
    pieces = span_pieces(from_at=from_at, to_at=to_at, only=only, is_hourly=step == "hour")
    amounts = (
        amount
        for piece in pieces
        for amount in piece.values_list(MomentText("starts_at", step=step), split).annotate(
            cost=Sum("cost_nanousd")
        )
    )
    return _series(amounts, moments=moments_of(from_at=from_at, to_at=to_at, step=step), step=step)


def report_and_series(
    *, group: str, step: str, from_at: datetime, to_at: datetime, only: ReportFilter | None = None
) -> tuple[Report, Series]:
    """Both for one page; where the series is split as the report is grouped the rows are read once."""
    span: dict[str, Any] = {"from_at": from_at, "to_at": to_at, "only": only}
    if group not in SPLITS or step == "hour":
        split = group if group in SPLITS else "cluster"
        return spend_report(group=group, **span), spend_series(split=split, step=step, **span)
    rows = _read_rows(group=group, step=step, **span)
    amounts = ((row["moment"], row[group], row["cost_nanousd"]) for row in rows)
    moments = moments_of(from_at=from_at, to_at=to_at, step=step)
    return _report(rows, group=group, **span), _series(amounts, moments=moments, step=step)


def _read_rows(
    *, group: str, step: str, from_at: datetime, to_at: datetime, only: ReportFilter | None
) -> list[dict[str, Any]]:
    """Sums by what the group is of, and by moments where a step is given."""
    if group not in GROUPS:
        raise ReportError(f"unknown group {group!r}: it is one of {', '.join(GROUPS)}")
    sums = {
        # First: the names after it hide the columns of the same name.
        "metered_nanousd": Sum("cost_nanousd", filter=Q(cluster_kind=PROVIDER), default=0),
        **{name: Sum(name) for name in (*ROLLUP_SUMS, "amortised_nanousd")},
    }
    columns: tuple[str, ...] = ()
    labels: dict[str, Max] = {}
    if group in BY_TIME:
        step = group
    else:
        columns, name, detail = _COLUMNS[group]
        labels = {label: Max(column) for label, column in (("label", name), ("note", detail)) if column}
    if group == "model":
        # By clusters too: the idle of each is shared by the models that used it.
        columns = (*columns, "cluster")
    moment = {"moment": MomentText("starts_at", step=step)} if step else {}
    pieces = span_pieces(from_at=from_at, to_at=to_at, only=only, is_hourly=group == "hour")
    return [row for piece in pieces for row in piece.values(*columns, **moment).annotate(**labels, **sums)]


def _report(
    rows: Sequence[Mapping[str, Any]],
    *,
    group: str,
    from_at: datetime,
    to_at: datetime,
    only: ReportFilter | None,
) -> Report:
    capacity = _capacity(group=group, from_at=from_at, to_at=to_at, only=only)
    if group in BY_TIME:
        report_rows = _rows_by_time(_merged(rows, by="moment"), capacity=capacity)
    else:
        merged = _merged(rows, by=_COLUMNS[group][0][0])
        report_rows = sorted(merged.values(), key=lambda row: (-row.cost_nanousd, row.name, row.id))
    if group == "cluster":
        report_rows = _with_capacity(report_rows, capacity=capacity)
    elif group == "model":
        report_rows = _with_idle_shares(report_rows, rows=rows, capacity=capacity)
    totals = _sum(ReportRow(name="Total"), report_rows)
    idle_nanousd = sum(one["idle_nanousd"] for one in capacity.values())
    return Report(rows=tuple(report_rows), totals=replace(totals, idle_nanousd=idle_nanousd))


def _series(amounts: Iterable[tuple[str, str, int]], *, moments: Iterable[datetime], step: str) -> Series:
    times = tuple(moments)
    places = {moment_text(moment, step=step): place for place, moment in enumerate(times)}
    by_name: dict[str, list[int]] = {}
    for text, name, cost in amounts:
        by_name.setdefault(name, [0] * len(times))[places[text]] += int(cost)
    names = sorted(by_name, key=lambda name: (-sum(by_name[name]), name))
    kept = names if len(names) <= SERIES_MAX + 1 else names[:SERIES_MAX]
    values = [tuple(by_name[name]) for name in kept]
    if rest := names[len(kept) :]:
        values.append(tuple(map(sum, zip(*(by_name[name] for name in rest), strict=True))))
        kept = [*kept, OTHER]
    return Series(moments=times, names=tuple(kept), values_nanousd=tuple(values))


def _capacity(
    *, group: str, from_at: datetime, to_at: datetime, only: ReportFilter | None
) -> dict[Any, dict[str, int]]:
    """Sums of the closed hours by cluster, for days and hours by moment; one query, or none."""
    asked = conditions(only)
    if set(asked) - {"cluster"}:
        return {}
    hours = CapacityHour.objects.filter(
        is_closed=True, starts_at__gte=floor(from_at), starts_at__lt=to_at, **asked
    )
    by = MomentText("starts_at", step=group) if group in BY_TIME else F("cluster")
    rows = hours.values_list(by, "overhead_permille").annotate(*(Sum(name) for name in _CAPACITY_SUMS))
    found: dict[Any, dict[str, int]] = {}
    for key, overhead_permille, *sums in rows:
        one = found.setdefault(key, dict.fromkeys((*_CAPACITY_SUMS, _SEED_COST), 0))
        for name, value in zip(_CAPACITY_SUMS, sums, strict=True):
            one[name] += int(value)
        # Here and not in the database: the product is beyond its integers.
        one[_SEED_COST] += int(sums[0]) * (overhead_permille or OVERHEAD_PERMILLE)
    return found


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
            seed_permille_nanousd=capacity[name][_SEED_COST],
        )
        if name in capacity
        else row
        for name, row in by_name.items()
    ]


def _with_idle_shares(
    report_rows: Iterable[ReportRow],
    *,
    rows: Iterable[Mapping[str, Any]],
    capacity: Mapping[str, Mapping[str, int]],
) -> list[ReportRow]:
    """Models' rows, each with its part of the idle of the clusters that it used, by use."""
    used: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["amortised_nanousd"] > 0:
            models = used.setdefault(row["cluster"], {})
            models[row["model"]] = models.get(row["model"], 0) + int(row["amortised_nanousd"])
    idle: dict[str, int] = {}
    for cluster, models in used.items():
        total = capacity[cluster]["idle_nanousd"] if cluster in capacity else 0
        names = sorted(models)
        parts = shares(total=total, weights=[models[name] for name in names])
        for name, part in zip(names, parts, strict=True):
            idle[name] = idle.get(name, 0) + part
    return [replace(row, idle_nanousd=idle.get(row.name, 0)) for row in report_rows]


def _rows_by_time(
    by_moment: Mapping[str, ReportRow], *, capacity: Mapping[str, Mapping[str, int]]
) -> list[ReportRow]:
    """A row for each moment with usage, and for those when own clusters were idle alone."""
    return [
        replace(
            by_moment.get(moment) or ReportRow(name=moment),
            idle_nanousd=capacity[moment]["idle_nanousd"] if moment in capacity else 0,
        )
        for moment in sorted({*by_moment, *capacity})
    ]


def _merged(rows: Iterable[Mapping[str, Any]], *, by: str) -> dict[str, ReportRow]:
    """One row for each of the group, with the sums of all pieces and moments."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        row_id = str(row[by])
        one = sums.setdefault(row_id, {"name": "", "id": "", "detail": "", **dict.fromkeys(_SUMS, 0)})
        for column in _SUMS:
            # PostgreSQL sums big integers as decimals.
            one[column] += int(row[column])
        if by == "moment":
            one["name"] = row_id
        else:
            # Names change; as within a piece the last in the alphabet stands for all.
            one["name"], one["id"] = max(one["name"], row["label"]), row_id
            one["detail"] = max(one["detail"], row.get("note", ""))
    return {row_id: ReportRow(**one) for row_id, one in sums.items()}


def _sum(like: ReportRow, rows: Iterable[ReportRow]) -> ReportRow:
    """The rows' sums, under the name of another row."""
    totals: dict[str, Any] = dict.fromkeys(_SUMS, 0)
    for row in rows:
        for column in _SUMS:
            totals[column] += getattr(row, column)
    return replace(like, **totals)
