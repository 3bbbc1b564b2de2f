"""Ends what a dead supervisor leaves behind: process groups, read from a pipe until it ends.

Started by gateway.supervisor as a script of its own (`python -I -S watchdog.py GRACE_S`), so that it
stays small and imports nothing of ours. Each line on standard input is `+PGID` (a child began) or
`-PGID` (it ended and was reaped, so its number may be used again by a stranger). Only the supervisor
holds the write end: end of file means that it is gone, whatever killed it.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

POLL_S = 0.05


def surviving_groups(lines: Iterable[bytes]) -> set[int]:
    """The process groups that were begun and not ended, once the pipe is at its end."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def end_groups(groups: set[int], *, grace_s: float) -> None:
    """Ask each group to end, and kill what is still there after the grace."""
    deadline_s = time.monotonic() + grace_s
    left = {group for group in groups if _signal_group(group, number=signal.SIGTERM)}
    while left and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        left = {group for group in left if _signal_group(group, number=0)}
    for group in left:
        _signal_group(group, number=signal.SIGKILL)


def _signal_group(group: int, *, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(surviving_groups(sys.stdin.buffer), grace_s=float(sys.argv[1]))


if __name__ == "__main__":
    main()
