"""Takes old attempts and hours out of the ledger, by whole months and days, and leaves their sums behind.

1. A month of attempts goes when all of it is older than is kept and no attempt of it or before is open. What
   its rows added to budget windows and hours is written to ClosingBalances, and to a PrunedPeriod, in the
   transaction that takes the rows: `reconcile_ledger` counts on both, so every sum stays proven.
2. On PostgreSQL a month is a partition and goes whole (billing.partitions). What lies outside of those, and
   everything on SQLite, goes in small transactions; the next run goes on where one was stopped.
3. A day of hourly rollups goes when it is older than is kept, its rows are gone and its sums stand in the
   day's own rollups. Days stay.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connections
from django.db.models import F, Sum

from billing import partitions, rollups
from billing.attempt_months import begun_at, first_attempt_id, month_of, next_month
from billing.closing_balances import add_hour_balances, add_window_balances, delete_hour_balances
from billing.ledger import ledger_transaction
from billing.models import Feedback, PrunedPeriod, Reservation, SpendRollup, UsageRecord
from billing.sums import LEAST_ID, attempt_groups, rows_between, sums_by_hour

logger = structlog.get_logger(__name__)

# One transaction of deleting: settling waits for it on SQLite, 15 ms mostly and 48 ms at p99 as measured.
BATCH_ROWS = 100
# What one run of beat's task does at most; the next goes on.
BATCHES_PER_RUN_MAX = 6_000
DAYS_PER_RUN_MAX = 100
DAY = timedelta(days=1)


class PruningRefusedError(Exception):
    """The ledger's sums do not hold where rows should go: what is wrong must be looked at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, or would go; `is_done`: nothing was left for the next run."""

    attempts: int = 0
    cost_nanousd: int = 0
    hour_rows: int = 0
    is_done: bool = True

    def plus(self, other: "Pruned") -> "Pruned":
        return Pruned(
            attempts=self.attempts + other.attempts,
            cost_nanousd=self.cost_nanousd + other.cost_nanousd,
            hour_rows=self.hour_rows + other.hour_rows,
            is_done=self.is_done and other.is_done,
        )


def prune(
    *, now: datetime, batches_max: int = BATCHES_PER_RUN_MAX, pause: Callable[[float], None] = time.sleep
) -> Pruned:
    """Take what is older than the settings keep; raises PruningRefusedError where its sums do not hold."""
    found = Pruned()
    if settings.USAGE_KEPT_DAYS > 0:
        found = _prune_attempts(now=now, batches_max=batches_max, pause=pause)
    if settings.ROLLUP_HOURS_KEPT_DAYS > 0:
        found = found.plus(_prune_hours(now=now))
    if found.attempts or found.hour_rows:
        logger.info("ledger_pruned", attempts=found.attempts, hour_rows=found.hour_rows)
    return found


def prunable(*, now: datetime) -> Pruned:
    """What `prune` would take if it went on to the end; nothing is changed."""
    attempts = cost = hour_rows = 0
    if settings.USAGE_KEPT_DAYS > 0:
        bound = first_attempt_id(month=_prunable_before(now=now))
        rows = rows_between(first=LEAST_ID, end=bound)
        attempts = Reservation.objects.filter(attempt_id__lt=bound).count()
        cost = int(rows.aggregate(cost=Sum("cost_nanousd"))["cost"] or 0)
    if settings.ROLLUP_HOURS_KEPT_DAYS > 0:
        hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
        hour_rows = hours.filter(starts_at__lt=_hours_kept_from(now=now)).count()
    return Pruned(attempts=attempts, cost_nanousd=cost, hour_rows=hour_rows, is_done=False)


@contextmanager
def deleting_allowed() -> Iterator[None]:
    """Inside the ledger's transaction: the only place in which the database lets usage rows go."""
    connection = connections[settings.LEDGER_DATABASE]
    assert connection.in_atomic_block
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tollgate.pruning', 'on', true)")
        yield
        cursor.execute("SELECT set_config('tollgate.pruning', 'off', true)")


# --- Attempts


def _prunable_before(*, now: datetime) -> datetime:
    """The start of the first month that stays."""
    bound = month_of(now - timedelta(days=settings.USAGE_KEPT_DAYS))
    # In the words of the index reservation_open: see ledger.mark_in_doubt.
    still_open = Reservation.objects.extra(where=["state IN ('held', 'in_doubt')"])
    oldest = still_open.order_by("attempt_id").values_list("attempt_id", flat=True).first()
    begun = None if oldest is None else begun_at(oldest)
    return bound if begun is None else min(bound, month_of(begun))


def _prune_attempts(*, now: datetime, batches_max: int, pause: Callable[[float], None]) -> Pruned:
    found = Pruned()
    before = _prunable_before(now=now)
    for partition in partitions.months_before(before):
        try:
            found = found.plus(_prune_partition(partition, now=now, pause=pause))
        except partitions.PartitionBusyError:
            logger.warning("ledger_partition_busy", begun_before=partition.month_end.isoformat())
            return found.plus(Pruned(is_done=False))
    first = LEAST_ID
    for _ in range(batches_max):
        started_s = time.monotonic()
        taken, end = _prune_batch(first=first, before=before, now=now)
        if end is None:
            return found
        found, first = found.plus(taken), end
        # As long as it took: half of the time the lock is free for settling.
        pause(time.monotonic() - started_s)
    return found.plus(Pruned(is_done=False))


