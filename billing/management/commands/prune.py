"""`manage.py prune`: take out of the ledger what is older than the settings keep; beat does it every hour."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import partitions
from billing.pruning import Pruned, PruningRefusedError, prunable, prune

RUNS_MAX = 10_000


class Command(BaseCommand):
    help = (
        "Take old attempts out of the ledger by whole months, and hourly sums by whole days "
        "(GATEWAY_USAGE_KEPT_DAYS, GATEWAY_ROLLUP_HOURS_KEPT_DAYS). Their sums stay and stay proven. "
        "It may be stopped at any time and run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")

    def handle(self, **options: Any) -> None:
        now = timezone.now()
        if options["dry_run"]:
            found = prunable(now=now)
            self.stdout.write(
                f"{found.attempts} attempts ({found.cost_nanousd} nano-USD) and "
                f"{found.hour_rows} hourly rows would go."
            )
            return
        total, found = Pruned(), Pruned()
        try:
            partitions.make_months(now=now, pause=time.sleep)
            for _ in range(RUNS_MAX):
                found = prune(now=now)
                total = total.plus(found)
                if found.is_done or not (found.attempts or found.hour_rows):
                    break
        except PruningRefusedError as error:
            raise CommandError(str(error)) from error
        except partitions.PartitionBusyError as error:
            raise CommandError("the ledger's tables are in use; run this again later") from error
        self.stdout.write(f"{total.attempts} attempts and {total.hour_rows} hourly rows are gone.")
        if not found.is_done:
            raise CommandError("a month is in use by a long query and stayed; run this again later")
