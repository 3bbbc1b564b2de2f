"""Copies list prices from the price library into the price table, from now on."""

from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from billing.price_library import LibraryPrice, PriceLibraryError, find_price, list_prices
from billing.prices import PriceRecordError, put_price

DEFAULT_PROVIDERS = ("openai", "claude", "gemini")


class Command(BaseCommand):
    help = (
        "Copy list prices from the price library into the price table, from now on. The library's data is "
        "installed with it: nothing is downloaded. A price that is in force already is not written again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--provider", nargs="+", metavar="NAME", default=list(DEFAULT_PROVIDERS))
        parser.add_argument("--models", nargs="+", metavar="NAME", help="only these; left out: all it knows")
        parser.add_argument("--cluster", default="", help="these prices hold on this cluster only")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            found = list(_find(providers=options["provider"], models=options["models"], now=now))
        except PriceLibraryError as error:
            raise CommandError(str(error)) from error
        unknown = set(options["models"] or ()) - {price.model for price in found}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise CommandError(
                f"the library has no price for {names}: check the name, or add it in the admin"
            )
        # Two providers may sell a model of the same name: the provider named first sets its price.
        prices = {price.model: price for price in reversed(found)}
        try:
            written_count = _write(prices=list(prices.values()), cluster_name=options["cluster"], now=now)
        except PriceRecordError as error:
            raise CommandError(str(error)) from error
        for price in prices.values():
            if price.note and options["models"]:
                self.stdout.write(f"{price.model}: {price.note}")
        self.stdout.write(f"{written_count} prices written, {len(prices) - written_count} unchanged.")


def _find(*, providers: list[str], models: list[str] | None, now: datetime) -> Iterator[LibraryPrice]:
    for provider in providers:
        if models is None:
            yield from list_prices(provider=provider, now=now)
            continue
        for model in models:
            if (price := find_price(provider=provider, model=model, now=now)) is not None:
                yield price


@transaction.atomic
def _write(*, prices: list[LibraryPrice], cluster_name: str, now: datetime) -> int:
    return sum(
        put_price(
            model=price.model,
            cluster_name=cluster_name,
            input_microusd_per_mtok=price.input_microusd_per_mtok,
            output_microusd_per_mtok=price.output_microusd_per_mtok,
            cache_read_microusd_per_mtok=price.cache_read_microusd_per_mtok,
            cache_write_5m_microusd_per_mtok=price.cache_write_5m_microusd_per_mtok,
            cache_write_1h_microusd_per_mtok=price.cache_write_1h_microusd_per_mtok,
            reasoning_microusd_per_mtok=price.reasoning_microusd_per_mtok,
            effective_at=now,
            source=price.source,
        )
        for price in prices
    )
