"""Whose turn it is among those who wait: by priority, then by fair shares of the teams, then by arrival.

Teams share by start-time fair queueing (Goyal, Vin and Cheng, 1996): a request starts in virtual time where
its team's latest one finished, or now, and finishes 1/weight later; who starts first is served first. So a
team with work waiting gets places in proportion to its weight, and one that was idle saves nothing up.
Waiting raises a request's priority by one every AGEING_S, so nobody waits for ever behind the important.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import exp

AGEING_S = 2.0
# Teams whose finish is remembered; one that is forgotten starts anew, now.
TEAMS_MAX = 1000
# The rate of departures follows traffic with this time constant.
RATE_TAU_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One request in line; `start` is its virtual start, `number` its arrival's."""

    number: int
    team: str
    priority: int
    arrived_s: float
    start: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Who waits, in no order; the virtual time, and where each team's latest request finishes in it."""

    waiters: tuple[Waiter, ...] = ()
    virtual: float = 0.0
    finishes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Departures:
    """Requests that left their places lately: a count that fades, as of `at_s`."""

    count: float = 0.0
    at_s: float = 0.0


def joined(line: Line, *, number: int, team: str, weight: int, priority: int, now_s: float) -> Line:
    """The line with one more at its end; numbers grow."""
    assert weight > 0
    start = max(line.virtual, line.finishes.get(team, 0.0))
    finishes = {name: finish for name, finish in line.finishes.items() if finish > line.virtual}
    if len(finishes) < TEAMS_MAX or team in finishes:
        finishes[team] = start + 1.0 / weight
    waiter = Waiter(number=number, team=team, priority=priority, arrived_s=now_s, start=start)
    return replace(line, waiters=(*line.waiters, waiter), finishes=finishes)


def left(line: Line, *, number: int) -> Line:
    """Without one who gave up; nobody else's place changes."""
    return replace(line, waiters=_without(line.waiters, number))


def served(line: Line, *, number: int) -> Line:
    """Without one who got a place: virtual time goes on to its start."""
    start = next(waiter.start for waiter in line.waiters if waiter.number == number)
    return replace(line, waiters=_without(line.waiters, number), virtual=max(line.virtual, start))


def first_of(line: Line, *, now_s: float) -> int | None:
    """The number of who is served next; None where nobody waits."""
    if not line.waiters:
        return None
    return min(line.waiters, key=lambda waiter: _rank(waiter, now_s)).number


def position_of(line: Line, *, number: int, now_s: float) -> int:
    """How many are served up to this one, itself included, if nobody else comes."""
    own = next(_rank(waiter, now_s) for waiter in line.waiters if waiter.number == number)
    return sum(_rank(waiter, now_s) <= own for waiter in line.waiters)


def on_departure(departures: Departures, *, now_s: float) -> Departures:
    return Departures(_faded(departures, now_s) + 1.0, now_s)


def expected_wait_s(departures: Departures, *, position: int, now_s: float) -> float | None:
    """Until so many places came free, at the rate of late; None where nothing has come free lately."""
    rate_per_s = _faded(departures, now_s) / RATE_TAU_S
    return position / rate_per_s if rate_per_s > 1e-3 else None


def _faded(departures: Departures, now_s: float) -> float:
    return departures.count * exp(-max(now_s - departures.at_s, 0.0) / RATE_TAU_S)


def _rank(waiter: Waiter, now_s: float) -> tuple[float, float, int]:
    aged = waiter.priority + max(now_s - waiter.arrived_s, 0.0) // AGEING_S
    return -aged, waiter.start, waiter.number


def _without(waiters: Iterable[Waiter], number: int) -> tuple[Waiter, ...]:
    return tuple(waiter for waiter in waiters if waiter.number != number)
