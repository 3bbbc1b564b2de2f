"""Runs one stand-in of the demo fleet: a vLLM server or a provider."""

import os
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from clusters.demo.serving import serve
from clusters.demo.standin import Standin, StandinSettings, Verify
from clusters.verifying.signatures import make_verifier


class Command(BaseCommand):
    help = "Run a stand-in for a vLLM server or a provider, until SIGTERM or SIGINT."
    # It serves alone: neither settings nor tables need to be right for it.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--name", default="demo")
        add("--host", default="127.0.0.1")
        add("--port", type=int, default=9101, help="0 takes a free port and prints it.")
        add("--kind", choices=["vllm", "provider"], default="vllm")
        add("--models", default="llama-3-8b", help="Comma-separated; alias=root tells the root.")
        add("--tokens-per-s", type=float, default=900.0, help="Of all streams; 0: no limit.")
        add("--request-tokens-per-s", type=float, default=60.0, help="Of one stream; 0: no limit.")
        add("--prefill-tokens-per-s", type=float, default=20_000.0, help="0: no limit.")
        add("--ttft-ms", type=float, default=40.0, help="Before the first token, besides prefill.")
        add("--running-max", type=int, default=64, help="Slots; more requests wait.")
        add("--waiting-max", type=int, default=256, help="Places in the queue; beyond it 503.")
        add("--api-key", help="Ask for this bearer token.")
        add("--hmac-secret-env", metavar="NAME", help="Verify signatures; the variable's secret.")
        add("--ledger", type=Path, metavar="FILE", help="Append a JSON line per attempt.")
        add("--seed", type=int, default=0)

    def handle(self, *args: Any, **options: Any) -> None:
        settings = StandinSettings(
            name=options["name"],
            models=tuple(filter(None, options["models"].split(","))),
            kind=options["kind"],
            tokens_per_s=options["tokens_per_s"],
            request_tokens_per_s=options["request_tokens_per_s"],
            ttft_ms=options["ttft_ms"],
            prefill_tokens_per_s=options["prefill_tokens_per_s"],
            running_max=options["running_max"],
            waiting_max=options["waiting_max"],
            api_key=options["api_key"],
            verify=load_verify(options["hmac_secret_env"]),
            ledger_path=options["ledger"],
            seed=options["seed"],
        )
        try:
            serve(
                app=Standin(settings),
                host=options["host"],
                port=options["port"],
                ready=self.announcer(settings.name),
            )
        except OSError as err:
            raise CommandError(f"cannot listen on port {options['port']}: {err}") from err

    def announcer(self, name: str) -> Callable[[str], None]:
        def announce(url: str) -> None:
            self.stdout.write(f"{name} serves at {url}")
            self.stdout.flush()

        return announce


def load_verify(variable: str | None) -> Verify | None:
    """A check of both signing schemes with the secret that the environment variable holds."""
    if variable is None:
        return None
    secret = os.environ.get(variable)
    if not secret:
        raise CommandError(f"{variable} is empty; set it to the cluster's shared secret")
    return make_verifier(secret=secret)
