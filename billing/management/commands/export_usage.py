"""Writes usage as a file: every attempt as CSV, or the bill in the columns of FOCUS."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.cells import csv_texts
from billing.focus import focus_lines
from billing.periods import PeriodError, period_of
from billing.usage_files import usage_lines


class Command(BaseCommand):
    help = (
        "Write usage as a file. csv: one line for each attempt, which import_usage reads back; "
        "focus: the bill in the columns of FOCUS 1.2, idle capacity included. It is streamed: a long period "
        "needs no more memory than a short one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=("csv", "focus"), default="csv")
        parser.add_argument(
            "--from", default="", metavar="DATE", help="the first day, in UTC (this month's first)"
        )
        parser.add_argument(
            "--to", default="", metavar="DATE", help="the last day, which counts whole (today)"
        )
        parser.add_argument("--output", metavar="FILE", help="a new file (standard output)")
        parser.add_argument("--by", choices=("hour", "day"), help="focus only: a charge's period (day)")

    def handle(self, *args: Any, **options: Any) -> None:
        is_focus = options["format"] == "focus"
        if options["by"] and not is_focus:
            raise CommandError("--by describes FOCUS's charges: give --format focus too")
        try:
            period = period_of(
                name="custom", from_text=options["from"], to_text=options["to"], now=timezone.now()
            )
        except PeriodError as error:
            raise CommandError(str(error)) from error
        lines = (
            focus_lines(from_at=period.from_at, to_at=period.to_at, is_hourly=options["by"] == "hour")
            if is_focus
            else usage_lines(from_at=period.from_at, to_at=period.to_at)
        )
        if not options["output"]:
            for text in csv_texts(lines):
                self.stdout.write(text, ending="")
            return
        try:
            # Mode x: what is there already is never overwritten.
            with Path(options["output"]).open("x", newline="", encoding="utf-8") as file:
                for text in csv_texts(lines):
                    file.write(text)
        except OSError as error:
            raise CommandError(
                f"cannot write {options['output']}: {error.strerror}; name a new file"
            ) from error
