"""Imports a configuration file: clusters, providers, models, prices, routes and settings, all or nothing."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from gateway.configuration.document import ConfigurationError
from gateway.configuration.importing import import_file


class Command(BaseCommand):
    help = (
        "Import a configuration file (YAML; ${NAME} is taken from the environment). All of it is imported "
        "or, if anything in it is wrong, nothing. What the database has and the file does not mention is "
        "left as it is. Importing a file twice changes nothing the second time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the configuration file")
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would change (+ new, ~ changed), write nothing"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        path: Path = options["file"]
        is_dry_run: bool = options["dry_run"]
        try:
            report = import_file(path=path, environment=os.environ, now=timezone.now(), is_dry_run=is_dry_run)
        except ConfigurationError as error:
            raise CommandError("\n".join([*error.lines, "nothing was imported"])) from error
        for warning in report.warnings:
            self.stderr.write(f"warning: {warning}")
        for change in report.changes:
            self.stdout.write(change)
        count = len(report.changes)
        if count == 0:
            self.stdout.write("no changes")
        elif is_dry_run:
            self.stdout.write(f"{count} changes, not made: this was a dry run")
        else:
            self.stdout.write(f"{count} changes made")
