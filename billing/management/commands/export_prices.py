"""Prints the price table as CSV, all prices that were ever put or those in force now."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from billing.cells import csv_texts
from billing.price_files import price_lines
from billing.prices import list_entries, load_book


class Command(BaseCommand):
    help = (
        "Print the prices as CSV, in USD per million tokens: every price that was ever put. "
        "import_prices --file reads it back, rerate --file charges a period by it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--in-force", action="store_true", help="only the prices in force now")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["in_force"]:
            latest = load_book(now=timezone.now()).entries
            entries = [entry for entry in latest if not entry.condition.is_ended]
            entries.sort(key=lambda entry: (entry.model, entry.cluster_name, entry.condition))
        else:
            entries = list(list_entries())
        for text in csv_texts(price_lines(entries)):
            self.stdout.write(text, ending="")
