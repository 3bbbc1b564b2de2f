"""Looks up what providers charge per token in the price library: its data ships in the wheel, offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from billing.amounts import rate_rounded_up

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

# Our names of providers, where the library has another; any other name is passed on as it is.
LIBRARY_PROVIDERS = {"claude": "anthropic", "gemini": "google"}


class PriceLibraryError(ValueError):
    """A provider that the library does not know; the message names those that it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryPrice:
    """A list price. None: the library has no such price, input or output tokens' counts instead."""

    provider: str
    model: str
    input_microusd_per_mtok: int
    output_microusd_per_mtok: int
    cache_read_microusd_per_mtok: int | None
    cache_write_5m_microusd_per_mtok: int | None
    cache_write_1h_microusd_per_mtok: int | None
    reasoning_microusd_per_mtok: int | None
    source: str
    note: str


def find_price(*, provider: str, model: str, now: datetime) -> LibraryPrice | None:
    """The provider's price of the model at `now`, or None where either is unknown or not sold by token."""
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
    prices = found.get_prices(now)
    per_input, per_output = _rate(prices, "input_mtok"), _rate(prices, "output_mtok")
    if per_input is None:
        return None
    cache_write = _rate(prices, "cache_write_mtok")
    return LibraryPrice(
        provider=provider,
        model=model,
        input_microusd_per_mtok=per_input,
        # Embeddings have no output; nothing is generated, so nothing is charged.
        output_microusd_per_mtok=per_output or 0,
        cache_read_microusd_per_mtok=_rate(prices, "cache_read_mtok"),
        cache_write_5m_microusd_per_mtok=_first(_rate(prices, "cache_write_5m_mtok"), cache_write),
        cache_write_1h_microusd_per_mtok=_first(_rate(prices, "cache_write_1h_mtok"), cache_write),
        reasoning_microusd_per_mtok=_rate(prices, "output_reasoning_mtok"),
        source=f"genai-prices {version('genai-prices')}",
        note=_note(found=found, prices=prices),
    )


def _rate(prices: "ModelPrice", name: str) -> int | None:
    price = getattr(prices, name, None)
    if price is None:
        return None
    # A tiered price has a base, which holds up to the first tier.
    usd = price if isinstance(price, Decimal) else price.base
    return rate_rounded_up(usd)


def _first(*rates: int | None) -> int | None:
    return next((rate for rate in rates if rate is not None), None)


def _note(*, found: "ModelInfo", prices: "ModelPrice") -> str:
    """What a flat price leaves out."""
    from genai_prices.types import TieredPrices, TimeOfDateConstraint  # noqa: PLC0415 -- slow import

    notes = []
    tiers = [
        tier for price in vars(prices).values() if isinstance(price, TieredPrices) for tier in price.tiers
    ]
    if tiers:
        start = min(tier.start for tier in tiers)
        notes.append(f"base tier: prompts beyond {start:,} tokens cost more at the provider")
    conditional = found.prices if isinstance(found.prices, list) else []
    if any(isinstance(price.constraint, TimeOfDateConstraint) for price in conditional):
        notes.append("the provider's price changes with the time of day")
    return "; ".join(notes)
