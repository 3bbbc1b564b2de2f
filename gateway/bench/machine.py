"""The machine that figures were measured on, in words: without it they mean nothing."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from gateway.bench.processes import Cores

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("Django", "uvicorn", "uvloop", "httptools", "msgspec", "orjson")


def describe(*, cores: Cores) -> dict[str, str]:
    """By what was asked; values that the machine does not tell are empty."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": f"{len(os.sched_getaffinity(0) | cores.subject | cores.load)} usable of {os.cpu_count()}",
        "pinning": _pinning(cores),
        "memory": _memory(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def _pinning(cores: Cores) -> str:
    if cores.are_shared:
        return "one core for everything: latencies and rates are those of a crowded core"
    return f"what is measured on core {min(cores.subject)}, load and upstream on core {min(cores.load)}"


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _memory() -> str:
    words = _field("/proc/meminfo", "MemTotal").split()
    return f"{int(words[0]) / 1024 / 1024:.0f} GiB" if words else ""


def _commit() -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- our own command
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607 -- whichever is there
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
