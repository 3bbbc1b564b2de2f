"""Gives a budget another limit up to a moment, or takes that back."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import budgets
from billing.amounts import AmountError, nanousd_from_usd
from billing.records import RecordError


class Command(BaseCommand):
    help = "Give a budget another limit up to a moment; what is spent stays counted."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("budget", type=UUID, help="its id, as in the address of its page in the admin")
        parser.add_argument("--limit-usd", metavar="X", help="the limit until then, such as 25 or 0.50")
        parser.add_argument("--until", metavar="ISO", help="such as 2027-01-31T00:00Z")
        parser.add_argument("--reason", help="why, for whoever looks at the budget meanwhile")
        parser.add_argument("--end", action="store_true", help="the budget's own limit counts again")

    def handle(self, *args: Any, **options: Any) -> None:
        given = [name for name in ("limit_usd", "until", "reason") if options[name] is not None]
        if options["end"] == bool(given) or len(given) not in {0, 3}:
            raise CommandError("give --limit-usd, --until and --reason, or --end alone")
        try:
            if options["end"]:
                budgets.end_override(budget_id=options["budget"])
            else:
                budgets.override_budget(
                    budget_id=options["budget"],
                    limit_nanousd=nanousd_from_usd(options["limit_usd"]),
                    until=_moment(options["until"]),
                    reason=options["reason"],
                    now=timezone.now(),
                )
        except (RecordError, AmountError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write("Done: gateways know it within two seconds.")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"--until {text!r} is no moment: write it as 2027-01-31T00:00Z") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
