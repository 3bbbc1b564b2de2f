"""Runs the web process alone: the ASGI server, draining at SIGTERM."""

import contextlib
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from clusters.catalogue import load_catalogue
from gateway import preflight
from gateway.server import run_server


class Command(BaseCommand):
    help = "Run the web process: the gateway, the admin site and the pages. SIGTERM lets open streams finish."
    # `make check` runs them; a start should not wait for them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_serve_arguments(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        data_dir = settings.DATA_DIR
        try:
            preflight.check_start(data_dir=data_dir)
            preflight.check_migrations()
            import_configuration(options["config"])
            host, port = chosen_address(options)
            preflight.check_port(host=host, port=port, data_dir=data_dir)
        except preflight.PreflightError as error:
            raise CommandError(str(error), returncode=preflight.EXIT_CODE) from error
        with contextlib.suppress(OSError):
            # For the image's health check, which cannot know what chose the port.
            (data_dir / "serve.port").write_text(f"{port}\n")
        from gateway.asgi import application  # noqa: PLC0415 -- app ready

        run_server(
            application=application,
            host=host,
            port=port,
            drain_timeout_s=settings.DRAIN_TIMEOUT_S,
            trusted_proxies=settings.TRUSTED_PROXIES,
        )


def add_serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--host", help="default: GATEWAY_HOST, else 127.0.0.1")
    parser.add_argument(
        "--port", type=int, help="default: GATEWAY_PORT, else the configuration's server.port, else 8000"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="import this configuration first (GATEWAY_CONFIG_FILE)"
    )


def chosen_address(options: dict[str, Any]) -> tuple[str, int]:
    """Host and port: option, then environment, then the configuration's server.port, then the default."""
    configured = load_catalogue().settings["server_port"]
    port = options["port"] or settings.PORT or configured or settings.PORT_DEFAULT
    return options["host"] or settings.HOST, port


def import_configuration(path: Path | None) -> None:
    """Import the named file, or the one that GATEWAY_CONFIG_FILE names if it is there."""
    if path is None and settings.CONFIG_FILE and Path(settings.CONFIG_FILE).exists():
        path = Path(settings.CONFIG_FILE)
    if path is None:
        return
    try:
        call_command("import_config", str(path))
    except CommandError as error:
        # A start with half of what was meant would be worse than none.
        raise CommandError(str(error), returncode=preflight.EXIT_CODE) from error
