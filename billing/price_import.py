"""Brings the price library's prices into the price table; those entered by hand stay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from billing.price_book import PriceBook, PriceEntry
from billing.price_library import SOURCE, LibraryPrice, find_price, list_prices
from billing.prices import load_book, put_prices

MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceImport:
    """What an import did. `skipped` names models whose prices were entered by hand and stay."""

    written_count: int
    unchanged_count: int
    skipped: tuple[str, ...]
    # What the library knows and was not imported, by model.
    notes: tuple[tuple[str, str], ...]


def find_prices(
    *, providers: Sequence[str], models: Sequence[str] | None, now: datetime
) -> tuple[LibraryPrice, ...]:
    """What these providers charge, of these models or of all; raises PriceLibraryError.

    Two providers may sell a model of the same name: the provider named first sets its price.
    """
    found: dict[str, LibraryPrice] = {}
    for price in _find(providers=providers, models=models, now=now):
        found.setdefault(price.model, price)
    return tuple(found.values())


def import_prices(
    *, found: Sequence[LibraryPrice], cluster_name: str, now: datetime, is_manual_replaced: bool
) -> PriceImport:
    """Put the library's prices from now on, all or none; raises PriceRecordError.

    A model with any price that was entered by hand keeps all of its prices, unless they shall be replaced.
    Tiers and times of the day that came from the library and are gone there end now.
    """
    book = _book_of(cluster_name=cluster_name, now=now)
    by_hand = {entry.model for entry in book.entries if entry.source == MANUAL}
    taken = [price for price in found if is_manual_replaced or price.model not in by_hand]
    entries = [replace(entry, cluster_name=cluster_name) for price in taken for entry in price.entries]
    ended = list(_ended(book, entries=entries, now=now, is_manual_replaced=is_manual_replaced))
    written_count = put_prices([*entries, *ended])
    return PriceImport(
        written_count=written_count,
        unchanged_count=len(entries) + len(ended) - written_count,
        skipped=tuple(price.model for price in found if price not in taken),
        notes=tuple((price.model, price.note) for price in taken if price.note),
    )


def _find(*, providers: Sequence[str], models: Sequence[str] | None, now: datetime) -> Iterator[LibraryPrice]:
    for provider in providers:
        if models is None:
            yield from list_prices(provider=provider, now=now)
            continue
        for model in models:
            if (price := find_price(provider=provider, model=model, now=now)) is not None:
                yield price


def _book_of(*, cluster_name: str, now: datetime) -> PriceBook:
    entries = load_book(now=now).entries
    return PriceBook(entries=tuple(entry for entry in entries if entry.cluster_name == cluster_name))


def _ended(
    book: PriceBook, *, entries: Sequence[PriceEntry], now: datetime, is_manual_replaced: bool
) -> Iterator[PriceEntry]:
    models = {entry.model for entry in entries}
    kept = {(entry.model, entry.condition.key) for entry in entries if entry.effective_at <= now}
    for entry in book.entries:
        is_ours = entry.source == SOURCE or (is_manual_replaced and entry.source == MANUAL)
        is_gone = entry.model in models and (entry.model, entry.condition.key) not in kept
        if is_ours and is_gone and not entry.condition.is_ended:
            condition = replace(entry.condition, daily_to_minute=entry.condition.daily_from_minute)
            yield replace(entry, condition=condition, effective_at=now)
