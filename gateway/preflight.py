"""Checks made before a start, so that what would fail later fails now, with words that say what to do."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

PYTHON_MIN = (3, 11)
# The exit code of a start that a preflight refused: trying again would only repeat it.
EXIT_CODE = 2
CONNECT_TIMEOUT_S = 5
NAMES_MAX = 5
OWN_PACKAGES = ("gateway", "clusters", "billing")


class PreflightError(Exception):
    """The start is refused; the message says what is wrong and what to do."""


def check_start(*, data_dir: Path) -> None:
    """Python, the data folder, secrets, models and databases: what needs no port and no migration yet."""
    check_python(sys.version_info[:3])
    check_data_dir(data_dir)
    check_master_key(settings.MASTER_KEY, characters_min=settings.MASTER_KEY_CHARACTERS_MIN)
    check_model_changes()
    check_databases()


def check_python(version: tuple[int, int, int]) -> None:
    if version < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        found = ".".join(map(str, version))
        raise PreflightError(
            f"Python {found} is too old: install Python {wanted} or newer, then `make install`"
        )


def check_data_dir(data_dir: Path) -> None:
    probe = data_dir / f".write-check-{os.getpid()}"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        message = (
            f"the data folder {data_dir} cannot be written ({error.strerror}): "
            "give this user the right to write there, or set GATEWAY_DATA_DIR to another folder"
        )
        raise PreflightError(message) from error


def check_master_key(master_key: str, *, characters_min: int) -> None:
    """Empty turns LiteLLM's key management off; a short one would be guessed."""
    if master_key and len(master_key) < characters_min:
        raise PreflightError(
            f"GATEWAY_MASTER_KEY has {len(master_key)} characters, fewer than {characters_min}: choose a "
            "long random one, such as that of `openssl rand -hex 32`, or leave it empty to turn it off"
        )


@contextlib.contextmanager
def held_data_dir(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for one `up` and note our process id there. Refused while another `up` lives.

    The kernel frees the lock when the process ends, however it ends: no stale lock is ever left.
    """
    check_data_dir(data_dir)
    with (data_dir / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _running_pid(data_dir)
            whose = f"process {pid}" if pid else "another process"
            message = (
                f"`manage.py up` is running on {data_dir} already ({whose}): stop it, or set "
                "GATEWAY_DATA_DIR and GATEWAY_PORT for a second one"
            )
            raise PreflightError(message) from error
        _pid_path(data_dir).write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            _pid_path(data_dir).unlink(missing_ok=True)


def check_port(*, host: str, port: int, data_dir: Path) -> None:
    """Bind as the server will, and let go."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        message = f"the host {host} is no address of this machine ({error.strerror}): set GATEWAY_HOST"
        raise PreflightError(message) from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            raise PreflightError(_port_message(error, host=host, port=port, data_dir=data_dir)) from error


def check_databases() -> None:
    """Connect to each database and ask it something."""
    for alias in connections:
        connection = connections[alias]
        is_sqlite = connection.vendor == "sqlite"
        patience = {} if is_sqlite else {"connect_timeout": CONNECT_TIMEOUT_S}
        question = "PRAGMA schema_version" if is_sqlite else "SELECT 1"
        driver: Any = connection.Database  # type: ignore[attr-defined]  # each backend has its own
        try:
            # By the driver alone: Django's pool would try for half a minute.
            probe = driver.connect(**connection.get_connection_params(), **patience)
            with contextlib.closing(probe):
                probe.execute(question)
        except driver.Error as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            message = (
                f"the database {_database_place(connection.settings_dict)} cannot be used ({reason}): "
                "start or repair it, or correct DATABASE_URL"
            )
            raise PreflightError(message) from error


def check_model_changes() -> None:
    """Our models are what our migrations make of them."""
    loader = MigrationLoader(None)
    detector = MigrationAutodetector(loader.project_state(), ProjectState.from_apps(apps))
    changes = detector.changes(graph=loader.graph)
    changed = sorted(label for label in changes if label in OWN_PACKAGES)
    if changed:
        names = ", ".join(changed)
        message = f"models of {names} have changed without a migration: run `manage.py makemigrations`"
        raise PreflightError(message)


def check_migrations() -> None:
    """Every migration is applied, in each database."""
    for alias in connections:
        names = unapplied_migrations(alias=alias)
        if names:
            option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
            message = (
                f"migrations are not applied yet ({_shortened(names)}): "
                f"run `manage.py migrate{option}` before the start"
            )
            raise PreflightError(message)


def unapplied_migrations(*, alias: str) -> list[str]:
    """The names of the migrations that `migrate --database ALIAS` would apply, in order."""
    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def _port_message(error: OSError, *, host: str, port: int, data_dir: Path) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {host} port {port} ({error.strerror}): set GATEWAY_HOST and GATEWAY_PORT"
    pid = _running_pid(data_dir)
    whose = f" (by another Tollgate? its {_pid_path(data_dir)} says {pid})" if pid else ""
    return f"port {port} on {host} is taken{whose}: stop what holds it, or set GATEWAY_PORT"


def _pid_path(data_dir: Path) -> Path:
    return data_dir / "up.pid"


def _running_pid(data_dir: Path) -> int | None:
    """The process id that another `up` noted, if a process of that number lives."""
    try:
        pid = int(_pid_path(data_dir).read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid if pid != os.getpid() else None


def _database_place(described: Mapping[str, Any]) -> str:
    """Where a database is, without its password."""
    place = str(described["NAME"])
    if described.get("HOST"):
        port = described.get("PORT")
        place = f"{place} at {described['HOST']}" + (f":{port}" if port else "")
    return place


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
