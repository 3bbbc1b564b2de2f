"""Runs the web process, or several on one port: the ASGI server, draining at SIGTERM."""

import contextlib
import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from clusters.catalogue import load_catalogue
from gateway import preflight, process_tree
from gateway.server import run_server
from gateway.supervisor import ChildFailedError, Supervisor


class Command(BaseCommand):
    help = (
        "Run the web process, or GATEWAY_WORKERS of them on one port: the gateway, the admin site and the "
        "pages. SIGTERM lets open streams finish."
    )
    # `make check` runs them; a start should not wait for them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_serve_arguments(parser)
        # One of several, started by a supervisor that has looked at everything already.
        parser.add_argument("--worker", type=int, default=0, help=SUPPRESS)

    def handle(self, *_args: Any, **options: Any) -> None:
        data_dir, worker = settings.DATA_DIR, options["worker"]
        try:
            preflight.check_start(data_dir=data_dir)
            preflight.check_migrations()
            if not worker:
                import_configuration(options["config"])
            host, port = chosen_address(options)
            if not worker:
                preflight.check_port(host=host, port=port, data_dir=data_dir)
        except preflight.PreflightError as error:
            raise CommandError(str(error), returncode=preflight.EXIT_CODE) from error
        with contextlib.suppress(OSError):
            # For the image's health check, which cannot know what chose the port.
            (data_dir / "serve.port").write_text(f"{port}\n")
        workers = options["workers"] or settings.WORKERS
        if workers > 1 and not worker:
            self._supervise(workers=workers, host=host, port=port)
            return
        from gateway.asgi import application  # noqa: PLC0415 -- app ready
        from gateway.caller import CallerProtocol  # noqa: PLC0415 -- app ready

        run_server(
            application=application,
            host=host,
            port=port,
            drain_timeout_s=settings.DRAIN_TIMEOUT_S,
            trusted_proxies=settings.TRUSTED_PROXIES,
            is_port_shared=worker > 0,
            connection_class=CallerProtocol,
        )

    def _supervise(self, *, workers: int, host: str, port: int) -> None:
        """Keep the web processes running; they write where we do."""
        children = process_tree.web_children(
            env=os.environ,
            host=host,
            port=port,
            drain_timeout_s=settings.DRAIN_TIMEOUT_S,
            workers=workers,
            data_dir=settings.DATA_DIR,
        )
        try:
            with Supervisor(log_dir=None, say=self.stderr.write) as supervisor:
                for child in children:
                    supervisor.start(child)
                supervisor.watch()
        except ChildFailedError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error


def add_serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--host", help="default: GATEWAY_HOST, else 127.0.0.1")
    parser.add_argument(
        "--port", type=int, help="default: GATEWAY_PORT, else the configuration's server.port, else 8000"
    )
    parser.add_argument(
        "--workers",
        type=worker_count,
        metavar="N",
        help="web processes that serve the port together; default: GATEWAY_WORKERS, else 1",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="import this configuration first (GATEWAY_CONFIG_FILE)"
    )


def worker_count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= settings.WORKERS_MAX:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to {settings.WORKERS_MAX}")
    return count


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
