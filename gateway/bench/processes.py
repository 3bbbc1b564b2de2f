"""Processes that the benchmark starts, pins to cores, measures by /proc and ends by their ids."""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 45
LOG_TAIL_LINES = 12
POLL_S = 0.01
CALL_TIMEOUT_S = 30
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Where what is measured runs, and where load and upstream do; one set where there is one core."""

    subject: frozenset[int]
    load: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> "Cores":
        usable = sorted(os.sched_getaffinity(0))
        return cls(subject=frozenset(usable[:1]), load=frozenset(usable[1:2] or usable[:1]))

    @property
    def are_shared(self) -> bool:
        return self.subject == self.load


class Running:
    """A process of ours with all that it started, in a process group of its own."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        cores: frozenset[int],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        assert threading.current_thread() is threading.main_thread(), "the kernel ties the death to it"
        self.name = name
        self._log = log
        with log.open("ab") as output, pinned(cores):
            try:
                self._process = subprocess.Popen(  # noqa: S603 -- our own commands
                    argv,
                    env=env,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 -- before any thread
                )
            except OSError as error:
                raise BenchError(f"{name}: cannot start {argv[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises BenchError, with the log's last lines, where it has ended."""
        if (code := self._process.poll()) is not None:
            raise BenchError(f"{self.name} ended with exit code {code}:\n{self.last_words()}")

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def cpu_s(self) -> float:
        """User and system time of the tree, its threads and what they waited for, in seconds."""
        return sum(_cpu_ticks(pid) for pid in tree(self.pid)) / TICKS_PER_S

    def pss_bytes(self) -> int:
        """The tree's proportional set size: private pages and its share of shared ones."""
        return sum(_pss_bytes(pid) for pid in tree(self.pid))

    def thread_count(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in tree(self.pid))

    def stop(self) -> None:
        """SIGTERM to it, then SIGKILL to what is left of its group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def tree(root: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: the first is the state (proc(5), field 3)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_ticks(pid: int) -> int:
    try:
        # utime, stime, cutime, cstime.
        return sum(int(field) for field in _stat(pid)[11:15])
    except OSError:
        return 0


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """This process on those cores; what it starts meanwhile stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_status(running: Running, *, port: int, path: str, timeout_s: float) -> None:
    """Until GET gives 200. Raises BenchError where the process ends or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        running.check()
        with contextlib.suppress(OSError, http.client.HTTPException):
            if call(port=port, method="GET", path=path)[0] == 200:
                return
        time.sleep(POLL_S)
    raise BenchError(f"{running.name} was not ready within {timeout_s:.0f} s:\n{running.last_words()}")


def call(
    *, port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """One request outside of any measurement: its status and body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(method, path, body=body or None, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
