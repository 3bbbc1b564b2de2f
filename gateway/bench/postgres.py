"""A throw-away PostgreSQL for the benchmark, which does write to the disk."""

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from gateway.bench.processes import BenchError, Cores, Running

LAUNCHER = Path(__file__).resolve().parents[2] / "tests" / "with_postgres.py"
START_TIMEOUT_S = 90
# The launcher's server is for tests, where nothing needs to reach the disk.
SAFE = ("fsync", "full_page_writes", "synchronous_commit")
# It passes its URL on by a file and waits.
WAIT = """import os, pathlib, signal
pathlib.Path({path!r}).write_text(os.environ["DATABASE_URL"])
signal.pause()"""


class Postgres:
    """A running server; `new_database` for each gateway."""

    def __init__(self, running: Running, *, url: str) -> None:
        self.running = running
        self._url = url

    @classmethod
    @contextlib.contextmanager
    def started(cls, *, folder: Path, cores: Cores, is_durable: bool) -> "Iterator[Postgres]":
        """`is_durable`: a commit waits for the disk; else it may be lost with the power, but never torn."""
        if not LAUNCHER.exists():
            raise BenchError("--database postgres needs a checkout: tests/with_postgres.py starts the server")
        path = folder / "postgres.url"
        argv = [sys.executable, str(LAUNCHER), sys.executable, "-c", WAIT.format(path=str(path))]
        running = Running(argv, name="postgres", cores=cores.load, log=folder / "postgres.log")
        try:
            url = _wait_for_url(running, path)
            with psycopg.connect(url, autocommit=True) as connection:
                for name in SAFE:
                    value = "on" if is_durable or name != "synchronous_commit" else "off"
                    connection.execute(f"ALTER SYSTEM SET {name} = {value}")
                connection.execute("SELECT pg_reload_conf()")
            yield cls(running, url=url)
        finally:
            running.stop()

    def new_database(self) -> str:
        """The URL of a new, empty one."""
        name = f"bench_{secrets.token_hex(4)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self._url.rpartition('/')[0]}/{name}"


def _wait_for_url(running: Running, path: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        running.check()
        if path.exists() and (url := path.read_text()):
            return url
        time.sleep(0.05)
    raise BenchError(f"PostgreSQL did not start:\n{running.last_words()}")
