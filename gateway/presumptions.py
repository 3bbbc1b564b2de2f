"""When first tokens of plain answers are expected; nobody sees them, so they are presumed to come then."""

import heapq
import itertools
from collections.abc import Callable

from gateway.attempt import Attempt

CallLater = Callable[[float, Callable[[], None]], object]

# A ring looks at all that are due by then; the next comes so much later at least.
RING_PAUSE_S = 0.002
# Above so many, or twice as many as are still open, those that ended are dropped.
KEPT_MIN = 256


class Presumptions:
    """Plain answers by when their first token is due. One timer rings for all: `on_due` is called then.

    `clock` gives monotonic seconds, `call_later` runs a function some seconds from now.
    """

    def __init__(
        self, *, clock: Callable[[], float], call_later: CallLater, on_due: Callable[[float], None]
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._on_due = on_due
        self._expected: list[tuple[float, int, Attempt]] = []
        self._numbers = itertools.count()
        self._rings_at_s = float("inf")
        self._kept_max = KEPT_MIN

    def add(self, attempt: Attempt, *, delay_s: float) -> None:
        due_s = self._clock() + delay_s
        heapq.heappush(self._expected, (due_s, next(self._numbers), attempt))
        if due_s < self._rings_at_s:
            self._set_timer(due_s, delay_s)
        if len(self._expected) > self._kept_max:
            self._expected = [each for each in self._expected if each[2].unseen_tokens]
            heapq.heapify(self._expected)
            self._kept_max = max(KEPT_MIN, 2 * len(self._expected))

    def take_due(self, now_s: float) -> list[Attempt]:
        """Those that are due and have not ended; they are asked for no more."""
        taken = []
        while self._expected and self._expected[0][0] <= now_s:
            attempt = heapq.heappop(self._expected)[2]
            if attempt.unseen_tokens:
                taken.append(attempt)
        return taken

    def _set_timer(self, at_s: float, delay_s: float) -> None:
        self._rings_at_s = at_s
        self._call_later(delay_s, self._ring)

    def _ring(self) -> None:
        now_s = self._clock()
        self._rings_at_s = float("inf")
        self._on_due(now_s)
        if self._expected:
            due_s = max(self._expected[0][0], now_s + RING_PAUSE_S)
            self._set_timer(due_s, due_s - now_s)
