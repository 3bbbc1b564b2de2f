"""Folds the ledger's hours into days at once; beat does it every minute."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from billing.rollups import fold_days


class Command(BaseCommand):
    help = "Fold the ledger's hourly sums into daily ones. It may be run at any time and twice."

    def handle(self, *args: Any, **options: Any) -> None:
        row_count = fold_days(now=timezone.now())
        self.stdout.write(f"{row_count} daily rows written.")
