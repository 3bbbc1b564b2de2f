"""Makes an API key, with its team, organisation and budget where they are new, and shows it once."""

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing import budgets, keys
from billing.amounts import AmountError, nanousd_from_usd
from billing.placements import PlacementWords
from billing.records import RecordError

DEFAULT_ORGANISATION = "default"


class Command(BaseCommand):
    help = "Make an API key. It is shown once: only its digest is stored."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--team", required=True, help="the team that owns the key; made if it is new")
        parser.add_argument("--name", required=True, help="what people call the key")
        parser.add_argument(
            "--organisation",
            help=f"the team's organisation; made if it is new (a new team's is {DEFAULT_ORGANISATION!r})",
        )
        parser.add_argument("--budget-usd", metavar="X", help="a budget for this key, such as 25 or 0.50")
        parser.add_argument(
            "--window", choices=("day", "week", "month", "total"), help="of the budget (month)"
        )
        parser.add_argument("--timezone", help="where the budget's window begins at midnight (UTC)")
        parser.add_argument("--hard", action="store_true", help="refuse requests beyond the budget")
        parser.add_argument(
            "--clamp", action="store_true", help="of a hard budget: shorten answers to what is left of it"
        )
        parser.add_argument("--rpm", type=int, metavar="N", help="requests per minute at most")
        parser.add_argument("--tpm", type=int, metavar="N", help="tokens per minute at most")
        parser.add_argument("--concurrent", type=int, help="requests at once")
        parser.add_argument(
            "--priority", type=int, default=0, help="where requests wait for a place: -10 to 10, higher first"
        )
        parser.add_argument("--models", metavar="A,B", help="models the key may use; left out: all")
        parser.add_argument(
            "--regions", metavar="A,B", help="regions whose clusters may serve the key; left out: all"
        )
        parser.add_argument("--require-tags", metavar="A,B", help="tags that a cluster must have")
        parser.add_argument("--forbid-tags", metavar="A,B", help="tags that a cluster must not have")
        parser.add_argument("--expires-at", metavar="ISO", help="such as 2027-01-31T00:00Z; left out: never")
        parser.add_argument("--json", action="store_true", help='print {"id", "key", "team", "name"}')

    def handle(self, *args: Any, **options: Any) -> None:
        budget_options = [name for name in ("window", "timezone", "hard", "clamp") if options[name]]
        if options["budget_usd"] is None and budget_options:
            raise CommandError(f"--{budget_options[0]} describes a budget: give --budget-usd too")
        try:
            issued = _create(options)
        except (RecordError, AmountError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            answer = {
                "id": str(issued.id),
                "key": issued.key,
                "team": options["team"],
                "name": options["name"],
            }
            self.stdout.write(json.dumps(answer))
            return
        self.stdout.write(f"Key {options['name']!r} of team {options['team']!r} ({issued.id}):")
        self.stdout.write(issued.key)
        self.stdout.write("Keep it now: it cannot be shown again.")


@transaction.atomic
def _create(options: dict[str, Any]) -> keys.IssuedKey:
    issued = keys.issue_key(
        team_id=_team_id(team=options["team"], organisation=options["organisation"]),
        name=options["name"],
        allowed_models=_names(options["models"]),
        expires_at=_moment(options["expires_at"]),
        rpm_max=options["rpm"],
        tpm_max=options["tpm"],
        concurrent_max=options["concurrent"],
        placement=PlacementWords(
            allowed_regions=_names(options["regions"]),
            required_tags=_names(options["require_tags"]),
            forbidden_tags=_names(options["forbid_tags"]),
        ),
    )
    if options["budget_usd"] is not None:
        budgets.put_budget(
            key_id=issued.id,
            limit_nanousd=nanousd_from_usd(options["budget_usd"]),
            window=options["window"] or "month",
            timezone=options["timezone"] or "UTC",
            is_hard=options["hard"],
            is_clamped=options["clamp"],
        )
    return issued


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _team_id(*, team: str, organisation: str | None) -> UUID:
    found = keys.find_team(name=team)
    if organisation is None and found is not None:
        return found[0]
    organisation_id = keys.put_organisation(name=organisation or DEFAULT_ORGANISATION)
    return keys.put_team(organisation_id=organisation_id, name=team)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"--expires-at {text!r} is no moment: write it as 2027-01-31T00:00Z") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
