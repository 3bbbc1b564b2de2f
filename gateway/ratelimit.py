"""Limits on requests and tokens per minute and on requests at once: what is asked, what is left, who counts.

A minute is any 60 seconds: no rolling minute sees more than the limit. Use is counted by whole seconds and
leaves the count when all of its second is more than a minute old.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import floor

from msgspec import Struct

MINUTE_S = 60
# Waiting just as long as was asked must do: less than this is rounding.
SLACK_S = 1e-6
# Counts of scopes that were not seen for long are dropped, oldest first; an empty one says the same as none.
COUNTS_MAX = 50_000
# How long a caller is asked to wait for a place among requests at once: nobody knows when one ends.
PLACE_WAIT_S = 1.0
CONCURRENT = "concurrent"
# OpenAI's, by what is limited: the limit, what remains of it, and when it is whole again.
HEADERS = {
    "requests": (
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    "tokens": ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
}


class Demand(Struct, frozen=True, kw_only=True):
    """What one request takes of one limit. `kind`: requests | tokens (both per minute) | concurrent."""

    scope: str
    label: str
    kind: str
    limit: int
    amount: int


class Allowance(Struct, frozen=True, kw_only=True):
    """What is left of one limit after a request: for the x-ratelimit headers."""

    demand: Demand
    remaining: int
    reset_s: float
    is_refused: bool = False
    retry_after_s: float = 0.0


class Taken(Struct, frozen=True, kw_only=True):
    """The answer to one request's demands: all of them taken, or none, with the one that refused last."""

    allowances: tuple[Allowance, ...]

    @property
    def refused(self) -> Allowance | None:
        for allowance in self.allowances:
            if allowance.is_refused:
                return allowance
        return None


