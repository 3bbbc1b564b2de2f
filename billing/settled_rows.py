"""Reads settled attempts page by page in the order of their settling, and makes a usage of a row."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Max, Q, QuerySet

from billing.models import PrunedPeriod, UsageRecord
from routing.types import TOKEN_BUCKETS, Usage

ROWS_AT_ONCE = 2_000
REQUEST_ID_CHARACTERS_MAX = 64


def settled_rows(records: QuerySet[UsageRecord], *, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The rows behind the last one, page by page (keyset): memory does not grow, and nothing is locked.

    The columns must have `settled_at` and `attempt_id`.
    """
    ordered = records.order_by("settled_at", "attempt_id").values(*columns)
    page = list(ordered[:ROWS_AT_ONCE])
    while page:
        yield from page
        last = page[-1]
        behind = Q(settled_at__gt=last["settled_at"]) | Q(
            settled_at=last["settled_at"], attempt_id__gt=last["attempt_id"]
        )
        # The plain condition beside it is what the index is read by.
        page = list(ordered.filter(behind, settled_at__gte=last["settled_at"])[:ROWS_AT_ONCE])


def usage_of(row: Mapping[str, Any], *, is_estimate: bool = False) -> Usage:
    return Usage(**{name: row[name] for name in TOKEN_BUCKETS}, is_estimate=is_estimate)


def pruned_before() -> datetime | None:
    """Attempts that began before were pruned; None: none was."""
    at: datetime | None = PrunedPeriod.objects.aggregate(at=Max("begun_before"))["at"]
    return at


def pruned_after(from_at: datetime) -> datetime | None:
    """The same where it touches a period that begins then; None: nothing of the period was pruned."""
    at = pruned_before()
    return at if at is not None and at > from_at else None
