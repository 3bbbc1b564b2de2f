"""Keeps a tree of child processes: starts them, restarts the fallen, stops them in order, leaves no orphan.

Nothing outlives us, whatever kills us, by two means that do not need each other:
1. on Linux each child asks the kernel for SIGTERM at our death. The kernel ties that to the thread
   that started the child, so only the main thread starts children.
2. gateway.watchdog, a process of its own, reads our children's process groups from a pipe that only
   we write to. When the pipe ends it ends the groups that are left.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from gateway import watchdog

POLL_S = 0.1
RESTART_PAUSE_S_MAX = 30
RESTARTS_MAX = 8
# A child that ran this long had started well: its next fall is the first of a new row.
STEADY_S = 60
HURRIED_GRACE_S = 2
WATCHDOG_GRACE_S = 10
LOG_BYTES_MAX = 20 * 1024 * 1024
LOG_CHECK_PERIOD_S = 10
LOG_TAIL_LINES = 8
LOG_TAIL_BYTES = 4096
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class ChildFailedError(Exception):
    """A child without which there is no point ended and cannot be kept running."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run and how to treat it. `env` is the whole environment; it may hold secrets."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    stop_grace_s: float
    restart: bool
    # Children of the highest stage are stopped first, those of one stage together.
    stage: int = 0
    # Without an essential child there is no point: where it cannot be kept running, all ends.
    is_essential: bool = False
    # Exit codes of an essential child that a restart would only repeat.
    fatal_exit_codes: frozenset[int] = frozenset()
    # Called with the process id of each of its processes that ended.
    on_end: Callable[[int], None] | None = None


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0
    falls_in_a_row: int = 0
    restart_s: float | None = None