def _prune_partition(
    partition: partitions.MonthPartition, *, now: datetime, pause: Callable[[float], None]
) -> Pruned:
    with _pruning_transaction():
        taken = _balance(first=partition.first, end=partition.end, begun_before=partition.month_end, now=now)
        Feedback.objects.filter(attempt_id__gte=partition.first, attempt_id__lt=partition.end).delete()
        partitions.drop_month(partition, pause=pause)
    return taken


def _prune_batch(*, first: UUID, before: datetime, now: datetime) -> tuple[Pruned, UUID | None]:
    """The oldest attempts from `first` on, a few, all of one month; and where to go on, if there are more."""
    with _pruning_transaction():
        older = Reservation.objects.filter(
            attempt_id__gte=first, attempt_id__lt=first_attempt_id(month=before)
        )
        ids = list(older.order_by("attempt_id").values_list("attempt_id", flat=True)[: BATCH_ROWS + 1])
        if not ids:
            return Pruned(), None
        month_end = min(before, next_month(month_of(begun_at(ids[0]) or before)))
        month_bound = first_attempt_id(month=month_end)
        end = min(ids[BATCH_ROWS], month_bound) if len(ids) > BATCH_ROWS else month_bound
        taken = _balance(first=first, end=end, begun_before=month_end, now=now)
        with deleting_allowed():
            rows_between(first=first, end=end).delete()
            Reservation.objects.filter(attempt_id__gte=first, attempt_id__lt=end).delete()
            Feedback.objects.filter(attempt_id__gte=first, attempt_id__lt=end).delete()
    return taken, end


def _balance(*, first: UUID, end: UUID, begun_before: datetime, now: datetime) -> Pruned:
    """Write down what the attempts in [first, end) added to sums that stay."""
    groups = attempt_groups(first=first, end=end)
    rows = rows_between(first=first, end=end)
    attempts = sum(group.attempts for group in groups)
    is_sound = all(group.rows == group.attempts and not group.is_open for group in groups)
    if not is_sound or rows.count() != attempts:
        raise PruningRefusedError(
            f"attempts begun before {begun_before:%Y-%m-%d} have not each one row, so none of them "
            "is pruned; see `manage.py reconcile_ledger`"
        )
    spent: dict[str, int] = defaultdict(int)
    for group in groups:
        for window_id in group.windows:
            spent[window_id] += group.cost_nanousd
    add_window_balances({window_id: value for window_id, value in spent.items() if value}, now=now)
    hours = sums_by_hour(rows)
    add_hour_balances(hours, now=now)
    cost = sum(sums["cost_nanousd"] for sums in hours.values())
    period = PrunedPeriod.objects.filter(begun_before=begun_before)
    changes: dict[str, Any] = {"attempts": F("attempts") + attempts, "cost_nanousd": F("cost_nanousd") + cost}
    if attempts and not period.update(**changes, pruned_at=now):
        PrunedPeriod.objects.create(
            begun_before=begun_before, attempts=attempts, cost_nanousd=cost, pruned_at=now
        )
    return Pruned(attempts=attempts, cost_nanousd=cost)


@contextmanager
def _pruning_transaction() -> Iterator[None]:
    """The ledger's transaction, and on PostgreSQL only one that prunes at a time."""
    with ledger_transaction():
        partitions.lock_changes()
        yield


# --- Hours


def _hours_kept_from(*, now: datetime) -> datetime:
    """The start of the first day whose hours stay: young enough, or still with rows of its own."""
    bound = _day_of(now - timedelta(days=settings.ROLLUP_HOURS_KEPT_DAYS))
    oldest = UsageRecord.objects.order_by("settled_at").values_list("settled_at", flat=True).first()
    return bound if oldest is None else min(bound, _day_of(oldest))


def _prune_hours(*, now: datetime) -> Pruned:
    """Each day in one transaction: a day that had lost some of its hours could not be folded again."""
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
    before = _hours_kept_from(now=now)
    hour_rows = 0
    for _ in range(DAYS_PER_RUN_MAX):
        oldest = hours.filter(starts_at__lt=before).order_by("starts_at").values_list("starts_at", flat=True)
        moment = oldest.first()
        if moment is None:
            return Pruned(hour_rows=hour_rows)
        day = _day_of(moment)
        if not _is_folded(day):
            rollups.fold_days(now=now, again_from=day)
        with _pruning_transaction():
            if not _is_folded(day):
                raise PruningRefusedError(
                    f"the hours of {day:%Y-%m-%d} do not add up to its day; run `manage.py fold_rollups`"
                )
            rows = hours.filter(starts_at__gte=day, starts_at__lt=day + DAY)
            delete_hour_balances(list(rows.values_list("id", flat=True)))
            hour_rows += rows.delete()[0]
    return Pruned(hour_rows=hour_rows, is_done=False)


def _is_folded(day: datetime) -> bool:
    """Whether the day's own rollups hold what its hours add up to."""
    names = rollups.FOLDED_SUMS
    hours = SpendRollup.objects.filter(starts_at__gte=day, starts_at__lt=day + DAY)
    totals = [
        hours.filter(period=period).aggregate(**{f"{name}_sum": Sum(name) for name in names})
        for period in (SpendRollup.Period.HOUR, SpendRollup.Period.DAY)
    ]
    return totals[0] == totals[1]


def _day_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
