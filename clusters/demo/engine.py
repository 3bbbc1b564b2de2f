"""The shared engine of a stand-in: slots, a FIFO queue, and tokens handed out fairly in ticks."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# A tick sleeps at least this long, so that 200 streams cost little; faster speeds hand out more a tick.
TICK_S_MIN = 0.005
# And at most this long, so that a newcomer's first token is not late.
TICK_S_MAX = 0.02
# After a pause of the whole process at most this much time is made up for.
CATCH_UP_S_MAX = 1.0


class QueueFullError(Exception):
    """All slots are taken and the queue is as long as it may be."""


class SequenceCancelledError(Exception):
    """The sequence was given up: its client has gone or the engine has stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the engine is. `tokens_per_s` 0: it never sleeps, whatever the rest says.

    `request_tokens_per_s` and `prefill_tokens_per_s` 0: no limit of that kind.
    """

    tokens_per_s: float
    request_tokens_per_s: float
    prefill_tokens_per_s: float
    ttft_s: float
    running_max: int
    waiting_max: int


class Sequence:
    """One request inside the engine."""

    def __init__(self, *, model: str, prefill_tokens: int, held_tokens: int, wanted_tokens: int) -> None:
        self.model = model
        self.prefill_tokens = prefill_tokens
        self.held_tokens = held_tokens
        self.wanted_tokens = wanted_tokens
        self.granted_tokens = 0
        self.arrived_s = asyncio.get_running_loop().time()
        self.started_s: float | None = None
        # 10 makes this sequence ten times slower than its peers.
        self.slowness = 1.0
        # How many tokens a turn brings in an engine without a speed limit.
        self.burst_tokens = 1
        self.is_cancelled = False
        self._taken_tokens = 0
        self._credit = 0.0
        self._credited_s = 0.0
        self._changed = asyncio.Event()

    async def next_tokens(self) -> int:
        """Wait for new tokens and return how many there are; 0 when all are taken."""
        while not self.is_cancelled:
            if self._taken_tokens == self.wanted_tokens:
                return 0
            if self.granted_tokens > self._taken_tokens:
                fresh = self.granted_tokens - self._taken_tokens
                self._taken_tokens = self.granted_tokens
                return fresh
            self._changed.clear()
            await self._changed.wait()
        raise SequenceCancelledError

    def cancel(self) -> None:
        self.is_cancelled = True
        self._changed.set()

    def start(self, *, now_s: float, first_token_s: float) -> None:
        """Take a slot at `now_s`; the first token comes at `first_token_s`."""
        self.started_s = now_s
        self._credit = 1.0
        self._credited_s = first_token_s

    def accrue(self, *, now_s: float, tokens_per_s: float) -> None:
        """Grant what the time since the last call is worth."""
        passed_s = min(now_s - self._credited_s, CATCH_UP_S_MAX)
        self._credited_s = now_s
        self._credit += passed_s * tokens_per_s / self.slowness
        whole = int(self._credit)
        if whole:
            self._credit -= whole
            self.grant(whole)

    def grant(self, tokens: int) -> None:
        self.granted_tokens = min(self.granted_tokens + tokens, self.wanted_tokens)
        self._changed.set()

    @property
    def is_drained(self) -> bool:
        return self._taken_tokens == self.granted_tokens

    @property
    def first_token_s(self) -> float:
        """Due time of the first token; means something only until it has come."""
        return self._credited_s

    def token_due_s(self, *, now_s: float, tokens_per_s: float) -> float:
        return now_s + (1.0 - self._credit) * self.slowness / tokens_per_s


class Engine:
    """Hands out tokens to at most `running_max` sequences; more wait in arrival order.

    All decoding sequences get the same share of `tokens_per_s`, each at most `request_tokens_per_s`.
    Prefill is served one prompt after the other, as vLLM's scheduler does.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        # Dictionaries serve as ordered sets.
        self.running: dict[Sequence, None] = {}
        self.waiting: dict[Sequence, None] = {}
        self._prefill_free_s = 0.0
        self._ticker: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admit(self, sequence: Sequence) -> AsyncIterator[Sequence]:
        """Hold a place for the sequence, in a slot or in the queue. Raises QueueFullError at once."""
        if len(self.running) < self.pace.running_max:
            assert not self.waiting
            self._start(sequence)
        elif len(self.waiting) < self.pace.waiting_max:
            self.waiting[sequence] = None
        else:
            raise QueueFullError
        try:
            yield sequence
        finally:
            self._release(sequence)

    async def next_tokens(self, sequence: Sequence) -> int:
        """As Sequence.next_tokens; without a speed limit the tokens are made on demand."""
        if self._is_limitless:
            # One turn of the loop for each burst: others get on, and a lost client is noticed.
            await asyncio.sleep(0)
            if sequence in self.running and sequence.is_drained:
                sequence.grant(sequence.burst_tokens)
        return await sequence.next_tokens()

    @property
    def held_tokens(self) -> int:
        """Tokens that would lie in the KV cache now."""
        return sum(item.held_tokens + item.granted_tokens for item in self.running)

    @property
    def _is_limitless(self) -> bool:
        return not self.pace.tokens_per_s

    def _start(self, sequence: Sequence) -> None:
        now_s = asyncio.get_running_loop().time()
        self.running[sequence] = None
        if self._is_limitless:
            sequence.start(now_s=now_s, first_token_s=now_s)
            # Its task may sleep in Sequence.next_tokens, having waited in the queue: wake it.
            sequence.grant(sequence.burst_tokens)
            return
        self._prefill_free_s = max(self._prefill_free_s, now_s)
        if self.pace.prefill_tokens_per_s:
            self._prefill_free_s += sequence.prefill_tokens / self.pace.prefill_tokens_per_s
        base_s = self.pace.ttft_s * sequence.slowness
        sequence.start(now_s=now_s, first_token_s=self._prefill_free_s + base_s)
        self._ensure_ticker()

    def _release(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            del self.waiting[sequence]
            return
        del self.running[sequence]
        if self.waiting:
            first = next(iter(self.waiting))
            del self.waiting[first]
            self._start(first)

    def _ensure_ticker(self) -> None:
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._run())
            self._ticker.add_done_callback(self._end_ticker)

    def _end_ticker(self, ticker: asyncio.Task[None]) -> None:
        """A bug in a tick must not leave the streams hanging in silence."""
        if not ticker.cancelled() and (error := ticker.exception()):
            logger.error("standin_ticker_failed", exc_info=error)
            for sequence in (*self.running, *self.waiting):
                sequence.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.running:
            now_s = loop.time()
            due_s = self._tick(now_s)
            await asyncio.sleep(min(max(due_s - now_s, TICK_S_MIN), TICK_S_MAX))

    def _tick(self, now_s: float) -> float:
        """Grant what is due at `now_s` and return when the next token is due."""
        decoding = []
        next_due_s = now_s + TICK_S_MAX
        for sequence in self.running:
            if sequence.granted_tokens or sequence.first_token_s <= now_s:
                decoding.append(sequence)
            else:
                next_due_s = min(next_due_s, sequence.first_token_s)
        if not decoding:
            return next_due_s
        share = self.pace.tokens_per_s / len(decoding)
        if self.pace.request_tokens_per_s:
            share = min(share, self.pace.request_tokens_per_s)
        for sequence in decoding:
            sequence.accrue(now_s=now_s, tokens_per_s=share)
            next_due_s = min(next_due_s, sequence.token_due_s(now_s=now_s, tokens_per_s=share))
        return next_due_s
