"""Runs the real llama.cpp server of the demo fleet."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Run real llama.cpp on a tiny model, until SIGTERM, SIGINT or the end of a piped stdin."
    # It serves alone: neither settings nor tables need to be right for it.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=9100, help="0 takes a free port.")
        parser.add_argument("--model-path", type=Path, required=True, help="Written first if it is absent.")
        parser.add_argument("--api-key", help="Ask for this bearer token.")
        parser.add_argument("--parallel", type=int, default=4, help="Slots; more requests wait.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            from clusters.demo.llama_server import serve  # noqa: PLC0415 -- optional
            from clusters.demo.tiny_model import write_tiny_model  # noqa: PLC0415 -- optional
        except ImportError as err:
            raise CommandError(f"{err.name} is not installed: pip install -r requirements-dev.txt") from err
        model_path: Path = options["model_path"]
        if not model_path.exists():
            model_path.parent.mkdir(parents=True, exist_ok=True)
            write_tiny_model(path=model_path)
        serve(
            model_path=model_path,
            host=options["host"],
            port=options["port"],
            api_key=options["api_key"],
            parallel=options["parallel"],
            ready=self.announce,
        )

    def announce(self, url: str) -> None:
        self.stdout.write(f"tiny-bigram serves at {url}")
        self.stdout.flush()
