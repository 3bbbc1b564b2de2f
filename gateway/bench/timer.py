"""A timer on the event loop that is good to microseconds: Linux's timerfd, since the loop's own are not."""

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Calls back at moments of time.monotonic_ns (timerfd_create(2)); `close` it. Raises OSError."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._armed_ns = 0
        self._loop.add_reader(self._descriptor, self._fire)

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (due_ns, next(self._numbers), callback))
        self._arm()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._armed_ns = 0
        now_ns = time.monotonic_ns()
        while self._calls and self._calls[0][0] <= now_ns:
            heapq.heappop(self._calls)[2]()
        self._arm()

    def _arm(self) -> None:
        if not self._calls or self._calls[0][0] == self._armed_ns:
            return
        self._armed_ns = self._calls[0][0]
        setting = _Itimerspec(value=_Timespec(*divmod(self._armed_ns, 1_000_000_000)))
        _libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None)
