"""The queue of a route: where everything that may serve a request is full, it waits for its turn, bounded.

1. A request that finds every eligible deployment full joins the line of its route (routing.fairness). What
   was in line before it is never overtaken by a newcomer. Nothing is held for it in the ledger meanwhile.
2. It is refused at once where the line is full, or where the places that came free of late say that its
   turn would come after the longest it may wait.
3. The first of a line chooses again whenever a place came free, and every POLL_S besides: another process
   may have freed one, a limit may have been refilled, the inventory may have changed.
4. Where what serves the route is asleep it waits as well: for the cluster that is woken, if that is expected
   to be there in time.
5. It leaves the line when it got a place, when its time is over, when its caller is gone, or when the process
   drains: then it is told to come again.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec import Struct

from gateway import metrics
from gateway.errors import (
    ClusterAsleepError,
    DrainingError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from gateway.outbox import Headers, Outbox
from routing import fairness
from routing.fairness import Departures, Line
from routing.spilling import is_woken
from routing.types import Decision

POLL_S = 0.1
MAX_WAIT_HEADER = b"x-gateway-max-wait"
NUMBER = re.compile(rb"\d{1,9}(\.\d{1,6})?")
# Routes whose rate of departures is remembered; the one not seen for longest goes first.
ROUTES_MAX = 10_000
# What passes by itself: such a place is worth waiting for.
FULL_REASONS = frozenset({"in_flight_max", "rate_limit"})
POSITION_HEADER = "x-gateway-queue-position"
EXPECTED_HEADER = "x-gateway-queue-expected-ms"
WAITED_HEADER = "x-gateway-queue-wait-ms"

Place = TypeVar("Place")


class Patron(Struct, frozen=True, kw_only=True):
    """Who waits, and for how long at most; a greater weight is a greater share, a higher priority first."""

    route: str
    team: str
    weight: int
    priority: int
    places_max: int
    wait_s_max: float


class _Queue:
    """One route's line, and what wakes each who stands in it."""

    def __init__(self) -> None:
        self.line = Line()
        self.bells: dict[int, asyncio.Event] = {}


