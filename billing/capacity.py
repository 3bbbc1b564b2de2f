"""Owned capacity in the accounts: what hourly-paid clusters cost, how much of it was used, what was idle.

The life of one CapacityHour, the hour of one cluster.

1. Each minute a sample (billing.capacity_samples) adds what the minute costs, at the price in force when it
   began. A committed cluster is paid whether it is used, healthy or enabled, or not: the minutes before its
   first sample and those that nobody sampled count too. An autoscaled cluster is paid for the minutes in
   which a sample finds it up, for each replica that runs; also while it wakes, without capacity to use then.
2. While the hour is open nobody knows what part of it is used: all that it cost so far stands as idle, and
   `committed_nanousd_per_hour` is what the rest of the hour is committed to (0: autoscaled).
3. Where samples are missing (the gateway was down) committed hours are filled: at the prices that came into
   force meanwhile, else at the last known one.
4. Some minutes after its end the hour is closed: its cost is split over the rollups that used the
   cluster, by output tokens, and what is left is idle. Rows that come late close it anew.

Input tokens count where a cluster made no output token in the hour at all (embeddings).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, QuerySet, Sum

from billing.capacity_samples import HOUR, as_open, hour_of, priced_minutes, whole_capacity
from billing.ledger import ledger_transaction
from billing.models import CapacityHour, SpendRollup
from routing.capacity import MINUTES_PER_HOUR, minutes_nanousd, split_cost
from routing.economics import Served

# Requests that ended in the hour may be committed a little after it.
CLOSING_GRACE = timedelta(minutes=5)
# Closed hours are looked at again for so long, as rollups.fold_days does.
CLOSED_AGAIN = timedelta(days=3)
HOURS_PER_RUN_MAX = 2_000
PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningHours:
    """The hours that are not closed yet: what they cost so far, and an estimate of how much is idle."""

    starts_at: datetime
    closes_at: datetime
    cost_nanousd: int
    idle_nanousd: int


def close_hours(*, now: datetime, again_from: datetime | None = None) -> int:
    """Close the hours that are over, and anew those whose rollups changed since; returns how many.

    Closed hours are looked at from `again_from` on, by default for three days.
    """
    over = CapacityHour.objects.filter(starts_at__lte=now - HOUR - CLOSING_GRACE)
    since = now - CLOSED_AGAIN if again_from is None else again_from
    due = over.filter(is_closed=False).order_by("starts_at", "cluster").values_list("id", flat=True)
    changed = _changed_hours(over.filter(is_closed=True, starts_at__gte=since))
    ids = [*due[:HOURS_PER_RUN_MAX], *changed][:HOURS_PER_RUN_MAX]
    for row_id in ids:
        # One transaction an hour, so that settling never waits long for the lock.
        with ledger_transaction():
            _close_hour(row_id=row_id, now=now)
    return len(ids)


def running_hours(*, from_at: datetime, to_at: datetime, cluster: str | None = None) -> RunningHours | None:
    """What the hours cost that are not closed yet, up to their latest samples; two queries."""
    rows = CapacityHour.objects.filter(is_closed=False, starts_at__gte=hour_of(from_at), starts_at__lt=to_at)
    if cluster is not None:
        rows = rows.filter(cluster=cluster)
    found = list(rows)
    if not found:
        return None
    sums, nothing = _sums_by_hour(found), (0, 0)
    splits = [_split_so_far(row, tokens=sums.get((row.cluster, row.starts_at), nothing)[0]) for row in found]
    return RunningHours(
        starts_at=min(row.starts_at for row in found),
        closes_at=max(row.starts_at for row in found) + HOUR + CLOSING_GRACE,
        cost_nanousd=sum(cost for cost, _ in splits),
        idle_nanousd=sum(idle for _, idle in splits),
    )


def load_served(*, from_at: datetime, to_at: datetime) -> dict[str, Served]:
    """What each cluster's closed hours in the span cost and made, by its name; two queries, rollups only.

    A provider has no hours: of it only the tokens are told.
    """
    start = hour_of(from_at)
    hours = CapacityHour.objects.filter(is_closed=True, starts_at__gte=start, starts_at__lt=to_at)
    sums = ("cost_nanousd", "idle_nanousd", "capacity_tokens")
    paid = {
        cluster: {"hours": count, **dict(zip(sums, map(int, values), strict=True))}
        for cluster, count, *values in hours.values_list("cluster").annotate(
            Count("id"), *(Sum(name) for name in sums)
        )
    }
    rollups = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, starts_at__gte=start, starts_at__lt=to_at
    )
    made = {
        cluster: {"input_tokens": int(prompts), "output_tokens": int(answers)}
        for cluster, prompts, answers in rollups.values_list("cluster").annotate(
            Sum("input_tokens"), Sum("output_tokens")
        )
    }
    return {
        cluster: Served(**paid.get(cluster, {}), **made.get(cluster, {})) for cluster in paid.keys() | made
    }


def _close_hour(*, row_id: str, now: datetime) -> None:
    """Split the hour's cost over its rollups; all it reads and writes is locked, in the ledger's order."""
    row = as_open(CapacityHour.objects.select_for_update().get(id=row_id))
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, cluster=row.cluster, starts_at=row.starts_at
    ).exclude(cluster_kind=PROVIDER)
    rollups = list(hours.order_by("id").select_for_update())
    is_generating = any(rollup.output_tokens for rollup in rollups)
    tokens = [rollup.output_tokens if is_generating else rollup.input_tokens for rollup in rollups]
    if not row.is_closed:
        row.capacity_tokens = whole_capacity(row)
        row.cost_nanousd += minutes_nanousd(
            cost_per_hour_nanousd=row.committed_nanousd_per_hour,
            from_minute=priced_minutes(row),
            to_minute=MINUTES_PER_HOUR,
        )
    parts, idle = split_cost(
        cost_nanousd=row.cost_nanousd, tokens=tokens, capacity_tokens=row.capacity_tokens
    )
    changed = [
        rollup for rollup, part in zip(rollups, parts, strict=True) if rollup.amortised_nanousd != part
    ]
    for rollup, part in zip(rollups, parts, strict=True):
        rollup.amortised_nanousd = part
    SpendRollup.objects.bulk_update(changed, ["amortised_nanousd"], batch_size=500)
    row.used_tokens = sum(tokens)
    row.used_nanousd = row.cost_nanousd - idle
    row.idle_nanousd = idle
    row.is_closed = True
    row.updated_at = now
    row.save()


def _changed_hours(closed: QuerySet[CapacityHour]) -> list[str]:
    """The closed hours whose rollups no longer say what the hour says; two queries.

    Rollups are never taken back: where a used hour has none, they were pruned, and it stays as it is.
    """
    rows = list(closed.order_by("starts_at", "cluster"))
    if not rows:
        return []
    sums, nothing = _sums_by_hour(rows), (0, 0)
    return [
        row.id
        for row in rows
        if (found := sums.get((row.cluster, row.starts_at), nothing)) != (row.used_tokens, row.used_nanousd)
        and found != nothing
    ]


def _split_so_far(row: CapacityHour, *, tokens: int) -> tuple[int, int]:
    """What an open hour cost up to its latest sample, and how much of it would be idle."""
    row = as_open(row)
    capacity = whole_capacity(row)
    if row.committed_nanousd_per_hour > 0:
        capacity = capacity * priced_minutes(row) // MINUTES_PER_HOUR
    _, idle = split_cost(cost_nanousd=row.cost_nanousd, tokens=[tokens], capacity_tokens=capacity)
    return row.cost_nanousd, idle


def _sums_by_hour(rows: Sequence[CapacityHour]) -> dict[tuple[str, datetime], tuple[int, int]]:
    """Tokens and amortised cost of the rollups, by cluster and hour; one query."""
    moments = [row.starts_at for row in rows]
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, starts_at__gte=min(moments), starts_at__lte=max(moments)
    ).exclude(cluster_kind=PROVIDER)
    sums = hours.values_list("cluster", "starts_at").annotate(
        output=Sum("output_tokens"), given=Sum("input_tokens"), amortised=Sum("amortised_nanousd")
    )
    # PostgreSQL sums big integers as decimals.
    return {
        (cluster, moment): (int(output or given), int(amortised))
        for cluster, moment, output, given, amortised in sums
    }
