"""Proves the ledger's sums against each other, and ends attempts whose gateway died."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from billing import ledger
from billing.entries import Batch, Hold, Settlement
from billing.models import BudgetWindow, CapacityHour, Reservation, SpendRollup, UsageRecord
from billing.rollup_key import rollup_id
from billing.settlements import ROLLUP_SUMS
from routing.cost import cost_nanousd
from routing.types import Rate, Usage

OPEN_STATES = (Reservation.State.HELD, Reservation.State.IN_DOUBT)
IN_DOUBT_BATCH_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two numbers of the ledger that should be equal and are not."""

    what: str
    id: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulAttempt:
    """An attempt whose gateway died before settling it; its money is still held."""

    attempt_id: str
    request_id: str
    cluster: str
    held_nanousd: int
    output_tokens_checkpoint: int
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What a look at the whole ledger found. `attempts` counts the reservations."""

    attempts: int
    drift: tuple[Drift, ...]
    in_doubt: tuple[DoubtfulAttempt, ...]

    @property
    def is_ok(self) -> bool:
        return not self.drift

    def as_document(self) -> dict[str, Any]:
        """For `reconcile_ledger --json`."""
        return {
            "ok": self.is_ok,
            "attempts": self.attempts,
            "drift": [asdict(drift) for drift in self.drift],
            "in_doubt": [asdict(attempt) for attempt in self.in_doubt],
        }


def reconcile() -> Reconciliation:
    """Read the ledger whole, inside its lock so that no batch is seen half written.

    Four proofs: each closed reservation has one row and each open one none; each budget window's
    spent is the sum of its rows and its held the sum of its open reservations; each hour's rollup is the
    sum of its rows; each own cluster's hour costs what its rollups used of it and what was idle. (Days are
    folded from hours anew each minute.)
    """
    with ledger.ledger_transaction():
        drift = (*_drift_of_attempts(), *_drift_of_windows(), *_drift_of_hours(), *_drift_of_capacity())
        doubtful = Reservation.objects.filter(state=Reservation.State.IN_DOUBT).order_by("created_at")
        return Reconciliation(
            attempts=Reservation.objects.count(),
            drift=drift,
            in_doubt=tuple(_doubtful(reservation) for reservation in doubtful.iterator()),
        )


def settle_in_doubt(*, now: datetime) -> int:
    """End every attempt in doubt: charge the prompt and the tokens of its last checkpoint, free the rest.

    Both are estimates and the rows say so. Gives back how many were ended.
    """
    count = 0
    while True:
        doubtful = list(Reservation.objects.filter(state=Reservation.State.IN_DOUBT)[:IN_DOUBT_BATCH_MAX])
        if not doubtful:
            return count
        ledger.commit(Batch(settlements=[_settlement(reservation, now=now) for reservation in doubtful]))
        count += len(doubtful)


def _settlement(reservation: Reservation, *, now: datetime) -> Settlement:
    attribution = reservation.attribution
    usage = Usage(
        input_fresh_tokens=attribution.get("prompt_tokens_estimate", 0),
        output_text_tokens=reservation.output_tokens_checkpoint,
        is_estimate=True,
    )
    return Settlement(
        hold=Hold(
            attempt_id=reservation.attempt_id,
            request_id=reservation.request_id,
            owner=reservation.owner,
            held_nanousd=reservation.held_nanousd,
            claims=(),
            attribution=attribution,
            at=reservation.created_at,
        ),
        usage=usage,
        cost_nanousd=cost_nanousd(usage=usage, rate=Rate(**attribution["rate"])),
        outcome=UsageRecord.Outcome.IN_DOUBT.value,
        error_code="gateway_died",
        duration_ms=int((reservation.updated_at - reservation.created_at).total_seconds() * 1000),
        at=now,
    )


def _doubtful(reservation: Reservation) -> DoubtfulAttempt:
    return DoubtfulAttempt(
        attempt_id=str(reservation.attempt_id),
        request_id=reservation.request_id,
        cluster=reservation.attribution.get("cluster", ""),
        held_nanousd=reservation.held_nanousd,
        output_tokens_checkpoint=reservation.output_tokens_checkpoint,
        started_at=reservation.created_at.isoformat(),
    )


def _drift_of_attempts() -> Iterator[Drift]:
    recorded = UsageRecord.objects.values("attempt_id")
    closed = Reservation.objects.exclude(state__in=OPEN_STATES)
    for attempt_id in closed.exclude(attempt_id__in=recorded).values_list("attempt_id", flat=True).iterator():
        yield Drift(what="rows of a closed attempt", id=str(attempt_id), expected=1, found=0)
    still_open = Reservation.objects.filter(state__in=OPEN_STATES, attempt_id__in=recorded)
    for attempt_id in still_open.values_list("attempt_id", flat=True).iterator():
        yield Drift(what="rows of an open attempt", id=str(attempt_id), expected=0, found=1)
    reserved = Reservation.objects.values("attempt_id")
    orphans = UsageRecord.objects.exclude(attempt_id__in=reserved).values_list("attempt_id", flat=True)
    for attempt_id in orphans.iterator():
        yield Drift(what="reservations of a row", id=str(attempt_id), expected=1, found=0)


def _drift_of_windows() -> Iterator[Drift]:
    spent, held = _window_sums()
    for window in BudgetWindow.objects.order_by("id").iterator():
        if window.spent_nanousd != spent[window.id]:
            yield Drift(
                what="spent of a budget window",
                id=window.id,
                expected=spent[window.id],
                found=window.spent_nanousd,
            )
        if window.held_nanousd != held[window.id]:
            yield Drift(
                what="held of a budget window",
                id=window.id,
                expected=held[window.id],
                found=window.held_nanousd,
            )


def _window_sums() -> tuple[dict[str, int], dict[str, int]]:
    """Spent and held of each window, added up from the attempts that count against it."""
    spent: dict[str, int] = defaultdict(int)
    held: dict[str, int] = defaultdict(int)
    in_windows: dict[UUID, list[str]] = {}
    rows = Reservation.objects.exclude(windows=[]).values_list(
        "attempt_id", "state", "held_nanousd", "windows"
    )
    for attempt_id, state, held_nanousd, windows in rows.iterator():
        if state in OPEN_STATES:
            for window_id in windows:
                held[window_id] += held_nanousd
        else:
            in_windows[attempt_id] = windows
    costs = UsageRecord.objects.filter(cost_nanousd__gt=0).values_list("attempt_id", "cost_nanousd")
    for attempt_id, cost in costs.iterator():
        for window_id in in_windows.get(attempt_id, ()):
            spent[window_id] += cost
    return spent, held


def _drift_of_hours() -> Iterator[Drift]:
    """Compare every sum of every hour's rollup with the rows."""
    expected = dict.fromkeys(ROLLUP_SUMS, 0)
    by_id: dict[str, dict[str, int]] = defaultdict(lambda: dict(expected))
    for record in UsageRecord.objects.order_by().iterator():
        for name, value in _rollup_sums(record).items():
            by_id[_hour_id(record)][name] += value
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
    for row in hours.iterator():
        sums = by_id.pop(row.id, expected)
        for name in ROLLUP_SUMS:
            if getattr(row, name) != sums[name]:
                yield Drift(
                    what=f"{name} of an hour", id=row.id, expected=sums[name], found=getattr(row, name)
                )
    for row_id, sums in by_id.items():
        yield Drift(what="requests of an hour", id=row_id, expected=sums["requests"], found=0)


