"""Proves the ledger's sums against each other, and ends attempts whose gateway died."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet, Sum

from billing import ledger
from billing.closing_balances import load_hour_balances
from billing.entries import Batch, Hold, Settlement
from billing.models import (
    BudgetWindow,
    CapacityHour,
    ClosingBalance,
    Reservation,
    SpendRollup,
    UsageRecord,
)
from billing.settlements import ROLLUP_SUMS
from billing.sums import (
    OPEN_STATES,
    AttemptGroup,
    attempt_groups,
    attempt_ranges,
    rows_between,
    sums_of_hour,
)
from routing.cost import charge_of
from routing.rate_record import rate_from_record, rate_record
from routing.types import Usage

IN_DOUBT_BATCH_MAX = 500
# Attempts that one statement adds up: enough to be quick, few enough to sort in memory.
RANGE_ROWS = 50_000
HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
NOTHING = (0,) * len(ROLLUP_SUMS)


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
    """Read the ledger whole, as it stood at one moment; nobody waits for it, and it keeps no row in memory.

    Four proofs: each closed reservation has one row and each open one none; each budget window's
    spent is the sum of its rows and its held the sum of its open reservations; each hour's rollup is the
    sum of its rows; each own cluster's hour costs what its rollups used of it and what was idle. (Days are
    folded from hours anew each minute.) What was pruned counts by its closing balances.
    """
    with ledger.ledger_snapshot():
        attempts = _AttemptProof()
        attempts.read()
        drift = (*attempts.drift, *attempts.window_drift(), *_drift_of_hours(), *_drift_of_capacity())
        doubtful = _in_doubt().order_by("created_at", "attempt_id")
        return Reconciliation(
            attempts=attempts.count,
            drift=drift,
            in_doubt=tuple(_doubtful(reservation) for reservation in doubtful.iterator()),
        )


def settle_in_doubt(*, now: datetime) -> int:
    """End every attempt in doubt: charge the prompt and the tokens of its last checkpoint, free the rest.

    Both are estimates and the rows say so. Gives back how many were ended.
    """
    count = 0
    while True:
        doubtful = list(_in_doubt()[:IN_DOUBT_BATCH_MAX])
        if not doubtful:
            return count
        ledger.commit(Batch(settlements=[_settlement(reservation, now=now) for reservation in doubtful]))
        count += len(doubtful)


def _in_doubt() -> "QuerySet[Reservation]":
    # In the words of the index reservation_in_doubt: see ledger.mark_in_doubt.
    return Reservation.objects.extra(where=["state = 'in_doubt'"])


def _settlement(reservation: Reservation, *, now: datetime) -> Settlement:
    attribution = reservation.attribution
    usage = Usage(
        input_fresh_tokens=attribution.get("prompt_tokens_estimate", 0),
        output_text_tokens=reservation.output_tokens_checkpoint,
        is_estimate=True,
    )
    rate = rate_from_record(attribution["rate"])
    charge = charge_of(usage=usage, rate=rate, asked=attribution.get("service_tier") or "")
    return Settlement(
        hold=Hold(
            attempt_id=reservation.attempt_id,
            request_id=reservation.request_id,
            owner=reservation.owner,
            held_nanousd=reservation.held_nanousd,
            claims=(),
            attribution={**attribution, "rate": rate_record(rate=charge.rate)},
            at=reservation.created_at,
        ),
        usage=usage,
        cost_nanousd=charge.cost_nanousd,
        service_tier=charge.service_tier,
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


class _AttemptProof:
    """Goes through all attempts once, range by range, and keeps only the windows' sums."""

    def __init__(self) -> None:
        self.count = 0
        self.drift: list[Drift] = []
        self._spent: dict[str, int] = defaultdict(int)
        self._held: dict[str, int] = defaultdict(int)

    def read(self) -> None:
        for first, end in attempt_ranges(rows_max=RANGE_ROWS):
            groups = attempt_groups(first=first, end=end)
            row_count = rows_between(first=first, end=end).count()
            self.count += sum(group.attempts for group in groups)
            for group in groups:
                self._add(group)
            is_sound = all(group.rows == (0 if group.is_open else group.attempts) for group in groups)
            if not is_sound or row_count != sum(group.rows for group in groups):
                self.drift += _drift_of_attempts(first=first, end=end)

    def window_drift(self) -> Iterator[Drift]:
        for balance in ClosingBalance.objects.filter(kind=ClosingBalance.Kind.WINDOW).iterator():
            self._spent[balance.row_id] += balance.sums["spent_nanousd"]
        for window in BudgetWindow.objects.order_by("id").iterator():
            expected = {
                "spent": self._spent.pop(window.id, 0),
                "held": self._held.pop(window.id, 0),
            }
            found = {"spent": window.spent_nanousd, "held": window.held_nanousd}
            for name, value in expected.items():
                if found[name] != value:
                    what = f"{name} of a budget window"
                    yield Drift(what=what, id=window.id, expected=value, found=found[name])
        for window_id, value in (*self._spent.items(), *self._held.items()):
            if value:
                yield Drift(what="sum of a lost budget window", id=window_id, expected=value, found=0)

    def _add(self, group: AttemptGroup) -> None:
        for window_id in group.windows:
            if group.is_open:
                self._held[window_id] += group.held_nanousd
            else:
                self._spent[window_id] += group.cost_nanousd


