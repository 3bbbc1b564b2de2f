"""The first attempts of a period, in the order of their arrival, for a replay; writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from billing.models import UsageRecord
from billing.settled_rows import pruned_after, settled_rows, usage_of
from routing.replay import RecordedRequest
from routing.types import TOKEN_BUCKETS

REQUESTS_MAX = 200_000
# The ledger is read in the order of its index, by settling: what began in the period is settled by then.
SETTLED_WITHIN = timedelta(days=1)
COLUMNS = (
    "attempt_id",
    "settled_at",
    "started_at",
    "model",
    "key_id",
    "cluster",
    "cluster_kind",
    "surface",
    "service_tier",
    "outcome",
    "ttft_ms",
    "cost_nanousd",
    "variance_nanousd",
    *TOKEN_BUCKETS,
)


class ReplayedError(Exception):
    """A period that cannot be replayed; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The requests that began in a period, by arrival; those of one moment by attempt id.

    `failed_count` first attempts that failed before any content are not among them.
    """

    requests: tuple[RecordedRequest, ...]
    failed_count: int
    # Attempts begun before were pruned, some perhaps of the period; None: none of it.
    pruned_before: datetime | None


def recording_of(*, from_at: datetime, to_at: datetime) -> Recording:
    """Read the period; raises ReplayedError where there is nothing in it, or more than REQUESTS_MAX."""
    found: list[RecordedRequest] = []
    failed_count = 0
    records = UsageRecord.objects.filter(
        settled_at__gte=from_at,
        settled_at__lt=to_at + SETTLED_WITHIN,
        started_at__gte=from_at,
        started_at__lt=to_at,
        attempt_number=1,
    )
    for row in settled_rows(records, columns=COLUMNS):
        if row["outcome"] == UsageRecord.Outcome.FAILED:
            failed_count += 1
            continue
        if len(found) == REQUESTS_MAX:
            raise ReplayedError(
                f"the period has more than {REQUESTS_MAX:,} requests: take a shorter one, or parts of it"
            )
        found.append(_request(row, from_at=from_at))
    if not found:
        raise ReplayedError(
            f"the ledger has no answered request that began from {from_at:%Y-%m-%d %H:%M} up to "
            f"{to_at:%Y-%m-%d %H:%M} UTC: give another period with --from and --to"
        )
    found.sort(key=lambda request: (request.arrived_s, request.id))
    return Recording(
        requests=tuple(found),
        failed_count=failed_count,
        pruned_before=pruned_after(from_at),
    )


def _request(row: Mapping[str, Any], *, from_at: datetime) -> RecordedRequest:
    return RecordedRequest(
        id=str(row["attempt_id"]),
        arrived_s=(row["started_at"] - from_at).total_seconds(),
        key_id=str(row["key_id"]),
        model=row["model"],
        surface=row["surface"],
        service_tier=row["service_tier"],
        usage=usage_of(row),
        cluster=row["cluster"],
        cluster_kind=row["cluster_kind"],
        ttft_ms=row["ttft_ms"],
        cost_nanousd=row["cost_nanousd"] + row["variance_nanousd"],
    )
