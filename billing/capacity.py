"""Owned capacity in the accounts: what hourly-paid clusters cost, how much of it was used, what was idle.

The life of one CapacityHour, the hour of one cluster.

1. Each minute a sample says what holds from that minute on. A committed cluster is paid whether it is
   used, healthy or enabled, or not: its hour costs the whole of its cost per hour from the first sample
   on, and a changed cost counts from the sample's minute on. An autoscaled cluster is paid for the
   minutes in which a sample finds it up, with one replica.
2. While the hour is open nobody knows what part of it is used. Until then `used_nanousd` holds the cost per
   hour that the rest of the hour is committed to (0: autoscaled), and `idle_nanousd` what is missing to the
   cost. Only closed hours are read as used and idle.
3. Where samples are missing (the gateway was down) committed hours are filled at that last known cost.
4. Some minutes after its end the hour is closed: its cost is split over the rollups that used the
   cluster, by output tokens, and what is left is idle. Rows that come late close it anew.

Input tokens count where a cluster made no output token in the hour at all (embeddings).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import QuerySet, Sum

from billing.ledger import ledger_transaction
from billing.models import CapacityHour, SpendRollup
from routing.capacity import MINUTES_PER_HOUR, minute_nanousd, rest_of_hour_nanousd, split_cost

logger = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
SECONDS_PER_MINUTE = 60
# Requests that ended in the hour may be committed a little after it.
CLOSING_GRACE = timedelta(minutes=5)
# Closed hours are looked at again for so long, as rollups.fold_days does.
CLOSED_AGAIN = timedelta(days=3)
# The longest outage that is filled.
FILLED_HOURS_MAX = 24 * 31
HOURS_PER_RUN_MAX = 2_000
PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySample:
    """What holds for one own cluster from this minute on."""

    cluster: str
    is_committed: bool
    is_up: bool
    cost_per_hour_nanousd: int
    tokens_per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningHours:
    """The hours that are not closed yet: what they cost so far, and an estimate of how much is idle."""

    starts_at: datetime
    closes_at: datetime
    cost_nanousd: int
    idle_nanousd: int


def record_samples(*, samples: Sequence[CapacitySample], now: datetime) -> int:
    """Note the samples of this minute, once; gives back how many clusters' hours changed."""
    now = now.astimezone(UTC)
    hour = _hour_of(now)
    with ledger_transaction():
        ids = {hour_id(cluster=sample.cluster, starts_at=hour): sample for sample in samples}
        known = set(CapacityHour.objects.filter(id__in=ids).values_list("id", flat=True))
        opened = [
            row
            for row_id, sample in ids.items()
            if row_id not in known
            for row in _opened_hours(sample=sample, hour=hour, now=now)
        ]
        # Another worker may open the same hours: the first wins, and the lock below shows its rows.
        CapacityHour.objects.bulk_create(opened, ignore_conflicts=True)
        rows = CapacityHour.objects.filter(id__in=ids, is_closed=False).order_by("id").select_for_update()
        changed = [row for row in rows if _add_sample(row, sample=ids[row.id], now=now)]
        columns = [
            *("cost_nanousd", "capacity_tokens", "used_nanousd", "idle_nanousd"),
            *("sample_count", "updated_at"),
        ]
        CapacityHour.objects.bulk_update(changed, columns)
    return len(changed)


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
    rows = CapacityHour.objects.filter(is_closed=False, starts_at__gte=_hour_of(from_at), starts_at__lt=to_at)
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


def hour_id(*, cluster: str, starts_at: datetime) -> str:
    return f"{cluster}:{starts_at.astimezone(UTC):%Y-%m-%dT%H}"


# --- Samples


def _opened_hours(*, sample: CapacitySample, hour: datetime, now: datetime) -> list[CapacityHour]:
    """The cluster's new hour, and before it the hours that nobody sampled since the latest one."""
    bound = hour - HOUR * FILLED_HOURS_MAX
    earlier = CapacityHour.objects.filter(cluster=sample.cluster, starts_at__lt=hour, starts_at__gte=bound)
    latest = earlier.order_by("-starts_at").first()
    if latest is None or _was_away(latest=latest, hour=hour):
        commitment = sample.cost_per_hour_nanousd if sample.is_committed else 0
        return [_new_hour(sample.cluster, starts_at=hour, commitment=commitment, now=now)]
    commitment = _known_commitment(latest, sample=sample)
    rows = [_new_hour(sample.cluster, starts_at=hour, commitment=commitment, now=now)]
    starts_at = latest.starts_at + HOUR
    while commitment > 0 and starts_at < hour:
        filled = _new_hour(sample.cluster, starts_at=starts_at, commitment=commitment, now=now)
        filled.capacity_tokens = _whole_capacity(latest)
        rows.append(filled)
        starts_at += HOUR
    if len(rows) > 1:
        logger.warning("capacity_hours_filled cluster=%s hours=%s", sample.cluster, len(rows) - 1)
    return rows