class WaitRoom:
    """One per process. Costs a look into an empty dict where nobody waits."""

    def __init__(self, *, clock: Callable[[], float], is_draining: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_draining = is_draining
        self._queues: dict[str, _Queue] = {}
        self._departures: dict[str, Departures] = {}
        self._number = 0

    def has_line(self, route: str) -> bool:
        return route in self._queues

    def count(self) -> int:
        """How many wait, in all lines."""
        return sum(len(queue.bells) for queue in self._queues.values())

    def on_departure(self, route: str) -> None:
        """A request of the route gave its place back: whoever is first anywhere may try again."""
        known = self._departures.pop(route, Departures())
        if len(self._departures) >= ROUTES_MAX:
            self._departures.pop(next(iter(self._departures)))
        self._departures[route] = fairness.on_departure(known, now_s=self._clock())
        if self._queues:
            self.ring()

    def ring(self) -> None:
        """Wake the first of each line."""
        for queue in self._queues.values():
            first = fairness.first_of(queue.line, now_s=self._clock())
            if first is not None:
                queue.bells[first].set()

    async def wait(
        self,
        patron: Patron,
        *,
        outbox: Outbox,
        refusal: GatewayError,
        take: Callable[[], Place | None],
        warm_in_s: float | None = None,
    ) -> tuple[Place, Headers]:
        """What `take` gives once it is this request's turn and there is room, and headers that tell of it.

        `take` returns None while there is no room, and raises where there never will be. Raises
        OverloadedError, or ClusterAsleepError if that is the refusal, in the refusal's words and with what
        is known of the line, where it takes too long. `warm_in_s`: when a cluster that is woken should be
        there, if none was before.
        """
        begun_s = self._clock()
        number = self._join(patron, now_s=begun_s)
        queue = self._queues[patron.route]
        position = fairness.position_of(queue.line, number=number, now_s=begun_s)
        expected_s = fairness.expected_wait_s(
            self._departures.get(patron.route, Departures()), position=position, now_s=begun_s
        )
        if warm_in_s is not None:
            expected_s = max(expected_s or 0.0, warm_in_s)
        told = _told(position, expected_s)
        place: Place | None = None
        try:
            self._refuse_early(patron, refusal, position=position, expected_s=expected_s, told=told)
            place = await self._turn(patron, number, begun_s=begun_s, outbox=outbox, take=take)
        finally:
            self._leave(patron.route, number, is_served=place is not None)
        if place is None:
            metrics.QUEUE_REFUSED.labels("timed_out").inc()
            waited_s = self._clock() - begun_s
            after_s = None if warm_in_s is None else max(warm_in_s - waited_s, 1.0)
            raise _with(refusal, f" It waited {waited_s:.1f} s for a place.", told=told, after_s=after_s)
        waited_s = self._clock() - begun_s
        metrics.QUEUE_WAIT.observe(waited_s)
        return place, (*told, (WAITED_HEADER, str(round(waited_s * 1000))))

    async def _turn(
        self,
        patron: Patron,
        number: int,
        *,
        begun_s: float,
        outbox: Outbox,
        take: Callable[[], Place | None],
    ) -> Place | None:
        """The place, or None where the time is over or nobody waits for it any more."""
        queue = self._queues[patron.route]
        bell = queue.bells[number]
        outbox.on_abandon(bell.set)
        try:
            while True:
                if self._is_draining():
                    raise DrainingError("This gateway is shutting down; send the request again.")
                if outbox.is_abandoned:
                    return None
                if fairness.first_of(queue.line, now_s=self._clock()) == number:
                    place = take()
                    if place is not None:
                        return place
                left_s = begun_s + patron.wait_s_max - self._clock()
                if left_s <= 0.0:
                    return None
                bell.clear()
                await _rung(bell, within_s=min(POLL_S, left_s))
        finally:
            outbox.on_abandon(_nothing)

    def _join(self, patron: Patron, *, now_s: float) -> int:
        queue = self._queues.setdefault(patron.route, _Queue())
        self._number += 1
        queue.line = fairness.joined(
            queue.line,
            number=self._number,
            team=patron.team,
            weight=patron.weight,
            priority=patron.priority,
            now_s=now_s,
        )
        queue.bells[self._number] = asyncio.Event()
        metrics.QUEUE_WAITING.set(self.count())
        return self._number

    def _leave(self, route: str, number: int, *, is_served: bool) -> None:
        queue = self._queues[route]
        step = fairness.served if is_served else fairness.left
        queue.line = step(queue.line, number=number)
        del queue.bells[number]
        if not queue.bells:
            del self._queues[route]
        metrics.QUEUE_WAITING.set(self.count())
        # There may be room for more than one.
        self.ring()

    def _refuse_early(
        self,
        patron: Patron,
        refusal: GatewayError,
        *,
        position: int,
        expected_s: float | None,
        told: Headers,
    ) -> None:
        if len(self._queues[patron.route].bells) > patron.places_max:
            metrics.QUEUE_REFUSED.labels("full").inc()
            raise _with(
                refusal, f" {patron.places_max} requests wait already.", told=told, after_s=expected_s
            )
        if expected_s is not None and expected_s > patron.wait_s_max:
            metrics.QUEUE_REFUSED.labels("too_late").inc()
            raise _with(
                refusal,
                f" Its turn, number {position} in line, is expected in {expected_s:.1f} s, and it may wait "
                f"{patron.wait_s_max:g} s.",
                told=told,
                after_s=expected_s,
            )


def wait_asked(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """The seconds of `x-gateway-max-wait`; None: not said. Raises InvalidRequestError."""
    for name, value in headers:
        if name == MAX_WAIT_HEADER:
            if not NUMBER.fullmatch(value):
                raise InvalidRequestError(
                    "The header x-gateway-max-wait says how many seconds the request may wait for a place: "
                    "write a number such as 2.5, or 0 not to wait."
                )
            return float(value)
    return None


def is_worth_waiting(decision: Decision) -> bool:
    """Whether some deployment is only full, or its places went to others just now, or it is woken."""
    is_full = any(each.reason in FULL_REASONS for each in decision.exclusions)
    return bool(decision.ranked) or is_full or is_woken(decision)


def _told(position: int, expected_s: float | None) -> Headers:
    known = () if expected_s is None else ((EXPECTED_HEADER, str(round(expected_s * 1000))),)
    return ((POSITION_HEADER, str(position)), *known)


def _with(refusal: GatewayError, words: str, *, told: Headers, after_s: float | None = None) -> GatewayError:
    kind = ClusterAsleepError if isinstance(refusal, ClusterAsleepError) else OverloadedError
    error: UnavailableError = kind(f"{refusal.message}{words}", retry_after_s=after_s)
    error.headers = (*error.headers, *told)
    return error


async def _rung(bell: asyncio.Event, *, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await bell.wait()
    except TimeoutError:
        return


def _nothing() -> None:
    """Who waits no more is not woken."""
