"""Writes the inventory as a configuration file that import_config reads; secrets become ${NAME}."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from gateway.configuration.exporting import export_text


class Command(BaseCommand):
    help = (
        "Write clusters, providers, models, prices, routes and settings as a configuration file. Secrets "
        "are never written: ${NAME} stands in their place, to be set where the file is imported. "
        "Importing the file here again changes nothing, whether they are set or not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, help="the file to write; left out: standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        text = export_text(now=timezone.now())
        path: Path | None = options["output"]
        if path is None:
            self.stdout.write(text, ending="")
            return
        # Written beside and renamed, so that nobody ever reads half a file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CommandError(f"cannot write {path} ({error.strerror}): name another --output") from error
