"""Requests and tokens per minute of each key: token buckets in this process."""

from collections.abc import Callable
from dataclasses import dataclass

MINUTE_S = 60.0
# Buckets of keys that were not seen for long are dropped; a full bucket says the same as none.
BUCKETS_MAX = 50_000
# Waiting just as long as was asked must do: less than this is rounding.
SLACK = 1e-6


@dataclass(slots=True)
class _Bucket:
    level: float
    filled_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of one limit after a request: for the x-ratelimit headers."""

    kind: str  # requests | tokens
    limit: int
    remaining: int
    reset_s: float
    is_refused: bool = False
    retry_after_s: float = 0.0


class RateLimiter:
    """One bucket per key and kind, refilled evenly; a minute's worth may come at once."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, *, key_id: str, kind: str, limit: int, amount: int) -> Allowance:
        """Take `amount` from the key's bucket, if it is there; an amount above the limit never is."""
        bucket = self._bucket(key_id, kind, limit)
        rate_per_s = limit / MINUTE_S
        if amount > bucket.level + SLACK:
            wait_s = (min(amount, limit) - bucket.level) / rate_per_s
            return self._allowance(bucket, kind, limit, is_refused=True, retry_after_s=wait_s)
        bucket.level -= amount
        return self._allowance(bucket, kind, limit)

    def give_back(self, *, key_id: str, kind: str, limit: int, amount: int) -> None:
        """Correct a take once the true amount is known (negative: more was used than taken)."""
        bucket = self._bucket(key_id, kind, limit)
        bucket.level = min(bucket.level + amount, float(limit))

    def _bucket(self, key_id: str, kind: str, limit: int) -> _Bucket:
        now_s = self._clock()
        # Taken out and put in again: the first in order is the one not seen for longest.
        bucket = self._buckets.pop((key_id, kind), None)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = _Bucket(float(limit), now_s)
        self._buckets[key_id, kind] = bucket
        grown = bucket.level + (now_s - bucket.filled_at_s) * limit / MINUTE_S
        bucket.level, bucket.filled_at_s = min(grown, float(limit)), now_s
        return bucket

    @staticmethod
    def _allowance(
        bucket: _Bucket, kind: str, limit: int, *, is_refused: bool = False, retry_after_s: float = 0.0
    ) -> Allowance:
        return Allowance(
            kind=kind,
            limit=limit,
            remaining=max(int(bucket.level), 0),
            reset_s=(limit - bucket.level) / (limit / MINUTE_S),
            is_refused=is_refused,
            retry_after_s=retry_after_s,
        )


def headers_of(allowance: Allowance) -> tuple[tuple[str, str], ...]:
    """OpenAI's names; the reset is a duration such as `120ms` or `6m0s` (WIRE 5)."""
    return (
        (f"x-ratelimit-limit-{allowance.kind}", str(allowance.limit)),
        (f"x-ratelimit-remaining-{allowance.kind}", str(allowance.remaining)),
        (f"x-ratelimit-reset-{allowance.kind}", duration_text(allowance.reset_s)),
    )


def duration_text(seconds: float) -> str:
    """`0s`, `120ms`, `12s`, `6m0s`: as OpenAI writes it."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole = -(-milliseconds // 1000)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"
