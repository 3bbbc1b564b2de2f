"""Copies list prices from the price library, or prices from a CSV file, into the price table."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.price_files import PriceFileError, read_price_file
from billing.price_import import PriceImport, find_prices, import_prices
from billing.price_library import PriceLibraryError
from billing.prices import PriceRecordError, put_prices

DEFAULT_PROVIDERS = ("openai", "claude", "gemini")
SKIPPED_SHOWN_MAX = 20


class Command(BaseCommand):
    help = (
        "Copy list prices from the price library into the price table, from now on: of input, output, "
        "caching, reasoning, audio and images, with context tiers, service tiers, times of the day and "
        "prices announced for a later day. The library's data is installed with it: nothing is downloaded. "
        "A price that is in force already is not written again, one that was entered by hand stays. "
        "With --file the prices of a CSV file instead, such as export_prices writes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--provider", nargs="+", metavar="NAME", default=list(DEFAULT_PROVIDERS))
        parser.add_argument("--models", nargs="+", metavar="NAME", help="only these; left out: all it knows")
        parser.add_argument("--cluster", default="", help="these prices hold on this cluster only")
        parser.add_argument(
            "--replace-manual", action="store_true", help="replace prices that were entered by hand too"
        )
        parser.add_argument(
            "--file", metavar="FILE.csv", help="import these prices instead, each where it says"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["file"]:
                self._import_file(Path(options["file"]))
            else:
                self._import_library(options)
        except (OSError, PriceFileError, PriceLibraryError, PriceRecordError) as error:
            raise CommandError(str(error)) from error

    def _import_file(self, path: Path) -> None:
        entries = read_price_file(path, now=timezone.now())
        written_count = put_prices(entries)
        self.stdout.write(f"{written_count} prices written, {len(entries) - written_count} unchanged.")

    def _import_library(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        found = find_prices(providers=options["provider"], models=options["models"], now=now)
        unknown = set(options["models"] or ()) - {price.model for price in found}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise CommandError(
                f"the library has no price for {names}: check the name, or add it in the admin"
            )
        done = import_prices(
            found=found,
            cluster_name=options["cluster"],
            now=now,
            is_manual_replaced=options["replace_manual"],
        )
        self._print(done, has_notes=bool(options["models"]))

    def _print(self, done: PriceImport, *, has_notes: bool) -> None:
        for model, note in done.notes if has_notes else ():
            self.stdout.write(f"{model}: {note}")
        if done.skipped:
            names = ", ".join(done.skipped[:SKIPPED_SHOWN_MAX])
            rest = len(done.skipped) - SKIPPED_SHOWN_MAX
            self.stdout.write(
                f"Skipped, entered by hand (--replace-manual replaces them): {names}"
                + (f" and {rest} more" if rest > 0 else "")
            )
        self.stdout.write(f"{done.written_count} prices written, {done.unchanged_count} unchanged.")
