"""Looks up what providers charge per token in the price library: its data ships in the wheel, offline."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from billing.amounts import rate_rounded_up
from billing.price_book import PriceEntry
from billing.price_conditions import PriceCondition, checked_condition
from routing.cost import STANDARD_SERVICE_TIERS

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, TimeOfDateConstraint

# Our names of providers, where the library has another; any other name is passed on as it is.
LIBRARY_PROVIDERS = {"claude": "anthropic", "gemini": "google", "bedrock": "aws", "xai": "x-ai"}
SOURCE = "genai-prices"
# Our rates and the library's names of them, the first that it has.
LIBRARY_RATES = {
    "cache_read_microusd_per_mtok": ("cache_read_mtok",),
    "cache_write_5m_microusd_per_mtok": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h_microusd_per_mtok": ("cache_write_1h_mtok", "cache_write_mtok"),
    "reasoning_microusd_per_mtok": ("output_reasoning_mtok",),
    "audio_input_microusd_per_mtok": ("input_audio_mtok",),
    "audio_output_microusd_per_mtok": ("output_audio_mtok",),
    "image_input_microusd_per_mtok": ("input_image_mtok",),
}
LIBRARY_NAMES = frozenset(
    {"input_mtok", "output_mtok", *(name for names in LIBRARY_RATES.values() for name in names)}
)


class PriceLibraryError(ValueError):
    """A provider that the library does not know; the message names those that it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPrice:
    """What a provider charges for a model, now and from later days on; the base price now comes first."""

    provider: str
    model: str
    entries: tuple[PriceEntry, ...]
    # What the library knows and our prices have no place for.
    note: str

    @property
    def base(self) -> PriceEntry:
        return self.entries[0]


def find_price(*, provider: str, model: str, now: datetime) -> LibraryPrice | None:
    """The provider's prices of the model from `now` on; None where either is unknown or not sold by token."""
    try:
        _, found = _snapshot().find_provider_model(model, None, _library_provider(provider), None)
    except LookupError:
        return None
    return _library_price(provider=provider, model=model, found=found, now=now)


def find_context_window(*, provider: str, model: str) -> int | None:
    """How many tokens the provider's model takes, prompt and answer together; None where unknown."""
    try:
        _, found = _snapshot().find_provider_model(model, None, _library_provider(provider), None)
    except LookupError:
        return None
    return found.context_window


def list_prices(*, provider: str, now: datetime) -> tuple[LibraryPrice, ...]:
    """The prices of all models of a provider, under each exact name that the library has for them."""
    snapshot = _snapshot()
    try:
        found_provider = snapshot.find_provider(None, _library_provider(provider), None)
    except LookupError as error:
        known = ", ".join(sorted(provider.id for provider in snapshot.providers))
        raise PriceLibraryError(
            f"the price library knows no provider {provider!r}; it knows {known}"
        ) from error
    named = {name: found for found in found_provider.models for name in _names(found)}
    prices = (
        _library_price(provider=provider, model=name, found=found, now=now)
        for name, found in sorted(named.items())
    )
    return tuple(price for price in prices if price is not None)


def _snapshot() -> "DataSnapshot":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 -- slow import

    return get_snapshot()


def _library_provider(provider: str) -> str:
    return LIBRARY_PROVIDERS.get(provider, provider)


def _names(found: "ModelInfo") -> Iterator[str]:
    """The model's id and the exact names among its aliases (dated releases, mostly)."""
    from genai_prices.types import ClauseEquals, ClauseOr  # noqa: PLC0415 -- slow import

    yield found.id
    clauses = found.match.or_ if isinstance(found.match, ClauseOr) else [found.match]
    for clause in clauses:
        if isinstance(clause, ClauseEquals):
            yield clause.equals


def _library_price(*, provider: str, model: str, found: "ModelInfo", now: datetime) -> LibraryPrice | None:
    entries: list[PriceEntry] = []
    before: dict[tuple[str, int, int], PriceEntry] = {}
    for moment in (now, *_later_starts(found, now=now)):
        at_moment = {entry.condition.key: entry for entry in _entries(found, model=model, moment=moment)}
        changed = [entry for key, entry in at_moment.items() if not _is_known(entry, before.get(key))]
        ended = [_ended(entry, moment=moment) for key, entry in before.items() if key not in at_moment]
        entries += [*changed, *ended]
        before = at_moment
    if not entries or entries[0].effective_at != now:
        return None
    return LibraryPrice(
        provider=provider, model=model, entries=tuple(entries), note=_note(found=found, now=now)
    )


def _is_known(entry: PriceEntry, before: PriceEntry | None) -> bool:
    return before is not None and before.is_same_price(entry)


def _ended(entry: PriceEntry, *, moment: datetime) -> PriceEntry:
    condition = replace(entry.condition, daily_to_minute=entry.condition.daily_from_minute)
    return replace(entry, condition=condition, effective_at=moment)


def _later_starts(found: "ModelInfo", *, now: datetime) -> list[datetime]:
    """The days to come at which a price of the model begins: midnight in UTC."""
    from genai_prices.types import StartDateConstraint  # noqa: PLC0415 -- slow import

    conditional = found.prices if isinstance(found.prices, list) else []
    constraints = [price.constraint for price in (*conditional, *(found.price_variants or ()))]
    dates = {each.start_date for each in constraints if isinstance(each, StartDateConstraint)}
    starts = [datetime.combine(date, time(), tzinfo=UTC) for date in sorted(dates)]
    return [start for start in starts if start > now]


