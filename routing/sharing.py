"""What processes tell of each other: rows of numbers that only grow or stand, and their sum as one event.

1. Each process keeps a row per deployment and writes into it what its own events did (`note`).
2. Rows travel whole, by shared memory or by a store. So a row that is lost costs only time, since the next
   says it all: what stands (backlog, in flight) replaces what stood, of what grows the difference counts.
3. Who hears sums them up over the tellers (`Sum`), and takes what is new as one event for `observe`
   (`Others`). A teller that died is forgotten: what stood for it is gone, what it had sent or learnt stays.

Rows hold whole numbers, so that each is one word of memory: seconds are in nano- or microseconds.
"""

from collections.abc import Mapping, Sequence

from routing.forecast import Lesson
from routing.learning import (
    NO_LESSON,
    DeploymentState,
    Dispatched,
    Event,
    Failed,
    Finished,
    FirstToken,
    Presumed,
    Shared,
)
from routing.quota import UNLIMITED

# Places in a row. What stands now:
IN_FLIGHT, BACKLOG_TOKENS = 0, 1
# What grows: requests and tokens under a provider's limits, its refusals, first tokens and what they taught,
# failures and successes that count for the breaker, how often it opened or closed.
REQUESTS, TOKENS, REFUSALS = 2, 3, 4
DRAINED_TOKENS, LESSONS, MISSES, ERROR_SUM, ERROR_SQUARE_SUM, SLOPES = 5, 6, 7, 8, 9, 10
FAILURES, SUCCESSES, BREAKER_CHANGES = 11, 12, 13
# What was so last: limits per minute (0: none), the slope in ns per token, when the breaker ends (0: closed).
REQUESTS_PER_MIN, TOKENS_PER_MIN, SLOPE_NS, OPEN_UNTIL_US = 14, 15, 16, 17
FIELDS = 18
GROWING = slice(REQUESTS, BREAKER_CHANGES + 1)
# Sums of logarithms are told in billionths.
LOG_UNITS = 1e9
NS_PER_S, US_PER_S = 1e9, 1e6

Row = list[int]
NOTHING: Sequence[int] = (0,) * FIELDS


def new_row() -> Row:
    return [0] * FIELDS


def note(row: Row, event: Event, *, before: DeploymentState, after: DeploymentState) -> None:
    """Write into this process's row what its event did. What was heard (`Shared`) is not told again."""
    row[IN_FLIGHT] = after.in_flight
    row[BACKLOG_TOKENS] = after.forecast.backlog_tokens
    if isinstance(event, Dispatched):
        if event.requests_per_min != UNLIMITED or event.tokens_per_min != UNLIMITED:
            row[REQUESTS] += 1
            row[TOKENS] += int(event.tokens)
            _note_limits(row, event)
    elif isinstance(event, FirstToken):
        if event.prompt_tokens:
            _note_lesson(row, event.lesson())
    elif isinstance(event, Presumed):
        row[DRAINED_TOKENS] += event.prompt_tokens
    elif isinstance(event, Finished):
        row[SUCCESSES] += after.breaker is not before.breaker
        row[DRAINED_TOKENS] += event.prompt_tokens
    elif isinstance(event, Failed):
        # One that was sent before the breaker last opened says nothing, and leaves it as it is.
        row[FAILURES] += after.breaker is not before.breaker
        if event.is_rate_limited:
            row[REFUSALS] += 1
            _note_limits(row, event)
    if after.breaker.open_until_s != before.breaker.open_until_s:
        row[BREAKER_CHANGES] += 1
        row[OPEN_UNTIL_US] = int(after.breaker.open_until_s * US_PER_S)


def _note_limits(row: Row, event: Dispatched | Failed) -> None:
    row[REQUESTS_PER_MIN] = 0 if event.requests_per_min == UNLIMITED else int(event.requests_per_min)
    row[TOKENS_PER_MIN] = 0 if event.tokens_per_min == UNLIMITED else int(event.tokens_per_min)


def _note_lesson(row: Row, lesson: Lesson) -> None:
    row[DRAINED_TOKENS] += lesson.drained_tokens
    row[LESSONS] += lesson.count
    row[MISSES] += lesson.missed_count
    row[ERROR_SUM] += int(lesson.error_sum * LOG_UNITS)
    row[ERROR_SQUARE_SUM] += int(lesson.error_square_sum * LOG_UNITS)
    if lesson.slope_s is not None:
        row[SLOPES] += 1
        row[SLOPE_NS] = int(lesson.slope_s * NS_PER_S)


