"""`manage.py ledger_grants --role NAME`: rights of a PostgreSQL role that serves and never rewrites rows."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from billing.grants import apply_grants, grant_statements


class Command(BaseCommand):
    help = (
        "Print the GRANT and REVOKE statements for a PostgreSQL role that serves requests: it may insert "
        "usage rows, not change or delete them. Run as the owner of the tables, after each migrate; "
        "migrate and prune stay the owner's."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--role", required=True, help="an existing role")
        parser.add_argument("--apply", action="store_true", help="run the statements, too")

    def handle(self, **options: Any) -> None:
        if connections[settings.LEDGER_DATABASE].vendor != "postgresql":
            raise CommandError("SQLite has no roles: set DATABASE_URL to a PostgreSQL database")
        try:
            for statement in grant_statements(role=options["role"]):
                self.stdout.write(f"{statement};")
            if options["apply"]:
                apply_grants(role=options["role"])
        except DatabaseError as error:
            raise CommandError(f"the statements were refused: {error}") from error
