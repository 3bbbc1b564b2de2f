"""The first attempts of a period, in the order of their arrival, for a replay; writes nothing."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from billing.models import UsageRecord
from routing.replay import RecordedRequest
from routing.types import Usage

ROWS_AT_ONCE = 2_000
REQUESTS_MAX = 200_000
# The ledger is read in the order of its index, by settling: what began in the period is settled by then.
SETTLED_WITHIN = timedelta(days=1)
TOKENS = (
    "input_fresh_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_text_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "input_audio_tokens",
    "input_image_tokens",
)
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
    "cost_nanousd",
    "variance_nanousd",
    *TOKENS,
)


class ReplayedError(Exception):
    """A period that cannot be replayed; the text says why and what to do."""


def requests_of(*, from_at: datetime, to_at: datetime) -> list[RecordedRequest]:
    """The requests that began in the period, by arrival; those of one moment by attempt id.

    Raises ReplayedError where there are more than REQUESTS_MAX.
    """
    found: list[RecordedRequest] = []
    for row in _rows(from_at=from_at, to_at=to_at):
        if len(found) == REQUESTS_MAX:
            raise ReplayedError(
                f"the period has more than {REQUESTS_MAX:,} requests: take a shorter one, or replay it in parts"
            )
        found.append(_request(row, from_at=from_at))
    found.sort(key=lambda request: (request.arrived_s, request.id))
    return found


def _request(row: Mapping[str, Any], *, from_at: datetime) -> RecordedRequest:
    return RecordedRequest(
        id=str(row["attempt_id"]),
        arrived_s=(row["started_at"] - from_at).total_seconds(),
        key_id=str(row["key_id"]),
        model=row["model"],
        surface=row["surface"],
        service_tier=row["service_tier"],
        usage=Usage(**{name: row[name] for name in TOKENS}),
        cluster=row["cluster"],
        cluster_kind=row["cluster_kind"],
        cost_nanousd=row["cost_nanousd"] + row["variance_nanousd"],
    )


def _rows(*, from_at: datetime, to_at: datetime) -> Iterator[Mapping[str, Any]]:
    """Page by page behind the last one (keyset), by settling, which the index is of."""
    records = UsageRecord.objects.filter(
        settled_at__gte=from_at,
        settled_at__lt=to_at + SETTLED_WITHIN,
        started_at__gte=from_at,
        started_at__lt=to_at,
        attempt_number=1,
    )
    ordered = records.order_by("settled_at", "attempt_id").values(*COLUMNS)
    page = list(ordered[:ROWS_AT_ONCE])
    while page:
        yield from page
        last = page[-1]
        behind = Q(settled_at__gt=last["settled_at"]) | Q(
            settled_at=last["settled_at"], attempt_id__gt=last["attempt_id"]
        )
        # The plain condition beside it is what the index is read by.
        page = list(ordered.filter(behind, settled_at__gte=last["settled_at"])[:ROWS_AT_ONCE])