class Supervisor:
    """The children and the signals that stop them. A context: leaving it stops every child.

    Children write into logs in `log_dir`; None: where we write. The two `is_…_on` switches exist so that each
    guard against orphans can be tested alone.
    """

    def __init__(
        self,
        *,
        log_dir: Path | None,
        say: Callable[[str], None],
        is_death_signal_on: bool = True,
        is_watchdog_on: bool = True,
    ) -> None:
        self.log_dir = log_dir
        self._say = say
        self._ask_death_signal = _death_signal() if is_death_signal_on else None
        self._is_watchdog_on = is_watchdog_on
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._children: dict[str, _Child] = {}
        self._stop_requests_count = 0
        self._logs_checked_s = time.monotonic()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        assert threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.signal(number, self.request_stop) for number in STOP_SIGNALS}
        if self.log_dir is not None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        if self._is_watchdog_on:
            self._start_watchdog()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
        if self._watchdog is not None:
            self._end_watchdog(self._watchdog)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, spec: ChildSpec) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert spec.name not in self._children
        log = self._log_path(spec.name)
        if log is not None and log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        child = self._children[spec.name] = _Child(spec=spec)
        self._spawn(child)

    def watch(self) -> None:
        """Keep the children running until a stop is asked for.

        Raises ChildFailedError where an essential child cannot be kept running.
        """
        while not self.is_stopping:
            self._tick()

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float) -> bool:
        """Keep the children running until the condition holds; False after the time-out or at a stop."""
        deadline_s = time.monotonic() + timeout_s
        while not self.is_stopping:
            if condition():
                return True
            if time.monotonic() >= deadline_s:
                return False
            self._tick()
        return False

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first asks for an orderly stop, the second for a quick one."""
        self._stop_requests_count += 1

    def stop_all(self) -> None:
        """End the children stage by stage; each has its grace, then it is killed."""
        children = list(self._children.values())
        for stage in sorted({child.spec.stage for child in children}, reverse=True):
            self._stop_stage([child for child in children if child.spec.stage == stage])
        self._children.clear()

    @property
    def is_stopping(self) -> bool:
        return self._stop_requests_count > 0

    def group_of(self, name: str) -> int | None:
        """The process group (and process id) of a running child."""
        process = self._children[name].process
        return process.pid if process is not None else None

    def _tick(self) -> None:
        for child in list(self._children.values()):
            if child.process is not None and child.process.poll() is not None:
                self._handle_fall(child, exit_code=child.process.returncode)
            elif child.restart_s is not None and time.monotonic() >= child.restart_s:
                self._spawn(child)
        if self._watchdog is not None and self._watchdog.poll() is not None:
            self._say("the watchdog ended; starting another")
            self._end_watchdog(self._watchdog)
            self._start_watchdog()
        if time.monotonic() - self._logs_checked_s >= LOG_CHECK_PERIOD_S:
            self._logs_checked_s = time.monotonic()
            self._cut_logs()
        time.sleep(POLL_S)

    def _spawn(self, child: _Child) -> None:
        path = self._log_path(child.spec.name)
        with contextlib.nullcontext() if path is None else path.open("ab") as log:
            child.process = subprocess.Popen(  # noqa: S603 -- our own commands
                child.spec.argv,
                env=dict(child.spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                start_new_session=True,
                # Safe here: it calls prctl only, and this process has no other thread.
                preexec_fn=self._ask_death_signal,  # noqa: PLW1509
            )
        child.started_s = time.monotonic()
        child.restart_s = None
        self._tell_watchdog(f"+{child.process.pid}")

    def _handle_fall(self, child: _Child, *, exit_code: int) -> None:
        self._reap(child)
        spec = child.spec
        ran_steadily = time.monotonic() - child.started_s >= STEADY_S
        child.falls_in_a_row = 1 if ran_steadily else child.falls_in_a_row + 1
        is_hopeless = exit_code in spec.fatal_exit_codes or child.falls_in_a_row > RESTARTS_MAX
        told = f"{spec.name} ended with {_exit_text(exit_code)}"
        tail = self._log_tail(spec.name)
        if spec.restart and not is_hopeless:
            pause_s = min(2 ** (child.falls_in_a_row - 1), RESTART_PAUSE_S_MAX)
            child.restart_s = time.monotonic() + pause_s
            self._say(f"{told}; starting it again in {pause_s} s. {tail}")
        elif spec.is_essential:
            raise ChildFailedError(f"{told}. {tail}", exit_code=max(exit_code, 1))
        else:
            again = f" {child.falls_in_a_row} times in a row" if spec.restart else ""
            self._say(f"{told}{again}; going on without it. {tail}")

    def _reap(self, child: _Child) -> None:
        """Forget a process that ended, and end what is left of its group."""
        assert child.process is not None
        assert child.process.returncode is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        self._tell_watchdog(f"-{child.process.pid}")
        if child.spec.on_end is not None:
            child.spec.on_end(child.process.pid)
        child.process = None

    def _stop_stage(self, children: list[_Child]) -> None:
        begun_s = time.monotonic()
        requests_count = 1
        left = [child for child in children if child.process is not None]
        for child in left:
            _signal_child(child, number=signal.SIGTERM)
        while left:
            is_hurried = self._stop_requests_count > 1
            if self._stop_requests_count > requests_count:
                requests_count = self._stop_requests_count
                for child in left:
                    _signal_child(child, number=signal.SIGINT)
            for child in left:
                grace_s = min(child.spec.stop_grace_s, HURRIED_GRACE_S if is_hurried else float("inf"))
                if time.monotonic() - begun_s > grace_s and _signal_child(child, number=signal.SIGKILL):
                    self._say(f"{child.spec.name} did not end within {grace_s:g} s: killed")
            left = self._reap_ended(left)
            time.sleep(POLL_S / 2 if left else 0)

    def _reap_ended(self, children: Iterable[_Child]) -> list[_Child]:
        left = []
        for child in children:
            if child.process is not None and child.process.poll() is None:
                left.append(child)
            else:
                self._reap(child)
        return left

    def _start_watchdog(self) -> None:
        argv = (sys.executable, "-I", "-S", str(Path(watchdog.__file__).resolve()), str(WATCHDOG_GRACE_S))
        self._watchdog = subprocess.Popen(  # noqa: S603 -- our own script
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for child in self._children.values():
            if child.process is not None:
                self._tell_watchdog(f"+{child.process.pid}")

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is None:
            return
        assert self._watchdog.stdin is not None
        # A broken pipe means that it died: the next tick starts another and tells it all anew.
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.write(f"{line}\n".encode())
            self._watchdog.stdin.flush()

    def _end_watchdog(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(timeout=WATCHDOG_GRACE_S + 5)
        self._watchdog = None

    def _log_path(self, name: str) -> Path | None:
        return None if self.log_dir is None else self.log_dir / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        path = self._log_path(name)
        if path is None:
            return "Its log is above."
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join([f"The end of {path}:", *(f"    {line}" for line in lines[-LOG_TAIL_LINES:])])

    def _cut_logs(self) -> None:
        """Copy a log that grew too long aside and empty it: the child writes on at its (new) end."""
        for name in self._children:
            log = self._log_path(name)
            if log is not None and log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(log, log.with_name(f"{log.name}.1"))
                os.truncate(log, 0)


def _signal_child(child: _Child, *, number: signal.Signals) -> bool:
    """Signal a child's whole group; False where it is gone already."""
    if child.process is None or child.process.poll() is not None:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)
        return True
    return False


def _exit_text(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"signal {signal.Signals(-exit_code).name}"


def _death_signal() -> Callable[[], None] | None:
    """What a child calls before its own program begins, so that it gets SIGTERM when we die."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # We may have died before the call: then the signal will never come.
        if os.getppid() != parent:
            os._exit(1)

    return ask_death_signal
