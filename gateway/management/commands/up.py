"""Runs everything on this machine: Valkey, the demo fleet, worker, beat and the web process, as one tree."""

import json
import logging
import os
import socket
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.utils import timezone

from clusters.monitor import probe_clusters
from clusters.snapshots import ClusterView, get_revision, load_clusters
from gateway import demo_fleet, first_run, preflight, process_tree
from gateway.embedded_valkey import EmbeddedValkeyError, ValkeyPlan, is_answering, plan_server
from gateway.first_run import FirstRun
from gateway.management.commands.serve import add_serve_arguments, chosen_address, import_configuration
from gateway.supervisor import ChildFailedError, Supervisor

VALKEY_TIMEOUT_S = 10
READY_TIMEOUT_S = 60
HEALTHY_TIMEOUT_S = 20
ASK_TIMEOUT_S = 2
# Younger than the probes' usual interval: what was seen before a restart counts, yesterday's does not.
PROBE_FRESH = timedelta(seconds=60)
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 -- what is listened on, as asked for
INTERRUPTED_EXIT_CODE = 130


class Command(BaseCommand):
    help = (
        "Run everything: the embedded Valkey (unless REDIS_URL is set), with GATEWAY_DEMO=1 the demo fleet, "
        "worker, beat and the web process. Ctrl-C stops it in order, a second Ctrl-C at once."
    )
    # `make check` runs them; a start should not wait for them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_serve_arguments(parser)
        parser.add_argument(
            "--no-demo", action="store_true", help="no demo fleet, whatever GATEWAY_DEMO says"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        # Databases, logs and dumps are for this user's eyes.
        os.umask(0o077)
        # What is printed here is for a person; that the fleet became healthy is what the banner says.
        logging.getLogger("clusters").setLevel(logging.ERROR)
        with translated_errors(), preflight.held_data_dir(settings.DATA_DIR):
            preflight.check_start(data_dir=settings.DATA_DIR)
            self._migrate()
            import_configuration(options["config"])
            host, port = chosen_address(options)
            preflight.check_port(host=host, port=port, data_dir=settings.DATA_DIR)
            made = first_run.prepare(
                data_dir=settings.DATA_DIR, admin_password=settings.ADMIN_PASSWORD, now=timezone.now()
            )
            members = self._enter_demo_fleet() if settings.DEMO and not options["no_demo"] else ()
            plan = None if settings.REDIS_URL else plan_server(data_dir=settings.DATA_DIR)
            with Supervisor(log_dir=settings.DATA_DIR / "logs", say=self._say) as supervisor:
                workers = options["workers"] or settings.WORKERS
                self._start_children(
                    supervisor, plan=plan, members=members, host=host, port=port, workers=workers
                )
                self._wait_until_ready(supervisor, members=members, url=base_url(host=host, port=port))
                if not supervisor.is_stopping:
                    self._say(banner(made, members=members, url=base_url(host=host, port=port)))
                supervisor.watch()
                self._say("Stopping: open streams finish first (Ctrl-C again to hurry).")
            self._say("Stopped.")

    def _migrate(self) -> None:
        for alias in connections:
            if preflight.unapplied_migrations(alias=alias):
                self._say(f"Bringing the database {alias} up to date")
                call_command("migrate", database=alias, interactive=False, verbosity=0)

    def _enter_demo_fleet(self) -> tuple[demo_fleet.Member, ...]:
        members = demo_fleet.plan_fleet(data_dir=settings.DATA_DIR)
        return demo_fleet.enter_fleet(members, now=timezone.now())

    def _start_children(
        self,
        supervisor: Supervisor,
        *,
        plan: ValkeyPlan | None,
        members: tuple[demo_fleet.Member, ...],
        host: str,
        port: int,
        workers: int,
    ) -> None:
        data_dir = settings.DATA_DIR
        redis_url = plan.url if plan is not None else settings.REDIS_URL
        env = process_tree.base_environment(environment=os.environ, data_dir=data_dir, redis_url=redis_url)
        if plan is not None:
            supervisor.start(process_tree.valkey_child(plan, env=env))
        for web in process_tree.web_children(
            env=env,
            host=host,
            port=port,
            drain_timeout_s=settings.DRAIN_TIMEOUT_S,
            workers=workers,
            data_dir=data_dir,
        ):
            supervisor.start(web)
        for member in members:
            stage = process_tree.STAGE_DEMO
            supervisor.start(demo_fleet.child_of(member, env=env, data_dir=data_dir, stage=stage))
        if plan is not None:
            is_up = supervisor.wait_until(lambda: is_answering(plan.url), timeout_s=VALKEY_TIMEOUT_S)
            if not is_up and not supervisor.is_stopping:
                self._say(f"Valkey does not answer yet: see {data_dir / 'logs' / 'valkey.log'}")
        # The first probe comes with the worker: before they listen it would find them dead.
        supervisor.wait_until(
            lambda: all(accepts_connections(member.port) for member in members), timeout_s=HEALTHY_TIMEOUT_S
        )
        supervisor.start(process_tree.worker_child(env=env, data_dir=data_dir))

    def _wait_until_ready(
        self, supervisor: Supervisor, *, members: tuple[demo_fleet.Member, ...], url: str
    ) -> None:
        is_ready = supervisor.wait_until(
            lambda: answers_200(f"{url}/health/ready"), timeout_s=READY_TIMEOUT_S
        )
        if not is_ready and not supervisor.is_stopping:
            self._say(f"Not ready after {READY_TIMEOUT_S} s: see web*.log in {settings.DATA_DIR / 'logs'}")
            return
        names = {member.site.name for member in members}
        is_known = supervisor.wait_until(
            lambda: is_fleet_healthy(names, now=timezone.now()), timeout_s=HEALTHY_TIMEOUT_S
        ) and supervisor.wait_until(lambda: is_fleet_known(url), timeout_s=HEALTHY_TIMEOUT_S)
        if not is_known and not supervisor.is_stopping:
            self._say("Not every cluster is healthy yet: see `manage.py check_clusters`")

    def _say(self, text: str) -> None:
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except OSError:
            # Whoever read our output is gone; that is no reason to end.
            return


@contextmanager
def translated_errors() -> Iterator[None]:
    """Every refusal becomes one line and an exit code."""
    try:
        yield
    except (preflight.PreflightError, EmbeddedValkeyError) as error:
        raise CommandError(str(error), returncode=preflight.EXIT_CODE) from error
    except ChildFailedError as error:
        raise CommandError(str(error), returncode=error.exit_code) from error
    except KeyboardInterrupt as error:
        raise CommandError("interrupted", returncode=INTERRUPTED_EXIT_CODE) from error


def base_url(*, host: str, port: int) -> str:
    """Where a browser on this machine finds what listens on the host."""
    name = ANY_HOST.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:  # noqa: S310 -- our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_fleet_healthy(names: set[str], *, now: datetime) -> bool:
    """A probe of this minute found each of these clusters healthy; without names any, or that there is none.

    Probes those of these names that are not: the regular probe may have come before they listened,
    and its next one is up to a minute away.
    """
    clusters = load_clusters(now=now)
    named = [cluster for cluster in clusters if cluster.name in names]
    if not named:
        return not clusters or any(is_seen_healthy(cluster, now=now) for cluster in clusters)
    late = [UUID(cluster.id) for cluster in named if not is_seen_healthy(cluster, now=now)]
    return all(result.observation.is_healthy for result in probe_clusters(cluster_ids=late, now=now))


def is_seen_healthy(cluster: ClusterView, *, now: datetime) -> bool:
    """Whether a probe of the last minute found it healthy."""
    checked_at = cluster.health_checked_at
    return cluster.health == "healthy" and checked_at is not None and now - checked_at <= PROBE_FRESH


def is_fleet_known(url: str) -> bool:
    """The web process serves by what the probes wrote last, and not by what it read while they ran."""
    revision = get_revision()
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=ASK_TIMEOUT_S) as answer:  # noqa: S310 -- ours
            said = json.load(answer)
    except (urllib.error.URLError, OSError):
        return False
    return int(said["inventory_revision"]) >= revision


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection((demo_fleet.HOST, port), timeout=ASK_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def banner(made: FirstRun, *, members: tuple[demo_fleet.Member, ...], url: str) -> str:
    """What a person needs who has just started it."""
    notes = first_run.first_run_path(settings.DATA_DIR)
    kept = f"see {_shown(notes)}" if notes.exists() else "as you set it"
    key = made.api_key or (
        f"$(sed -n 's/^key: //p' {_shown(notes)})" if notes.exists() else "$KEY  # manage.py create_api_key"
    )
    names = {model.name for member in members for model in member.site.models}
    model = demo_fleet.TINY_MODEL if demo_fleet.TINY_MODEL in names else "llama-3-8b" if names else "MODEL"
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines = [
        "",
        f"  Tollgate is up:  {url}/admin/",
        f"  Login:           {made.admin_username}, password {made.admin_password or f'({kept})'}",
        f"  Key:             {made.api_key or f'({kept})'}",
        f"  Data and logs:   {_shown(settings.DATA_DIR)}, {_shown(settings.DATA_DIR / 'logs')}",
        "  Stop:            Ctrl-C",
        "",
        "  Try it:",
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\",
        f'  -H "Authorization: Bearer {key}" \\',
        f"  -d '{body}'",
        "",
    ]
    return "\n".join(lines)


def _shown(path: Path) -> Path:
    """Relative to where the reader stands, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
