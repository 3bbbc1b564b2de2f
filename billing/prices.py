"""The one door for prices: a row is never changed once it is effective, a new one follows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F, Min, Window
from django.db.models.functions import RowNumber

from billing.amounts import RATE_MICROUSD_PER_MTOK_MAX
from billing.models import Price
from billing.revision import bump_revision
from routing.types import Rate


class PriceRecordError(ValueError):
    """A price that cannot be written; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTable:
    """The prices in force at one moment, and when the next one comes into force."""

    rates: Mapping[tuple[str, str], Rate]
    next_change_at: datetime | None

    def rate_of(self, *, model: str, cluster_name: str) -> Rate | None:
        """The price of the model on that cluster, else its price anywhere, else None."""
        return self.rates.get((model, cluster_name)) or self.rates.get((model, ""))


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
    effective_at: datetime,
    source: str = "manual",
) -> bool:
    """Write what a model costs from `effective_at` on; empty rates cost as the input (or output) does.

    Returns False and writes nothing where the price in force at that moment has the same rates already:
    importing twice changes nothing, whatever the source is called.
    """
    price = Price(
        model=model,
        cluster_name=cluster_name,
        effective_at=effective_at,
        input_microusd_per_mtok=input_microusd_per_mtok,
        output_microusd_per_mtok=output_microusd_per_mtok,
        cache_read_microusd_per_mtok=cache_read_microusd_per_mtok,
        cache_write_5m_microusd_per_mtok=cache_write_5m_microusd_per_mtok,
        cache_write_1h_microusd_per_mtok=cache_write_1h_microusd_per_mtok,
        reasoning_microusd_per_mtok=reasoning_microusd_per_mtok,
        source=source,
    )
    _check(price)
    with transaction.atomic():
        current = (
            Price.objects.filter(model=model, cluster_name=cluster_name, effective_at__lte=effective_at)
            .order_by("-effective_at")
            .first()
        )
        if current is not None and _rates(current) == _rates(price):
            return False
        if current is not None and current.effective_at == effective_at:
            raise PriceRecordError(
                f"a price of {model!r} from {effective_at.isoformat()} exists already and differs: "
                f"prices are never changed, choose a later moment"
            )
        price.save(force_insert=True)
        bump_revision()
    return True


def withdraw_price(*, price_id: UUID, now: datetime) -> None:
    """Delete a price that is not effective yet."""
    with transaction.atomic():
        deleted_count, _ = Price.objects.filter(id=price_id, effective_at__gt=now).delete()
        if deleted_count == 0:
            raise PriceRecordError("this price is in force or was: it stays. Add a new price to follow it.")
        bump_revision()


def load_rates(*, now: datetime) -> RateTable:
    """The prices in force at `now`; two queries, however many there are."""
    rank = Window(RowNumber(), partition_by=["model", "cluster_name"], order_by=F("effective_at").desc())
    in_force = Price.objects.filter(effective_at__lte=now).annotate(rank=rank).filter(rank=1)
    upcoming = Price.objects.filter(effective_at__gt=now).aggregate(at=Min("effective_at"))
    return RateTable(
        rates={(price.model, price.cluster_name): rate_from_price(price) for price in in_force},
        next_change_at=upcoming["at"],
    )


def rate_from_price(price: Price) -> Rate:
    """The price with its empty columns filled: caching costs as input does, reasoning as output."""
    per_input = price.input_microusd_per_mtok
    per_output = price.output_microusd_per_mtok
    return Rate(
        input_microusd_per_mtok=per_input,
        output_microusd_per_mtok=per_output,
        cache_read_microusd_per_mtok=_filled(price.cache_read_microusd_per_mtok, per_input),
        cache_write_5m_microusd_per_mtok=_filled(price.cache_write_5m_microusd_per_mtok, per_input),
        cache_write_1h_microusd_per_mtok=_filled(price.cache_write_1h_microusd_per_mtok, per_input),
        reasoning_microusd_per_mtok=_filled(price.reasoning_microusd_per_mtok, per_output),
        audio_input_microusd_per_mtok=_filled(price.audio_input_microusd_per_mtok, per_input),
        audio_output_microusd_per_mtok=_filled(price.audio_output_microusd_per_mtok, per_output),
        image_input_microusd_per_mtok=_filled(price.image_input_microusd_per_mtok, per_input),
        source=price.source,
    )


def _filled(rate_microusd_per_mtok: int | None, default_microusd_per_mtok: int) -> int:
    # Zero is a price (a free cache), not an absence.
    return default_microusd_per_mtok if rate_microusd_per_mtok is None else rate_microusd_per_mtok


def _rates(price: Price) -> tuple[int | None, ...]:
    return (
        price.input_microusd_per_mtok,
        price.output_microusd_per_mtok,
        price.cache_read_microusd_per_mtok,
        price.cache_write_5m_microusd_per_mtok,
        price.cache_write_1h_microusd_per_mtok,
        price.reasoning_microusd_per_mtok,
    )


def _check(price: Price) -> None:
    if not price.model:
        raise PriceRecordError("a price needs the name of a model")
    if price.effective_at.tzinfo is None:
        raise PriceRecordError(f"the moment {price.effective_at} of a price needs a time zone")
    for rate in _rates(price):
        if rate is not None and not 0 <= rate <= RATE_MICROUSD_PER_MTOK_MAX:
            raise PriceRecordError(
                f"the rate {rate} of {price.model!r} is not between 0 and {RATE_MICROUSD_PER_MTOK_MAX} "
                f"micro-USD per million tokens"
            )
