"""Takes usage from a CSV file into the ledger, without touching any budget."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.amounts import usd_text
from billing.usage_import import UsageFileError, import_usage


class Command(BaseCommand):
    help = (
        "Take usage from a CSV file into the ledger: what export_usage wrote, or lines from elsewhere with "
        "at least the columns settled_at, model and cost_usd. All of it or nothing; a line that is there "
        "already is not counted again. Budgets are left as they are."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="CSV in UTF-8 with a header; the columns in any order")
        parser.add_argument("--dry-run", action="store_true", help="check everything and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = import_usage(path=options["file"], now=timezone.now(), is_dry_run=options["dry_run"])
        except UsageFileError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"cannot read {options['file']}: {error.strerror}") from error
        verb = "would be added" if options["dry_run"] else "added"
        known = done.line_count - done.added_count
        self.stdout.write(
            f"{done.line_count:,} lines of {usd_text(done.cost_nanousd)}: {done.added_count:,} {verb}, "
            f"{known:,} were there already."
        )
