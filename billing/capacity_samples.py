"""Notes minute by minute what own clusters cost: opens their hours, adds samples, fills what was missed.

`cost_nanousd` of an open hour is what its minutes cost up to the latest sample, all of it idle as far as
anybody knows; billing.capacity, where the protocol stands, adds the rest and finds out who used it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from billing.ledger import ledger_transaction
from billing.models import CapacityHour
from routing.capacity import MINUTES_PER_HOUR, minutes_nanousd

logger = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECONDS_PER_MINUTE = 60
# The longest outage that is filled.
FILLED_HOURS_MAX = 24 * 31
ONE_CLUSTER = 1

Changes = Sequence[tuple[datetime, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySample:
    """What holds for one own cluster in this minute, and until the next sample.

    The cost per hour and the rated tokens/s are of the whole cluster, of an autoscaled one of each replica.
    """

    cluster: str
    is_committed: bool
    is_up: bool
    cost_per_hour_nanousd: int
    tokens_per_s: int
    # What the router adds to the price of a token, for the seed's formula in reports.
    overhead_permille: int
    replica_count: int = ONE_CLUSTER
    # Replicas that still load are paid and make no tokens.
    is_serving: bool = True
    # (moment, cost per hour) in the order of time: prices that came into force since the latest samples.
    changes: Changes = ()

    @property
    def committed_nanousd_per_hour(self) -> int:
        return self.cost_per_hour_nanousd if self.is_committed else 0

    @property
    def running_count(self) -> int:
        if not self.is_up:
            return 0
        return ONE_CLUSTER if self.is_committed else self.replica_count


OPEN_COLUMNS = (
    *("cost_nanousd", "capacity_tokens", "used_nanousd", "idle_nanousd", "committed_nanousd_per_hour"),
    *("sample_count", "replica_samples", "overhead_permille", "updated_at"),
)


def record_samples(*, samples: Sequence[CapacitySample], now: datetime) -> int:
    """Note the samples of this minute, once; gives back how many clusters' hours changed."""
    now = now.astimezone(UTC)
    hour = hour_of(now)
    by_name = {sample.cluster: sample for sample in samples}
    with ledger_transaction():
        # Another worker may open the same hours: the first wins, and the lock below shows its rows.
        opened = _opened_hours(by_name, hour=hour, now=now)
        CapacityHour.objects.bulk_create(opened, ignore_conflicts=True)
        rows = CapacityHour.objects.filter(cluster__in=by_name, is_closed=False, starts_at__lte=hour)
        changed = [
            row
            for row in rows.order_by("id").select_for_update()
            if _bring_up(row, sample=by_name[row.cluster], now=now)
        ]
        CapacityHour.objects.bulk_update(changed, OPEN_COLUMNS)
    return sum(row.starts_at == hour for row in changed)


def unpriced_from(*, now: datetime) -> datetime:
    """The moment from which changes of price matter to the next samples: all before it is in the accounts."""
    hour = hour_of(now)
    since = hour - HOUR * FILLED_HOURS_MAX
    sampled = CapacityHour.objects.filter(sample_count__gt=0, starts_at__gte=since, starts_at__lt=hour)
    latest = sampled.order_by("-starts_at").values_list("starts_at", flat=True).first()
    return latest or hour


def as_open(row: CapacityHour) -> CapacityHour:
    """An open row of before the commitment had a column of its own: it stood in `used_nanousd`.

    Such a row's cost holds the rest of its hour already; it is taken out again.
    """
    if row.is_closed or row.used_nanousd == 0:
        return row
    row.committed_nanousd_per_hour = row.used_nanousd
    row.cost_nanousd -= minutes_nanousd(
        cost_per_hour_nanousd=row.used_nanousd, from_minute=priced_minutes(row), to_minute=MINUTES_PER_HOUR
    )
    row.used_nanousd = 0
    row.idle_nanousd = row.cost_nanousd
    return row