def _drift_of_capacity() -> Iterator[Drift]:
    """Compare what each own cluster's hour costs with its rollups' parts and its idle, to the nano-USD."""
    parts: dict[tuple[str, datetime], int] = defaultdict(int)
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR).exclude(amortised_nanousd=0)
    for cluster, starts_at, part in hours.values_list("cluster", "starts_at", "amortised_nanousd").iterator():
        parts[cluster, starts_at] += part
    for row in CapacityHour.objects.filter(is_closed=True).order_by("id").iterator():
        found = parts.pop((row.cluster, row.starts_at), 0) + row.idle_nanousd
        if found != row.cost_nanousd:
            yield Drift(
                what="used and idle of a cluster's hour", id=row.id, expected=row.cost_nanousd, found=found
            )
    for (cluster, starts_at), part in sorted(parts.items()):
        row_id = f"{cluster}:{starts_at:%Y-%m-%dT%H}"
        yield Drift(what="used of an hour that is not closed", id=row_id, expected=0, found=part)


def _rollup_sums(record: UsageRecord) -> dict[str, int]:
    cached = record.cache_read_tokens
    return {
        "requests": 1,
        "failures": int(record.outcome == UsageRecord.Outcome.FAILED),
        "estimates": int(record.is_estimate),
        "input_tokens": record.input_fresh_tokens
        + cached
        + record.cache_write_5m_tokens
        + record.cache_write_1h_tokens
        + record.input_audio_tokens
        + record.input_image_tokens,
        "cache_read_tokens": cached,
        "output_tokens": record.output_text_tokens + record.reasoning_tokens + record.audio_tokens,
        "cost_nanousd": record.cost_nanousd,
        "reported_cost_nanousd": record.reported_cost_nanousd or 0,
        "compared_cost_nanousd": 0 if record.reported_cost_nanousd is None else record.cost_nanousd,
    }


def _hour_id(record: UsageRecord) -> str:
    return rollup_id(
        period=SpendRollup.Period.HOUR.value,
        starts_at=record.settled_at.replace(minute=0, second=0, microsecond=0),
        organisation=record.organisation,
        team=record.team,
        key_id=str(record.key_id),
        model=record.model,
        cluster=record.cluster,
    )
