"""A circuit breaker as a pure fold: closed, open for a growing time, half-open with exactly one probe."""

from dataclasses import dataclass, replace

CONSECUTIVE_FAILURES_MAX = 5
WINDOW_S = 30.0
WINDOW_REQUESTS_MIN = 10
OPEN_S = 5.0
OPEN_S_MAX = 300.0
JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Times are seconds of the caller's monotonic clock; `open_until` 0 means closed."""

    consecutive_failures: int = 0
    window_started_s: float = 0.0
    window_requests: int = 0
    window_failures: int = 0
    open_count: int = 0
    open_until_s: float = 0.0
    is_probing: bool = False


def phase(breaker: Breaker, *, now_s: float) -> str:
    """One of `closed`, `open`, `half_open` (the next request is the one probe)."""
    if breaker.open_until_s == 0.0:
        return "closed"
    if now_s < breaker.open_until_s or breaker.is_probing:
        return "open"
    return "half_open"


def on_dispatch(breaker: Breaker, *, now_s: float) -> Breaker:
    """A request goes out; in half-open it is the probe and nobody else passes until it ends."""
    if phase(breaker, now_s=now_s) == "half_open":
        return replace(breaker, is_probing=True)
    return breaker


def on_success(breaker: Breaker, *, now_s: float) -> Breaker:
    """An answer came: an open breaker closes and forgets."""
    if breaker.open_until_s != 0.0:
        return Breaker()
    breaker = _rolled(breaker, now_s=now_s)
    return replace(breaker, consecutive_failures=0, window_requests=breaker.window_requests + 1)


def on_abandon(breaker: Breaker) -> Breaker:
    """A request ended without saying anything about the cluster (the client left, a bad request)."""
    return replace(breaker, is_probing=False) if breaker.is_probing else breaker


def on_failure(breaker: Breaker, *, now_s: float, draw: float, retry_after_s: float = 0.0) -> Breaker:
    """A failure that counts against the cluster. `draw` in [0, 1) spreads reopening by +-20 %.

    Opens after 5 in a row, or when half of at least 10 within 30 s failed, or at once for as long as
    the upstream asked (`retry_after_s`), or again, twice as long, when the probe failed.
    """
    breaker = _rolled(breaker, now_s=now_s)
    breaker = replace(
        breaker,
        consecutive_failures=breaker.consecutive_failures + 1,
        window_requests=breaker.window_requests + 1,
        window_failures=breaker.window_failures + 1,
    )
    is_over = breaker.consecutive_failures >= CONSECUTIVE_FAILURES_MAX or (
        breaker.window_requests >= WINDOW_REQUESTS_MIN
        and breaker.window_failures * 2 >= breaker.window_requests
    )
    if not (is_over or breaker.is_probing or retry_after_s > 0):
        return breaker
    open_s = min(OPEN_S * 2**breaker.open_count, OPEN_S_MAX) * (1 - JITTER + 2 * JITTER * draw)
    return replace(
        breaker,
        is_probing=False,
        open_count=min(breaker.open_count + 1, 8),
        open_until_s=now_s + max(open_s, min(retry_after_s, OPEN_S_MAX)),
    )


def _rolled(breaker: Breaker, *, now_s: float) -> Breaker:
    if now_s - breaker.window_started_s < WINDOW_S:
        return breaker
    return replace(breaker, window_started_s=now_s, window_requests=0, window_failures=0)