class Sum:
    """The rows of several tellers, summed up by deployment. Growth counts from the moment a teller is met."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._heard: dict[str, dict[str, Sequence[int]]] = {}
        self._changed: dict[str, None] = {}

    def meet(self, teller: str, rows: Mapping[str, Sequence[int]]) -> None:
        """A new teller: what stands counts in full, what it did before is past, an open breaker is news."""
        self._heard[teller] = {}
        for deployment_id, row in rows.items():
            past = list(row)
            past[IN_FLIGHT] = past[BACKLOG_TOKENS] = 0
            past[BREAKER_CHANGES] -= row[OPEN_UNTIL_US] > 0
            self._heard[teller][deployment_id] = tuple(past)
            self.hear(teller, deployment_id, row)

    def hear(self, teller: str, deployment_id: str, row: Sequence[int]) -> None:
        """A teller's row as it is now; the teller has been met, the row is not changed any more."""
        heard = self._heard[teller]
        known = heard.get(deployment_id, NOTHING)
        if row == known:
            return
        heard[deployment_id] = row
        total = self.rows.get(deployment_id)
        if total is None:
            total = self.rows[deployment_id] = new_row()
        self._changed[deployment_id] = None
        total[IN_FLIGHT] += row[IN_FLIGHT] - known[IN_FLIGHT]
        total[BACKLOG_TOKENS] += row[BACKLOG_TOKENS] - known[BACKLOG_TOKENS]
        if row[GROWING] != known[GROWING]:
            _add_growth(total, row, known)

    def forget(self, teller: str) -> None:
        """A teller died: what stood for it is gone."""
        for deployment_id, row in self._heard.pop(teller, {}).items():
            if not (row[IN_FLIGHT] or row[BACKLOG_TOKENS]):
                continue
            total = self.rows[deployment_id]
            total[IN_FLIGHT] -= row[IN_FLIGHT]
            total[BACKLOG_TOKENS] -= row[BACKLOG_TOKENS]
            self._changed[deployment_id] = None

    def changed(self) -> list[str]:
        """The deployments whose sums changed since the last call."""
        changed, self._changed = list(self._changed), {}
        return changed


def _add_growth(total: Row, row: Sequence[int], known: Sequence[int]) -> None:
    for field in range(REQUESTS, BREAKER_CHANGES + 1):
        total[field] += row[field] - known[field]
    if row[REQUESTS] != known[REQUESTS] or row[REFUSALS] != known[REFUSALS]:
        total[REQUESTS_PER_MIN], total[TOKENS_PER_MIN] = row[REQUESTS_PER_MIN], row[TOKENS_PER_MIN]
    if row[SLOPES] != known[SLOPES]:
        total[SLOPE_NS] = row[SLOPE_NS]
    if row[BREAKER_CHANGES] != known[BREAKER_CHANGES]:
        total[OPEN_UNTIL_US] = row[OPEN_UNTIL_US]


class Others(Sum):
    """What the other processes told, as events for `observe`."""

    @property
    def has_news(self) -> bool:
        return bool(self._changed)

    def news(self) -> list[tuple[str, Shared]]:
        """What is new since the last call, one event per deployment."""
        return [(deployment_id, self._taken(self.rows[deployment_id])) for deployment_id in self.changed()]

    def _taken(self, row: Row) -> Shared:
        """The row as an event; its growth begins anew."""
        in_flight, backlog_tokens = row[IN_FLIGHT], row[BACKLOG_TOKENS]
        growth = row[GROWING]
        if not any(growth):
            return Shared(in_flight=in_flight, backlog_tokens=backlog_tokens)
        row[GROWING] = NOTHING[GROWING]
        requests, tokens, refusals, drained_tokens, count, misses, errors, squares, slopes = growth[:9]
        failures, successes, changes = growth[9:]
        lesson = NO_LESSON
        if drained_tokens:
            lesson = Lesson(
                drained_tokens=drained_tokens,
                count=count,
                error_sum=errors / LOG_UNITS,
                error_square_sum=squares / LOG_UNITS,
                missed_count=misses,
                slope_s=row[SLOPE_NS] / NS_PER_S if slopes else None,
            )
        return Shared(
            in_flight=in_flight,
            backlog_tokens=backlog_tokens,
            lesson=lesson,
            requests=requests,
            tokens=float(tokens),
            refusals=refusals,
            failures=failures,
            successes=successes,
            requests_per_min=row[REQUESTS_PER_MIN] or UNLIMITED,
            tokens_per_min=row[TOKENS_PER_MIN] or UNLIMITED,
            open_until_s=row[OPEN_UNTIL_US] / US_PER_S if changes else None,
        )