def _drift_of_attempts(*, first: UUID, end: UUID | None) -> Iterator[Drift]:
    """Name each attempt of the range that has not the rows it should have."""
    reservations = Reservation.objects.filter(attempt_id__gte=first)
    records = rows_between(first=first, end=end)
    if end is not None:
        reservations = reservations.filter(attempt_id__lt=end)
    recorded, reserved = records.values("attempt_id"), reservations.values("attempt_id")
    open_ones = reservations.filter(state__in=OPEN_STATES)
    closed = reservations.exclude(state__in=OPEN_STATES)
    for what, ids, expected in (
        ("rows of a closed attempt", closed.exclude(attempt_id__in=recorded), 1),
        ("rows of an open attempt", open_ones.filter(attempt_id__in=recorded), 0),
        ("reservations of a row", records.exclude(attempt_id__in=reserved), 1),
    ):
        for attempt_id in ids.values_list("attempt_id", flat=True).iterator():
            yield Drift(what=what, id=str(attempt_id), expected=expected, found=1 - expected)


def _drift_of_hours() -> Iterator[Drift]:
    """Compare every sum of every hour's rollup with the rows, and with what was pruned of them."""
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
    has_pruned = ClosingBalance.objects.filter(kind=ClosingBalance.Kind.HOUR).exists()
    starts_at = _next_hour(EPOCH)
    while starts_at is not None:
        ends_at = starts_at + HOUR
        expected = sums_of_hour(starts_at=starts_at, ends_at=ends_at)
        rollups = list(hours.filter(starts_at=starts_at).order_by("id").values_list("id", *ROLLUP_SUMS))
        pruned = load_hour_balances(row_id for row_id, *_ in rollups) if has_pruned else {}
        for row_id, *found in rollups:
            sums = expected.pop(row_id, NOTHING)
            if row_id in pruned:
                sums = tuple(
                    value + pruned[row_id][name] for value, name in zip(sums, ROLLUP_SUMS, strict=True)
                )
            if tuple(found) != sums:
                yield from _drift_of_hour(row_id, expected=sums, found=found)
        for row_id, sums in expected.items():
            yield Drift(what="requests of an hour", id=row_id, expected=sums[0], found=0)
        starts_at = _next_hour(ends_at)
    lost = ClosingBalance.objects.filter(kind=ClosingBalance.Kind.HOUR)
    for balance in lost.exclude(row_id__in=SpendRollup.objects.values("id")).order_by("id").iterator():
        value = balance.sums["requests"]
        yield Drift(what="requests of an hour", id=balance.row_id, expected=value, found=0)


def _drift_of_hour(row_id: str, *, expected: Sequence[int], found: Sequence[int]) -> Iterator[Drift]:
    for name, should, value in zip(ROLLUP_SUMS, expected, found, strict=True):
        if should != value:
            yield Drift(what=f"{name} of an hour", id=row_id, expected=should, found=value)


def _next_hour(moment: datetime) -> datetime | None:
    """The first hour from a moment on in which rows were settled or that has a rollup."""
    rows = UsageRecord.objects.filter(settled_at__gte=moment).order_by("settled_at")
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR, starts_at__gte=moment)
    found = (
        rows.values_list("settled_at", flat=True).first(),
        hours.order_by("starts_at").values_list("starts_at", flat=True).first(),
    )
    starts = [each.astimezone(UTC).replace(minute=0, second=0, microsecond=0) for each in found if each]
    return min(starts, default=None)


def _drift_of_capacity() -> Iterator[Drift]:
    """Compare what own clusters cost with their rollups' parts and their idle, to the nano-USD.

    Hour by hour; where the hours' rollups were pruned, by whole days with those of the days.
    """
    hours = SpendRollup.objects.filter(period=SpendRollup.Period.HOUR)
    oldest = hours.order_by("starts_at").values_list("starts_at", flat=True).first()
    whole_from = LATEST if oldest is None else _day_of(oldest)
    yield from _drift_of_capacity_days(before=whole_from)
    parts: dict[tuple[str, datetime], int] = defaultdict(int)
    amortised = hours.exclude(amortised_nanousd=0)
    columns = ("cluster", "starts_at", "amortised_nanousd")
    for cluster, starts_at, part in amortised.values_list(*columns).iterator():
        parts[cluster, starts_at] += part
    for row in (
        CapacityHour.objects.filter(is_closed=True, starts_at__gte=whole_from).order_by("id").iterator()
    ):
        found = parts.pop((row.cluster, row.starts_at), 0) + row.idle_nanousd
        if found != row.cost_nanousd:
            what = "used and idle of a cluster's hour"
            yield Drift(what=what, id=row.id, expected=row.cost_nanousd, found=found)
    for (cluster, starts_at), part in sorted(parts.items()):
        row_id = f"{cluster}:{starts_at:%Y-%m-%dT%H}"
        yield Drift(what="used of an hour that is not closed", id=row_id, expected=0, found=part)


def _drift_of_capacity_days(*, before: datetime) -> Iterator[Drift]:
    used: dict[tuple[str, datetime], int] = defaultdict(int)
    for row in CapacityHour.objects.filter(is_closed=True, starts_at__lt=before).iterator():
        used[row.cluster, _day_of(row.starts_at)] += row.used_nanousd
    days = SpendRollup.objects.filter(period=SpendRollup.Period.DAY, starts_at__lt=before)
    sums = days.exclude(amortised_nanousd=0).values_list("cluster", "starts_at")
    for cluster, day, part in sums.annotate(part=Sum("amortised_nanousd")).order_by("starts_at", "cluster"):
        expected = used.pop((cluster, day), 0)
        if int(part) != expected:
            what = "used of a cluster's day"
            yield Drift(what=what, id=f"{cluster}:{day:%Y-%m-%d}", expected=expected, found=int(part))
    for (cluster, day), expected in sorted(used.items()):
        if expected:
            what = "used of a cluster's day"
            yield Drift(what=what, id=f"{cluster}:{day:%Y-%m-%d}", expected=expected, found=0)


def _day_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
