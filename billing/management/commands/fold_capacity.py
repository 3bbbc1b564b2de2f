"""Closes the own clusters' hours that are over; beat does it every minute."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import capacity, rollups
from billing.periods import PeriodError, moment_from_text


class Command(BaseCommand):
    help = (
        "Split the cost of each own cluster's hour that is over into what its requests used and what was "
        "idle. It may be run at any time and twice; --from also looks at old hours and folds their days anew."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", default="", metavar="DATE", help="look again from this day on, in UTC")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        again_from = _moment(options["from"])
        hour_count = capacity.close_hours(now=now, again_from=again_from)
        row_count = rollups.fold_days(now=now, again_from=again_from)
        self.stdout.write(f"{hour_count} hours closed, {row_count} daily rows written.")


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return moment_from_text(text, is_end=False)
    except PeriodError as error:
        raise CommandError(str(error)) from error
