"""Folds the ledger's hours into days, so that a report over a year reads few rows."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max, Sum

from billing.ledger import ledger_transaction
from billing.models import SpendRollup
from billing.rollup_key import rollup_id
from billing.settlements import ROLLUP_SUMS

logger = logging.getLogger(__name__)

# An hour may still grow after its day is over (a long answer, a reconciled attempt): so many days back
# are folded again each time.
FOLDED_AGAIN_DAYS = 3
# What a run does after a long pause; the next run goes on from there.
DAYS_PER_RUN_MAX = 100

GROUP_FIELDS = ("organisation", "team", "key_id", "model", "cluster")
LABEL_FIELDS = ("key_name", "cluster_kind", "provider")
# The ledger fills its sums with each request, billing.capacity the amortised part when the hour is over.
FOLDED_SUMS = (*ROLLUP_SUMS, "amortised_nanousd")


def fold_days(*, now: datetime, again_from: datetime | None = None) -> int:
    """Write the DAY rows of the latest days anew from their HOUR rows; returns how many rows were written.

    A day is recomputed whole, never added to: folding twice changes nothing. After a pause it goes on from
    the last day that was folded; `again_from` begins earlier. Hours may be pruned by whole days only, or
    a day would shrink here.
    """
    row_count = 0
    for day in _days_to_fold(now=now, again_from=again_from)[:DAYS_PER_RUN_MAX]:
        # One transaction a day, so that settling never waits long for the lock.
        with ledger_transaction():
            row_count += _fold_day(day=day, now=now)
    return row_count


def _days_to_fold(*, now: datetime, again_from: datetime | None) -> list[datetime]:
    """The days with usage, oldest first, from the last folded one or three days ago on."""
    recent = _day_of(now) - timedelta(days=FOLDED_AGAIN_DAYS)
    if again_from is not None:
        recent = min(recent, _day_of(again_from))
    folded = SpendRollup.objects.filter(period=SpendRollup.Period.DAY).order_by("-starts_at")
    latest = folded.values_list("starts_at", flat=True).first()
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
    if latest is not None:
        hours = hours.filter(starts_at__gte=min(latest, recent))
    moments = hours.order_by("starts_at").values_list("starts_at", flat=True).distinct()
    return sorted({_day_of(moment) for moment in moments})


def _fold_day(*, day: datetime, now: datetime) -> int:
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, starts_at__gte=day, starts_at__lt=day + timedelta(days=1)
    )
    sums = hours.values(*GROUP_FIELDS).annotate(
        **{f"{name}_label": Max(name) for name in LABEL_FIELDS},
        **{f"{name}_sum": Sum(name) for name in FOLDED_SUMS},
    )
    rows = [_day_row(day=day, row=row, now=now) for row in sums.order_by(*GROUP_FIELDS)]
    folded = SpendRollup.objects.filter(period=SpendRollup.Period.DAY, starts_at=day)
    if sum(row.requests for row in rows) < (folded.aggregate(count=Sum("requests"))["count"] or 0):
        # Rows are never taken back: these hours are not all of the day's, and the day knows better.
        logger.error("day_not_folded_its_hours_are_gone day=%s", f"{day:%Y-%m-%d}")
        return 0
    SpendRollup.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=[*LABEL_FIELDS, *FOLDED_SUMS, "updated_at"],
    )
    return len(rows)


def _day_row(*, day: datetime, row: Mapping[str, Any], now: datetime) -> SpendRollup:
    group = {name: row[name] for name in GROUP_FIELDS}
    return SpendRollup(
        id=rollup_id(
            period=SpendRollup.Period.DAY.value, starts_at=day, **{**group, "key_id": str(row["key_id"])}
        ),
        period=SpendRollup.Period.DAY,
        starts_at=day,
        updated_at=now,
        **group,
        **{name: row[f"{name}_label"] for name in LABEL_FIELDS},
        **{name: int(row[f"{name}_sum"]) for name in FOLDED_SUMS},
    )


def _day_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
