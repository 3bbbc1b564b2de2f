"""Keeps more requests out than this process can work on: those beyond wait before the door, briefly.

1. At most `limit` requests are worked on at once. One that waits for its upstream, or for a place there, is
   not worked on: so long answers take no room here.
2. Who finds no room waits. While the line was empty of late (STANDING_S) that is a burst, and may take as
   long; a line that stands is overload, and nobody waits in it longer than PATIENCE_S. This is the controlled
   delay of B. Maurer, "Fail at Scale" (ACM Queue 13, 8, 2015), after CoDel (RFC 8289). A line may stand
   longer here than there: an answer takes seconds, so half of one is worth more than a refusal.
3. The limit follows the event loop's lag: what runs out is its thread. A loop that is in time has room for
   more, however slow the ledger's disk is; one that is late has too much to do. Late by its own work, that
   is: a process that others keep off its core is not helped by doing less.

While nobody waits nothing is measured, and a request costs two additions.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

CallLater = Callable[[float, Callable[[], None]], object]

LIMIT_START, LIMIT_MIN, LIMIT_MAX = 48, 4, 1024
STANDING_S = 0.5
PATIENCE_S = 0.005
# More than a process serves while a burst may last, and while who stands in line is patient.
LINE_MAX, STANDING_LINE_MAX = 1024, 16
PULSE_S = 0.005
# The mean lag of late, between which the limit stays.
LAG_LOW_S, LAG_HIGH_S = 0.0005, 0.001
LAG_WEIGHT = 0.2
LIMIT_STEP = 0.1
# A loop that is as late as this needs relief at once.
LAG_FAR_S = 0.008


class Work:
    """One request's share of what is worked on. It may be put down and taken up; `end` is for good.

    `is_pumps`: the pump that took it over ends it, and not who began it.
    """

    __slots__ = ("_door", "_is_counted", "_is_ended", "is_pumps")

    def __init__(self, door: "Door | None") -> None:
        self.is_pumps = False
        self._door = door
        self._is_counted = False
        self._is_ended = door is None

    def take_up(self) -> None:
        if not (self._is_counted or self._is_ended):
            self._is_counted = True
            assert self._door is not None
            self._door.work_count += 1

    def put_down(self) -> None:
        """It waits for others now."""
        if self._is_counted:
            self._is_counted = False
            assert self._door is not None
            self._door.on_room()

    def end(self) -> None:
        self.put_down()
        self._is_ended = True


# Of requests that came by another way than through the door.
UNCOUNTED = Work(None)


class _Waiting(Struct, frozen=True):
    begin: Callable[[Work], None]
    refuse: Callable[[], None]
    since_s: float


class Door:
    """One per process. `clock` gives monotonic seconds, `call_later` runs a function some seconds from now.

    `cpu_clock` gives the CPU seconds of all threads of the process.

    `is_closed`: who came now would be refused, whoever it is.
    """

    def __init__(
        self, *, clock: Callable[[], float], cpu_clock: Callable[[], float], call_later: CallLater
    ) -> None:
        self.is_closed = False
        self.work_count = 0
        self.limit = float(LIMIT_START)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._call_later = call_later
        self._line: deque[_Waiting] = deque()
        # When the line was empty last, and when somebody had to wait, or was sent away at once.
        self._empty_at_s = 0.0
        self._waited_at_s = 0.0
        self._is_standing = False
        self._lag_s = 0.0
        self._pulse_due_s: float | None = None
        self._worked_s = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter(self, begin: Callable[[Work], None], refuse: Callable[[], None]) -> None:
        """Begin at once where there is room, else in turn; `refuse` is called where that takes too long."""
        if not self._line and self.work_count < self.limit:
            self._begin(begin)
            return
        now_s = self._waited_at_s = self._clock()
        if self.is_closed:
            refuse()
            return
        if not self._line and not self._is_standing:
            self._empty_at_s = now_s
        self._line.append(_Waiting(begin, refuse, now_s))
        self._look_whether_closed()
        if self._pulse_due_s is None:
            self._lag_s = (LAG_LOW_S + LAG_HIGH_S) / 2
            self._set_pulse(now_s)

    def on_room(self) -> None:
        """One is worked on no more."""
        self.work_count -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._line and self.work_count < self.limit:
            self._begin(self._line.popleft().begin)
        self._look_whether_closed()

    def _look_whether_closed(self) -> None:
        self.is_closed = len(self._line) >= (STANDING_LINE_MAX if self._is_standing else LINE_MAX)

    def _begin(self, begin: Callable[[Work], None]) -> None:
        work = Work(self)
        work.take_up()
        begin(work)

    def _set_pulse(self, now_s: float) -> None:
        self._pulse_due_s = now_s + PULSE_S
        self._worked_s = self._cpu_clock()
        self._call_later(PULSE_S, self._pulse)

    def _pulse(self) -> None:
        assert self._pulse_due_s is not None
        now_s = self._clock()
        worked_s = self._cpu_clock() - self._worked_s
        lag_s = max(min(now_s - self._pulse_due_s, worked_s - PULSE_S), 0.0)
        self._pulse_due_s = None
        self._lag_s += LAG_WEIGHT * (lag_s - self._lag_s)
        self._move_limit(lag_s)
        if self._line:
            self._waited_at_s = now_s
        # It stands until nobody had to wait for as long: who was sent away, or let in, may have emptied it.
        latest_s = self._waited_at_s if self._is_standing else self._empty_at_s
        is_long = now_s - latest_s > STANDING_S
        self._is_standing = not is_long if self._is_standing else bool(self._line) and is_long
        self._send_away(now_s)
        self._let_in()
        if self._line or self._is_standing:
            self._set_pulse(now_s)
        else:
            # Nothing is measured from here on: a high limit would let in what nobody sees coming.
            self.limit = float(LIMIT_START)

    def _move_limit(self, lag_s: float) -> None:
        if self._line and self._lag_s < LAG_LOW_S:
            self.limit = min(self.limit * (1 + LIMIT_STEP), LIMIT_MAX)
        elif self._lag_s > LAG_HIGH_S:
            step = 0.5 if lag_s > LAG_FAR_S else LIMIT_STEP
            self.limit = max(self.limit * (1 - step), LIMIT_MIN)

    def _send_away(self, now_s: float) -> None:
        patience_s = PATIENCE_S if self._is_standing else STANDING_S
        while self._line and now_s - self._line[0].since_s > patience_s:
            self._line.popleft().refuse()
