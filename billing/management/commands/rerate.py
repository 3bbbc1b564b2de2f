"""Prints what a period would have cost at other prices, beside what it cost; for people or as JSON."""

import json
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.amounts import AmountError, rate_from_usd, usd_text
from billing.periods import PeriodError, moment_from_text, period_of
from billing.price_book import PriceBook, PriceEntry
from billing.price_files import PriceFileError, read_price_file
from billing.prices import load_book
from billing.rerating import GROUPS, RerateRow, Rerating, rerate

RATES_MIN, RATES_MAX = 2, 3


class Command(BaseCommand):
    help = (
        "What a period would have cost at other prices: those in force on another day (--at), given ones "
        "(--set, in USD per million tokens) or those of a CSV file (--file). Nothing is written and no "
        "budget changes. An attempt whose model has no price among them keeps its cost."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", default="", metavar="DATE", help="the first day, in UTC (this month's first)"
        )
        parser.add_argument(
            "--to", default="", metavar="DATE", help="the last day, which counts whole (today)"
        )
        prices = parser.add_mutually_exclusive_group(required=True)
        prices.add_argument("--at", metavar="DATE", help="at the prices in force at that moment")
        prices.add_argument(
            "--set",
            nargs="+",
            metavar="MODEL=IN/OUT",
            help="at these prices; a third number is the price of cached input",
        )
        prices.add_argument(
            "--file", metavar="FILE.csv", help="at the prices of a file as export_prices writes"
        )
        parser.add_argument("--group", choices=tuple(GROUPS), default="model")
        parser.add_argument("--json", action="store_true", help="print JSON, amounts in nano-USD")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            period = period_of(name="custom", from_text=options["from"], to_text=options["to"], now=now)
            book = _book(options, now=now)
        except (OSError, PeriodError, PriceFileError, AmountError) as error:
            raise CommandError(str(error)) from error
        found = rerate(book=book, from_at=period.from_at, to_at=period.to_at, group=options["group"])
        if options["json"]:
            self.stdout.write(json.dumps(_document(found, group=options["group"])))
        else:
            self._print(found, group=options["group"])

    def _print(self, found: Rerating, *, group: str) -> None:
        width = max(len(row.name) for row in (*found.rows, found.totals))
        width = max(width, len(group))
        self.stdout.write(
            f"{group:<{width}} {'requests':>10} {'was':>18} {'would be':>18} {'difference':>18}"
        )
        for row in (*found.rows, found.totals):
            self.stdout.write(
                f"{row.name:<{width}} {row.requests:>10,} {usd_text(row.was_nanousd):>18} "
                f"{usd_text(row.would_be_nanousd):>18} {usd_text(row.difference_nanousd):>18}"
            )
        totals = found.totals
        if totals.kept_count:
            self.stdout.write(
                f"Requests without a price among these, which keep their cost: {totals.kept_count:,}."
            )
        if totals.surplus_nanousd:
            self.stdout.write(
                f"{usd_text(totals.surplus_nanousd)} of what was is surplus above what was held: no budget "
                f"was charged for it."
            )
        if found.pruned_before is not None:
            self.stdout.write(
                f"Attempts begun before {found.pruned_before:%Y-%m-%d %H:%M} UTC are pruned, so not in it."
            )


def _book(options: dict[str, Any], *, now: datetime) -> PriceBook:
    if options["at"]:
        return load_book(now=moment_from_text(options["at"], is_end=False))
    if options["set"]:
        return PriceBook.latest_of(_set_price(text, now=now) for text in options["set"])
    return PriceBook.latest_of(read_price_file(Path(options["file"]), now=now))


def _set_price(text: str, *, now: datetime) -> PriceEntry:
    model, _, prices = text.rpartition("=")
    rates = prices.split("/")
    if not model or not RATES_MIN <= len(rates) <= RATES_MAX:
        raise AmountError(f"{text!r} is no price: write MODEL=IN/OUT, such as gpt-4o-mini=0.15/0.60")
    per_input, per_output, *cached = (rate_from_usd(rate) for rate in rates)
    return PriceEntry(
        model=model,
        effective_at=now,
        input_microusd_per_mtok=per_input,
        output_microusd_per_mtok=per_output,
        cache_read_microusd_per_mtok=cached[0] if cached else None,
    )


def _document(found: Rerating, *, group: str) -> dict[str, Any]:
    rows = []
    for row in found.rows:
        entry: dict[str, Any] = {group: row.name}
        if group == "key":
            # Names of keys may repeat; the id tells them apart.
            entry["key_id"] = row.id
        rows.append({**entry, **_sums(row)})
    pruned_before = None if found.pruned_before is None else found.pruned_before.isoformat()
    return {"rows": rows, **_sums(found.totals), "pruned_before": pruned_before}


def _sums(row: RerateRow) -> dict[str, int]:
    return {
        "requests": row.requests,
        "kept_requests": row.kept_count,
        "was_nanousd": row.was_nanousd,
        "would_be_nanousd": row.would_be_nanousd,
        "difference_nanousd": row.difference_nanousd,
        "surplus_nanousd": row.surplus_nanousd,
    }
