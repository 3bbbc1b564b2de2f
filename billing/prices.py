"""The one door for prices: a row is never changed once it is effective, a new one follows it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F, Min, QuerySet, Window
from django.db.models.functions import RowNumber

from billing.amounts import RATE_MICROUSD_PER_MTOK_MAX
from billing.models import Price
from billing.price_book import RATE_NAMES, PriceBook, PriceEntry, rate_in
from billing.price_conditions import (
    MINUTES_PER_DAY,
    PriceCondition,
    PriceConditionError,
    checked_condition,
    minute_of_day,
    next_boundary,
)
from billing.revision import bump_revision, lock_revision
from routing.types import Rate

# Fewer than SQLite takes in one statement, and rows that fit one insert.
MODELS_AT_ONCE = 500
ROWS_AT_ONCE = 50


class PriceRecordError(ValueError):
    """A price that cannot be written; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTable:
    """The prices in force at one moment, and when the next one comes into force."""

    rates: Mapping[tuple[str, str], Rate]
    next_change_at: datetime | None

    def rate_of(self, *, model: str, cluster_name: str) -> Rate | None:
        """The price of the model on that cluster, else its price anywhere, else None."""
        return rate_in(rates=self.rates, model=model, cluster_name=cluster_name)


def put_price(  # noqa: PLR0913 -- a price has this many parts
    *,
    model: str,
    cluster_name: str = "",
    input_microusd_per_mtok: int,
    output_microusd_per_mtok: int,
    cache_read_microusd_per_mtok: int | None = None,
    cache_write_5m_microusd_per_mtok: int | None = None,
    cache_write_1h_microusd_per_mtok: int | None = None,
    reasoning_microusd_per_mtok: int | None = None,
    audio_input_microusd_per_mtok: int | None = None,
    audio_output_microusd_per_mtok: int | None = None,
    image_input_microusd_per_mtok: int | None = None,
    context_tokens_min: int = 0,
    service_tier: str = "",
    daily_from_minute: int = 0,
    daily_to_minute: int = MINUTES_PER_DAY,
    effective_at: datetime,
    source: str = "manual",
    source_version: str = "",
) -> bool:
    """Write what a model costs from `effective_at` on; empty rates cost as the input (or output) does.

    Returns False and writes nothing where the price in force at that moment is the same already:
    importing twice changes nothing, whatever the source is called.
    """
    try:
        condition = checked_condition(
            service_tier=service_tier,
            context_tokens_min=context_tokens_min,
            daily_from_minute=daily_from_minute,
            daily_to_minute=daily_to_minute,
        )
    except PriceConditionError as error:
        raise PriceRecordError(f"the price of {model!r}: {error}") from error
    entry = PriceEntry(
        model=model,
        cluster_name=cluster_name,
        condition=condition,
        effective_at=effective_at,
        input_microusd_per_mtok=input_microusd_per_mtok,
        output_microusd_per_mtok=output_microusd_per_mtok,
        cache_read_microusd_per_mtok=cache_read_microusd_per_mtok,
        cache_write_5m_microusd_per_mtok=cache_write_5m_microusd_per_mtok,
        cache_write_1h_microusd_per_mtok=cache_write_1h_microusd_per_mtok,
        reasoning_microusd_per_mtok=reasoning_microusd_per_mtok,
        audio_input_microusd_per_mtok=audio_input_microusd_per_mtok,
        audio_output_microusd_per_mtok=audio_output_microusd_per_mtok,
        image_input_microusd_per_mtok=image_input_microusd_per_mtok,
        source=source,
        source_version=source_version,
    )
    return put_prices([entry]) == 1


def put_prices(entries: Iterable[PriceEntry]) -> int:
    """Write those that change anything, all or none; gives back how many. A base price goes before its tiers.

    A query for each 500 models, not for each price.
    """
    ordered = sorted(entries, key=lambda entry: (entry.effective_at, len(entry.condition.needs)))
    for entry in ordered:
        _check(entry)
    with transaction.atomic():
        lock_revision()
        histories = _load_histories(sorted({entry.model for entry in ordered}))
        added = [entry for entry in ordered if histories[entry.model, entry.cluster_name].is_added(entry)]
        if added:
            Price.objects.bulk_create([_row(entry) for entry in added], batch_size=ROWS_AT_ONCE)
            bump_revision()
    return len(added)


def end_price(*, price_id: UUID, now: datetime) -> bool:
    """From now on the tier or the time of day that this price is for costs as all others do.

    Nothing is deleted: a row follows that never holds. A base price cannot end: a new price follows it.
    False where it has ended already.
    """
    price = Price.objects.filter(id=price_id).first()
    if price is None:
        raise PriceRecordError("this price is gone: load the page again")
    entry = entry_of(price)
    if entry.condition.is_base:
        raise PriceRecordError(f"the base price of {entry.model!r} cannot end: add a new price to follow it")
    condition = replace(entry.condition, daily_to_minute=entry.condition.daily_from_minute)
    ended = replace(entry, condition=condition, effective_at=now, source="manual", source_version="")
    return put_prices([ended]) == 1


def withdraw_price(*, price_id: UUID, now: datetime) -> None:
    """Delete a price that is not effective yet."""
    with transaction.atomic():
        lock_revision()
        price = Price.objects.filter(id=price_id, effective_at__gt=now).first()
        if price is None:
            raise PriceRecordError("this price is in force or was: it stays. Add a new price to follow it.")
        rest = Price.objects.filter(model=price.model, cluster_name=price.cluster_name).exclude(id=price_id)
        history = _History([entry_of(other) for other in rest])
        if any(not history.has_needs_of(entry) for entry in history.entries):
            raise PriceRecordError("tiers stand on this price: withdraw those first")
        price.delete()
        bump_revision()


