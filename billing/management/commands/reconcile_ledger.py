"""`manage.py reconcile_ledger`: prove the ledger's sums; exit 1 where they do not hold."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from billing import ledger
from billing.reconciliation import Reconciliation, reconcile, settle_in_doubt


class Command(BaseCommand):
    help = (
        "Prove that the ledger's sums hold: attempts and rows, budget windows, hourly sums. Lists the "
        "attempts in doubt: their gateway died, their money is still held. Exit 1 on drift."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print a JSON document")
        parser.add_argument(
            "--settle-in-doubt",
            action="store_true",
            help="first end the attempts in doubt: charge their prompt and last checkpoint, free the rest",
        )

    def handle(self, **options: Any) -> None:
        if options["settle_in_doubt"]:
            ledger.mark_in_doubt(now=timezone.now())
            count = settle_in_doubt(now=timezone.now())
            self.stderr.write(f"{count} attempts in doubt were settled.")
        found = reconcile()
        if options["json"]:
            self.stdout.write(json.dumps(found.as_document(), indent=2))
        else:
            self._print(found)
        if not found.is_ok:
            raise SystemExit(1)

    def _print(self, found: Reconciliation) -> None:
        for drift in found.drift:
            self.stdout.write(f"DRIFT  {drift.what} {drift.id}: {drift.found}, should be {drift.expected}")
        for attempt in found.in_doubt:
            self.stdout.write(
                f"in doubt  {attempt.attempt_id} on {attempt.cluster} since {attempt.started_at}: "
                f"{attempt.held_nanousd} nano-USD held, {attempt.output_tokens_checkpoint} tokens seen"
            )
        verdict = "every sum holds" if found.is_ok else f"{len(found.drift)} sums do not hold"
        self.stdout.write(f"{found.attempts} attempts, {len(found.in_doubt)} in doubt: {verdict}.")
        if found.in_doubt:
            self.stdout.write("End those in doubt with: manage.py reconcile_ledger --settle-in-doubt")