def _entries(found: "ModelInfo", *, model: str, moment: datetime) -> Iterator[PriceEntry]:
    """All prices of the model that hold on that day: base, context tiers, service tiers, times of the day."""
    base, windows = _of_the_day(found, moment=moment)
    yield from _with_context_tiers(base, model=model, condition=PriceCondition(), moment=moment)
    for name, context in _service_tiers(found, moment=moment).items():
        prices = found.get_prices(moment, context)
        condition = checked_condition(service_tier=name)
        yield from _with_context_tiers(prices, model=model, condition=condition, moment=moment)
    for window in windows:
        condition = _window(window.constraint)  # type: ignore[arg-type]  # _of_the_day chose them
        yield from _with_context_tiers(window.prices, model=model, condition=condition, moment=moment)


def _of_the_day(found: "ModelInfo", *, moment: datetime) -> "tuple[ModelPrice, list[ConditionalPrice]]":
    """The price for all day, and those for a part of it; the last in the library's list goes first."""
    from genai_prices.types import TimeOfDateConstraint  # noqa: PLC0415 -- slow import

    if not isinstance(found.prices, list):
        return found.prices, []
    windows: list[ConditionalPrice] = []
    for price in reversed(found.prices):
        if isinstance(price.constraint, TimeOfDateConstraint):
            windows.append(price)
        elif price.constraint is None or price.constraint.active(moment):
            return price.prices, windows
    return found.prices[0].prices, windows


def _window(constraint: "TimeOfDateConstraint") -> PriceCondition:
    start, end = (
        datetime.combine(datetime(2000, 1, 1, tzinfo=UTC), each).astimezone(UTC)
        if each.tzinfo is not None
        else datetime.combine(datetime(2000, 1, 1, tzinfo=UTC), each, tzinfo=UTC)
        for each in (constraint.start_time, constraint.end_time)
    )
    return checked_condition(
        daily_from_minute=start.hour * 60 + start.minute, daily_to_minute=end.hour * 60 + end.minute
    )


def _service_tiers(found: "ModelInfo", *, moment: datetime) -> dict[str, dict[str, str]]:
    """The service tiers that the model is sold at on that day, and what the library asks for them by."""
    tiers: dict[str, dict[str, str]] = {}
    for variant in found.price_variants or ():
        is_active = variant.constraint is None or variant.constraint.active(moment)
        name = _service_tier(variant.when)
        if is_active and name:
            tiers.setdefault(name, variant.when)
    return tiers


def _service_tier(when: dict[str, str]) -> str:
    """The name of the service tier; nothing for the standard one, and for what is none (a route, a speed)."""
    if when == {"processing": "batch"}:
        return "batch"
    name = when["service_tier"] if when.keys() == {"service_tier"} else ""
    return "" if name in STANDARD_SERVICE_TIERS else name


def _with_context_tiers(
    prices: "ModelPrice", *, model: str, condition: PriceCondition, moment: datetime
) -> Iterator[PriceEntry]:
    """One price for every prompt, and one from each size on at which any of its rates changes."""
    from genai_prices.types import TieredPrices  # noqa: PLC0415 -- slow import

    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    # The library's tiers hold for more than `start` tokens, ours from a number on.
    starts = sorted({tier.start + 1 for price in tiered for tier in price.tiers})
    for tokens_min in (0, *starts):
        per_input = _rate(prices, "input_mtok", tokens=tokens_min)
        if per_input is None:
            return
        filled: dict[str, Any] = {
            ours: _first(*(_rate(prices, name, tokens=tokens_min) for name in names))
            for ours, names in LIBRARY_RATES.items()
        }
        yield PriceEntry(
            model=model,
            condition=replace(condition, context_tokens_min=tokens_min),
            effective_at=moment,
            input_microusd_per_mtok=per_input,
            # Embeddings have no output; nothing is generated, so nothing is charged.
            output_microusd_per_mtok=_rate(prices, "output_mtok", tokens=tokens_min) or 0,
            **filled,
            source=SOURCE,
            source_version=version(SOURCE),
        )


def _rate(prices: "ModelPrice", name: str, *, tokens: int) -> int | None:
    """The rate for a prompt of so many tokens: of the highest tier that it is beyond."""
    price = getattr(prices, name, None)
    if price is None or isinstance(price, Decimal):
        return None if price is None else rate_rounded_up(price)
    reached = [tier.price for tier in price.tiers if tokens > tier.start]
    return rate_rounded_up(reached[-1] if reached else price.base)


def _first(*rates: int | None) -> int | None:
    return next((rate for rate in rates if rate is not None), None)


def _note(*, found: "ModelInfo", now: datetime) -> str:
    """What the provider charges for besides, in the library's words."""
    base, _ = _of_the_day(found, moment=now)
    others = sorted(
        name for name, price in vars(base).items() if price is not None and name not in LIBRARY_NAMES
    )
    variants = sorted(
        {
            f"{key}={value}"
            for variant in found.price_variants or ()
            for key, value in variant.when.items()
            if not _service_tier(variant.when) and value not in STANDARD_SERVICE_TIERS
        }
    )
    notes = [f"charged besides, not counted here: {', '.join(others)}"] if others else []
    if variants:
        notes.append(f"sold at other prices too, not counted here: {', '.join(variants)}")
    return "; ".join(notes)