class MinuteCount:
    """How much was used in the running minute, by the second."""

    __slots__ = ("_seconds", "total")

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()
        self.total = 0

    def roll(self, now_s: float) -> None:
        """Forget what is more than a minute old."""
        while self._seconds and now_s + SLACK_S >= self._seconds[0][0] + 1 + MINUTE_S:
            self.total -= self._seconds.popleft()[1]

    def add(self, amount: int, *, now_s: float) -> None:
        """Count use; a negative amount takes back the latest that was counted, never below nothing."""
        if amount < 0:
            self._take_back(-amount)
            return
        second = floor(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([second, amount])
        self.total += amount

    def wait_s(self, amount: int, *, limit: int, now_s: float) -> float:
        """Seconds until so much more fits below the limit."""
        surplus = self.total + min(amount, limit) - limit
        waited_s = 0.0
        for second, used in self._seconds:
            if surplus <= 0:
                break
            surplus -= used
            waited_s = second + 1 + MINUTE_S - now_s
        return max(waited_s, 0.0)

    def reset_s(self, *, now_s: float) -> float:
        """Seconds until all of it is forgotten."""
        return self._seconds[-1][0] + 1 + MINUTE_S - now_s if self._seconds else 0.0

    def _take_back(self, amount: int) -> None:
        while amount > 0 and self._seconds:
            latest = self._seconds[-1]
            taken = min(amount, latest[1])
            latest[1] -= taken
            self.total -= taken
            amount -= taken
            if latest[1] == 0:
                self._seconds.pop()


class LocalLimiter:
    """Counts in this process. `share` is the part of each limit that is its own: 1 of so many processes."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minutes: dict[tuple[str, str], MinuteCount] = {}
        self._places: dict[str, int] = {}
        self.share = 1

    async def take(self, demands: Sequence[Demand]) -> Taken:
        return self.take_now(demands)

    def take_now(self, demands: Sequence[Demand]) -> Taken:
        """Take all of them, or nothing where one does not fit."""
        now_s = self._clock()
        allowances = tuple([self._look(demand, now_s=now_s, is_after=True) for demand in demands])
        for allowance in allowances:
            if allowance.is_refused:
                return Taken(allowances=tuple([self._look(demand, now_s=now_s) for demand in demands]))
        self.note(demands, now_s=now_s)
        return Taken(allowances=allowances)

    def note(self, demands: Sequence[Demand], *, now_s: float | None = None) -> None:
        """Count what was allowed, here or elsewhere, so that this process knows its own last minute."""
        now_s = self._clock() if now_s is None else now_s
        for demand in demands:
            if demand.kind == CONCURRENT:
                self._places[demand.scope] = self._places.get(demand.scope, 0) + demand.amount
            else:
                self._minute(demand, now_s=now_s).add(demand.amount, now_s=now_s)

    def correct(self, demand: Demand, *, amount: int) -> None:
        """More (or, negative, less) was used than was taken."""
        now_s = self._clock()
        self._minute(demand, now_s=now_s).add(amount, now_s=now_s)

    def leave(self, demand: Demand) -> None:
        """A request ended: its place among requests at once is free."""
        places = self._places.get(demand.scope, 0) - demand.amount
        if places > 0:
            self._places[demand.scope] = places
        else:
            self._places.pop(demand.scope, None)

    def used(self, *, kind: str, scope: str) -> int:
        if kind == CONCURRENT:
            return self._places.get(scope, 0)
        count = self._minutes.get((kind, scope))
        if count is None:
            return 0
        count.roll(self._clock())
        return count.total

    def scopes(self) -> list[tuple[str, str]]:
        """Kind and scope of everything that was used in the last minute or runs now."""
        minutes = [place for place in self._minutes if self.used(kind=place[0], scope=place[1])]
        return minutes + [(CONCURRENT, scope) for scope in self._places]

    def _look(self, demand: Demand, *, now_s: float, is_after: bool = False) -> Allowance:
        """What is left; `is_after`: once the demand is taken."""
        limit = max(demand.limit // self.share, 1)
        count = None
        if demand.kind == CONCURRENT:
            left = limit - self._places.get(demand.scope, 0)
            reset_s = PLACE_WAIT_S
        else:
            count = self._minute(demand, now_s=now_s)
            left = limit - count.total
            is_taken = is_after and left >= demand.amount
            reset_s = floor(now_s) + 1 + MINUTE_S - now_s if is_taken else count.reset_s(now_s=now_s)
        if left >= demand.amount:
            remaining = left - demand.amount if is_after else left
            return Allowance(demand=demand, remaining=remaining, reset_s=reset_s)
        wait_s = PLACE_WAIT_S if count is None else count.wait_s(demand.amount, limit=limit, now_s=now_s)
        return Allowance(
            demand=demand, remaining=max(left, 0), reset_s=reset_s, is_refused=True, retry_after_s=wait_s
        )

    def _minute(self, demand: Demand, *, now_s: float) -> MinuteCount:
        # Taken out and put in again: the first in order is the one not seen for longest.
        place = (demand.kind, demand.scope)
        count = self._minutes.pop(place, None)
        if count is None:
            if len(self._minutes) >= COUNTS_MAX:
                self._minutes.pop(next(iter(self._minutes)))
            count = MinuteCount()
        self._minutes[place] = count
        count.roll(now_s)
        return count


def headers_of(allowances: Sequence[Allowance]) -> tuple[tuple[str, str], ...]:
    """OpenAI's names, for the tightest limit of each kind; a reset is written `120ms` or `6m0s`."""
    headers: tuple[tuple[str, str], ...] = ()
    for kind, (limit, remaining, reset) in HEADERS.items():
        found = [allowance for allowance in allowances if allowance.demand.kind == kind]
        if not found:
            continue
        tightest = min(found, key=lambda allowance: (allowance.remaining, allowance.demand.limit))
        headers += (
            (limit, str(tightest.demand.limit)),
            (remaining, str(tightest.remaining)),
            (reset, duration_text(tightest.reset_s)),
        )
    return headers


def duration_text(seconds: float) -> str:
    """`0s`, `120ms`, `12s`, `6m0s`: as OpenAI writes it."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole = -(-milliseconds // 1000)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"