def _was_away(*, latest: CapacityHour, hour: datetime) -> bool:
    """Whether others were sampled since: then the cluster was not in the inventory, and is not paid."""
    between = CapacityHour.objects.filter(
        starts_at__gt=latest.starts_at, starts_at__lt=hour, sample_count__gt=0
    )
    return between.exists()


def _known_commitment(latest: CapacityHour, *, sample: CapacitySample) -> int:
    if not latest.is_closed:
        return latest.used_nanousd
    return latest.cost_nanousd if sample.is_committed else 0


def _new_hour(cluster: str, *, starts_at: datetime, commitment: int, now: datetime) -> CapacityHour:
    return CapacityHour(
        id=hour_id(cluster=cluster, starts_at=starts_at),
        cluster=cluster,
        starts_at=starts_at,
        cost_nanousd=commitment,
        capacity_tokens=0,
        used_tokens=0,
        used_nanousd=commitment,
        idle_nanousd=0,
        updated_at=now,
    )


def _add_sample(row: CapacityHour, *, sample: CapacitySample, now: datetime) -> bool:
    """Change the open hour by a sample; False where its minute has one already."""
    if row.sample_count > 0 and row.updated_at >= now.replace(second=0, microsecond=0):
        return False
    commitment = sample.cost_per_hour_nanousd if sample.is_committed else 0
    row.cost_nanousd += rest_of_hour_nanousd(cost_per_hour_nanousd=commitment, minute=now.minute)
    row.cost_nanousd -= rest_of_hour_nanousd(cost_per_hour_nanousd=row.used_nanousd, minute=now.minute)
    if sample.is_up and not sample.is_committed:
        row.cost_nanousd += minute_nanousd(
            cost_per_hour_nanousd=sample.cost_per_hour_nanousd, minute=now.minute
        )
    if sample.is_up:
        row.capacity_tokens += sample.tokens_per_s * SECONDS_PER_MINUTE
    row.used_nanousd = commitment
    row.idle_nanousd = row.cost_nanousd - commitment
    row.sample_count += 1
    row.updated_at = now
    assert row.cost_nanousd >= 0
    return True


# --- Closing


def _close_hour(*, row_id: str, now: datetime) -> None:
    """Split the hour's cost over its rollups; all it reads and writes is locked, in the ledger's order."""
    row = CapacityHour.objects.select_for_update().get(id=row_id)
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, cluster=row.cluster, starts_at=row.starts_at
    ).exclude(cluster_kind=PROVIDER)
    rollups = list(hours.order_by("id").select_for_update())
    is_generating = any(rollup.output_tokens for rollup in rollups)
    tokens = [rollup.output_tokens if is_generating else rollup.input_tokens for rollup in rollups]
    if not row.is_closed:
        row.capacity_tokens = _whole_capacity(row)
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


def _whole_capacity(row: CapacityHour) -> int:
    """The tokens of the hour; where it is paid whole, minutes without a sample are as the others were."""
    is_whole = row.is_closed or row.sample_count == 0 or row.used_nanousd == 0
    return row.capacity_tokens if is_whole else row.capacity_tokens * MINUTES_PER_HOUR // row.sample_count


def _changed_hours(closed: QuerySet[CapacityHour]) -> list[str]:
    """The closed hours whose rollups no longer say what the hour says; two queries."""
    rows = list(closed.order_by("starts_at", "cluster"))
    if not rows:
        return []
    sums, nothing = _sums_by_hour(rows), (0, 0)
    return [
        row.id
        for row in rows
        if sums.get((row.cluster, row.starts_at), nothing) != (row.used_tokens, row.used_nanousd)
    ]


def _split_so_far(row: CapacityHour, *, tokens: int) -> tuple[int, int]:
    """What an open hour cost up to its latest sample, and how much of it would be idle."""
    is_over = row.sample_count == 0 or row.updated_at >= row.starts_at + HOUR
    minute = MINUTES_PER_HOUR if is_over else row.updated_at.minute + 1
    cost = row.cost_nanousd - rest_of_hour_nanousd(cost_per_hour_nanousd=row.used_nanousd, minute=minute)
    capacity = _whole_capacity(row)
    if row.used_nanousd > 0:
        capacity = capacity * minute // MINUTES_PER_HOUR
    _, idle = split_cost(cost_nanousd=cost, tokens=[tokens], capacity_tokens=capacity)
    return cost, idle


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


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