def load_rates(*, now: datetime) -> RateTable:
    """The prices in force at `now`, time of day included; two queries, however many there are.

    The next change is the next price's moment or the next time of day at which one begins or ends.
    """
    book = load_book(now=now)
    upcoming = Price.objects.filter(effective_at__gt=now).aggregate(at=Min("effective_at"))["at"]
    boundary = next_boundary(minutes=book.boundaries, now=now)
    return RateTable(
        rates=book.rates_at(minute=minute_of_day(now)),
        next_change_at=min((at for at in (upcoming, boundary) if at is not None), default=None),
    )


def load_book(*, now: datetime) -> PriceBook:
    """The prices in force at `now`, those of all times of the day; one query."""
    return PriceBook(entries=tuple(entry_of(price) for price in _in_force(now=now)))


def list_entries() -> tuple[PriceEntry, ...]:
    """All prices that were ever put, by model, cluster, moment and condition; one query."""
    ordered = Price.objects.order_by(
        "model", "cluster_name", "effective_at", "service_tier", "context_tokens_min", "daily_from_minute"
    )
    return tuple(entry_of(price) for price in ordered)


def entry_of(price: Price) -> PriceEntry:
    return PriceEntry(
        model=price.model,
        cluster_name=price.cluster_name,
        condition=PriceCondition(
            service_tier=price.service_tier,
            context_tokens_min=price.context_tokens_min,
            daily_from_minute=price.daily_from_minute,
            daily_to_minute=price.daily_to_minute,
        ),
        effective_at=price.effective_at,
        **{name: getattr(price, name) for name in RATE_NAMES},
        source=price.source,
        source_version=price.source_version,
    )


class _History:
    """All prices of one model on one cluster, as they follow each other."""

    def __init__(self, entries: Sequence[PriceEntry] = ()) -> None:
        self.entries = list(entries)

    def is_added(self, entry: PriceEntry) -> bool:
        """Add the price; False where the one in force at its moment is the same already."""
        current = self._in_force(entry.condition, at=entry.effective_at)
        if current is not None and current.is_same_price(entry):
            return False
        if current is None and entry.condition.is_ended:
            return False
        if current is not None and current.effective_at == entry.effective_at:
            raise PriceRecordError(
                f"a price of {_place(entry)} from {entry.effective_at.isoformat()} exists already "
                f"and differs: prices are never changed, choose a later moment"
            )
        if not self.has_needs_of(entry):
            raise PriceRecordError(
                f"the price of {_place(entry)} needs a base price before it, for all prompts and all day"
                f"{' of that service tier too' if entry.condition.service_tier else ''}: put that first"
            )
        self.entries.append(entry)
        return True

    def has_needs_of(self, entry: PriceEntry) -> bool:
        """Whether the prices are there that the other requests pay when this price begins."""
        needed = [self._in_force(condition, at=entry.effective_at) for condition in entry.condition.needs]
        return all(found is not None and not found.condition.is_ended for found in needed)

    def _in_force(self, condition: PriceCondition, *, at: datetime) -> PriceEntry | None:
        before = [
            entry
            for entry in self.entries
            if entry.condition.key == condition.key and entry.effective_at <= at
        ]
        return max(before, key=lambda entry: entry.effective_at, default=None)


def _load_histories(models: Sequence[str]) -> dict[tuple[str, str], _History]:
    histories: dict[tuple[str, str], _History] = defaultdict(_History)
    for start in range(0, len(models), MODELS_AT_ONCE):
        for price in Price.objects.filter(model__in=models[start : start + MODELS_AT_ONCE]):
            histories[price.model, price.cluster_name].entries.append(entry_of(price))
    return histories


def _in_force(*, now: datetime) -> "QuerySet[Price]":
    kinds = ["model", "cluster_name", "service_tier", "context_tokens_min", "daily_from_minute"]
    rank = Window(RowNumber(), partition_by=kinds, order_by=F("effective_at").desc())
    return Price.objects.filter(effective_at__lte=now).annotate(rank=rank).filter(rank=1)


def _row(entry: PriceEntry) -> Price:
    return Price(
        model=entry.model,
        cluster_name=entry.cluster_name,
        effective_at=entry.effective_at,
        service_tier=entry.condition.service_tier,
        context_tokens_min=entry.condition.context_tokens_min,
        daily_from_minute=entry.condition.daily_from_minute,
        daily_to_minute=entry.condition.daily_to_minute,
        **{name: getattr(entry, name) for name in RATE_NAMES},
        source=entry.source,
        source_version=entry.source_version,
    )


def _place(entry: PriceEntry) -> str:
    condition = f" ({entry.condition})" if str(entry.condition) else ""
    cluster = f" on {entry.cluster_name}" if entry.cluster_name else ""
    return f"{entry.model!r}{cluster}{condition}"


def _check(entry: PriceEntry) -> None:
    if not entry.model:
        raise PriceRecordError("a price needs the name of a model")
    if entry.condition.is_ended and entry.condition.key == PriceCondition().key:
        raise PriceRecordError(f"the base price of {entry.model!r} cannot end: add a new price to follow it")
    if entry.effective_at.tzinfo is None:
        raise PriceRecordError(f"the moment {entry.effective_at} of a price needs a time zone")
    for rate in entry.rates:
        if rate is not None and not 0 <= rate <= RATE_MICROUSD_PER_MTOK_MAX:
            raise PriceRecordError(
                f"the rate {rate} of {entry.model!r} is not between 0 and {RATE_MICROUSD_PER_MTOK_MAX} "
                f"micro-USD per million tokens"
            )