def priced_minutes(row: CapacityHour) -> int:
    """How many minutes of an open hour its cost holds: up to its latest sample; 60 where it was filled."""
    return min(max(0, (row.updated_at - row.starts_at) // MINUTE + 1), MINUTES_PER_HOUR)


def whole_capacity(row: CapacityHour) -> int:
    """The tokens of the hour; where it is paid whole, minutes without a sample are as the others were."""
    is_whole = row.is_closed or row.sample_count == 0 or row.committed_nanousd_per_hour == 0
    return row.capacity_tokens if is_whole else row.capacity_tokens * MINUTES_PER_HOUR // row.sample_count


def hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_id(*, cluster: str, starts_at: datetime) -> str:
    return f"{cluster}:{starts_at.astimezone(UTC):%Y-%m-%dT%H}"


def _opened_hours(
    by_name: Mapping[str, CapacitySample], *, hour: datetime, now: datetime
) -> list[CapacityHour]:
    """New hours of the clusters that have none yet, and the hours before them that nobody sampled."""
    known = CapacityHour.objects.filter(cluster__in=by_name, starts_at=hour).values_list("cluster", flat=True)
    missing = sorted(set(by_name) - set(known))
    return [row for name in missing for row in _opened_of_one(by_name[name], hour=hour, now=now)]


def _opened_of_one(sample: CapacitySample, *, hour: datetime, now: datetime) -> list[CapacityHour]:
    bound = hour - HOUR * FILLED_HOURS_MAX
    earlier = CapacityHour.objects.filter(cluster=sample.cluster, starts_at__lt=hour, starts_at__gte=bound)
    latest = earlier.order_by("-starts_at").first()
    if latest is None or _was_away(latest=latest, hour=hour):
        commitment, first, capacity = sample.committed_nanousd_per_hour, hour, 0
    else:
        latest = as_open(latest)
        commitment, first, capacity = (
            latest.committed_nanousd_per_hour,
            latest.starts_at + HOUR,
            whole_capacity(latest),
        )
    rows = []
    while commitment > 0 and first < hour:
        rows.append(_filled_hour(sample, starts_at=first, commitment=commitment, to_at=first + HOUR, now=now))
        rows[-1].capacity_tokens = capacity
        first += HOUR
    if rows:
        logger.warning("capacity_hours_filled cluster=%s hours=%s", sample.cluster, len(rows))
    minute = now.replace(second=0, microsecond=0)
    current = _filled_hour(sample, starts_at=hour, commitment=commitment, to_at=minute, now=minute - MINUTE)
    return [*rows, current]


def _was_away(*, latest: CapacityHour, hour: datetime) -> bool:
    """Whether others were sampled since: then the cluster was not in the inventory, and is not paid."""
    between = CapacityHour.objects.filter(
        starts_at__gt=latest.starts_at, starts_at__lt=hour, sample_count__gt=0
    )
    return between.exists()


def _filled_hour(
    sample: CapacitySample, *, starts_at: datetime, commitment: int, to_at: datetime, now: datetime
) -> CapacityHour:
    """An hour without samples, which costs what its minutes up to `to_at` do."""
    cost = _cost_between(starts_at, to_at, commitment=commitment, changes=sample.changes)
    return CapacityHour(
        id=hour_id(cluster=sample.cluster, starts_at=starts_at),
        cluster=sample.cluster,
        starts_at=starts_at,
        cost_nanousd=cost,
        capacity_tokens=0,
        used_tokens=0,
        used_nanousd=0,
        idle_nanousd=cost,
        committed_nanousd_per_hour=commitment,
        overhead_permille=sample.overhead_permille,
        updated_at=now,
    )


def _bring_up(row: CapacityHour, *, sample: CapacitySample, now: datetime) -> bool:
    """Add to an open hour what it cost since its latest sample; False where that is nothing new."""
    row, hour = as_open(row), hour_of(now)
    minute = now.minute if row.starts_at == hour else MINUTES_PER_HOUR
    since = priced_minutes(row)
    if since > minute or since == MINUTES_PER_HOUR:
        return False
    row.cost_nanousd += _cost_between(
        row.starts_at + since * MINUTE,
        row.starts_at + minute * MINUTE,
        commitment=row.committed_nanousd_per_hour,
        changes=sample.changes,
    )
    row.updated_at = row.starts_at + HOUR
    if row.starts_at == hour:
        _add_sample(row, sample=sample, now=now)
    row.idle_nanousd = row.cost_nanousd
    return True


def _add_sample(row: CapacityHour, *, sample: CapacitySample, now: datetime) -> None:
    count = sample.running_count
    paid_count = ONE_CLUSTER if sample.is_committed else count
    row.cost_nanousd += minutes_nanousd(
        cost_per_hour_nanousd=sample.cost_per_hour_nanousd * paid_count,
        from_minute=now.minute,
        to_minute=now.minute + 1,
    )
    if sample.is_serving:
        row.capacity_tokens += sample.tokens_per_s * SECONDS_PER_MINUTE * count
    row.committed_nanousd_per_hour = sample.committed_nanousd_per_hour
    row.sample_count += 1
    row.replica_samples += count
    row.overhead_permille = sample.overhead_permille
    row.updated_at = now


def _cost_between(from_at: datetime, to_at: datetime, *, commitment: int, changes: Changes) -> int:
    """What whole minutes of one hour cost that nobody sampled: nothing where nothing is committed.

    A minute costs what was in force when it began: the latest change, before the first the commitment.
    """
    if commitment == 0:
        return 0
    hour = hour_of(from_at)
    edges = [(from_at, commitment), *((_minute_after(at), cost) for at, cost in changes), (to_at, 0)]
    total = 0
    for (at, cost), (next_at, _) in pairwise(edges):
        begins, ends = max(at, from_at), min(next_at, to_at)
        if begins < ends:
            total += minutes_nanousd(
                cost_per_hour_nanousd=cost,
                from_minute=(begins - hour) // MINUTE,
                to_minute=(ends - hour) // MINUTE,
            )
    return total


def _minute_after(moment: datetime) -> datetime:
    """The first minute that begins at the moment or after it."""
    minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
    return minute if minute == moment else minute + MINUTE
