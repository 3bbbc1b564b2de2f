"""Adds settled attempts to the sums of their experiment's arm, in the transaction that settles them."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from billing.latency_buckets import bucket_of
from billing.models import ExperimentHour, ExperimentLatency, UsageRecord
from billing.statements import additions
from routing.types import TOKEN_BUCKETS

ID_CHARACTERS = 40
SUMS = (
    "attempts",
    "errors",
    "crossed_over",
    "cost_nanousd",
    "cost_squares",
    "tokens",
    "tokens_squares",
    "cost_times_tokens",
    "ttft_count",
    "ttft_ms",
    "ttft_ms_squares",
    "ttft_log",
    "ttft_log_squares",
    "feedback_count",
    "feedback_score",
    "feedback_squares",
)
NOTHING: Mapping[str, Any] = dict.fromkeys(SUMS, 0)
# The caller who left says nothing of the arm; neither does an attempt that was never sent.
ERRORS = frozenset({UsageRecord.Outcome.FAILED.value, UsageRecord.Outcome.TRUNCATED.value})
NOT_THE_ARMS = frozenset({"draining", "ledger_unavailable"})


def arm_additions(
    connection: Any, records: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Sequence[Any]]]:
    """The statements that add these rows of usage, as they are written, to their arms; in id order."""
    of_arms = [record for record in records if record["experiment"]]
    yield from hour_additions(connection, (_hour_row(record) for record in of_arms))
    latencies = (
        _latency_row(record)
        for record in of_arms
        if record["ttft_ms"] is not None and record["served_model"] == record["arm"]
    )
    yield from additions(ExperimentLatency, latencies, connection=connection, sums=("count",), latest=())


def hour_additions(connection: Any, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Add rows of an hour to those that are there."""
    return additions(ExperimentHour, rows, connection=connection, sums=SUMS)


def hour_of(*, experiment: str, arm: str, at: datetime, now: datetime) -> dict[str, Any]:
    """An hour's row that adds nothing yet."""
    starts_at = at.replace(minute=0, second=0, microsecond=0)
    return {
        **NOTHING,
        "id": _digest(experiment, arm, starts_at),
        "experiment": experiment,
        "arm": arm,
        "starts_at": starts_at,
        "updated_at": now,
    }


def _hour_row(record: Mapping[str, Any]) -> dict[str, Any]:
    at = record["settled_at"]
    row = hour_of(experiment=record["experiment"], arm=record["arm"], at=at, now=at)
    if record["served_model"] != record["arm"]:
        return {**row, "crossed_over": 1}
    if record["error_code"] in NOT_THE_ARMS:
        return row
    is_error = record["outcome"] in ERRORS
    cost = record["cost_nanousd"]
    tokens = sum(record[name] for name in TOKEN_BUCKETS)
    row.update(
        attempts=1,
        errors=int(is_error),
        cost_nanousd=cost,
        cost_squares=float(cost) ** 2,
        tokens=tokens,
        tokens_squares=float(tokens) ** 2,
        cost_times_tokens=float(cost) * tokens,
    )
    ttft_ms = record["ttft_ms"]
    if ttft_ms is not None:
        log = math.log(max(ttft_ms, 1))
        row.update(
            ttft_count=1,
            ttft_ms=ttft_ms,
            ttft_ms_squares=float(ttft_ms) ** 2,
            ttft_log=log,
            ttft_log_squares=log**2,
        )
    return row


def _latency_row(record: Mapping[str, Any]) -> dict[str, Any]:
    day = record["settled_at"].replace(hour=0, minute=0, second=0, microsecond=0)
    bucket = bucket_of(record["ttft_ms"])
    return {
        "id": _digest(record["experiment"], record["arm"], day, bucket),
        "experiment": record["experiment"],
        "arm": record["arm"],
        "starts_at": day,
        "bucket": bucket,
        "count": 1,
    }


def _digest(experiment: str, arm: str, starts_at: datetime, bucket: int | None = None) -> str:
    # JSON keeps the columns apart: ("a", "bc") and ("ab", "c") must not meet.
    columns = json.dumps([experiment, arm, starts_at.astimezone(UTC).isoformat(), bucket])
    return hashlib.sha256(columns.encode()).hexdigest()[:ID_CHARACTERS]
