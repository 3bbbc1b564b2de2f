"""A circuit breaker as a pure fold: closed, open for a growing time, half-open with exactly one probe."""

from msgspec import Struct
from msgspec.structs import replace

CONSECUTIVE_FAILURES_MAX = 5
WINDOW_S = 30.0
WINDOW_REQUESTS_MIN = 10
OPEN_S = 5.0
# With the jitter a minute at most: a cluster that is well again is asked within that.
OPEN_S_MAX = 50.0
RETRY_AFTER_S_MAX = 300.0  # what an upstream asks for itself
JITTER = 0.2
OPEN_COUNT_MAX = 8  # past this the cap holds


class Breaker(Struct, frozen=True, kw_only=True):
    """Times are seconds of the caller's monotonic clock; `open_until_s` 0 means closed.

    A request that was sent before the breaker last opened says nothing any more, however it ends:
    dozens may still be running on a cluster that died, and streams that began before go on.
    """

    consecutive_failures: int = 0
    window_started_s: float = 0.0
    window_requests: int = 0
    window_failures: int = 0
    open_count: int = 0
    opened_at_s: float = 0.0
    open_until_s: float = 0.0
    probe_sent_s: float = 0.0
    is_probing: bool = False


def phase(breaker: Breaker, *, now_s: float) -> str:
    """One of `closed`, `open`, `half_open` (the next request is the one probe)."""
    if breaker.open_until_s == 0.0:
        return "closed"
    if now_s < breaker.open_until_s or breaker.is_probing:
        return "open"
    return "half_open"


def on_dispatch(breaker: Breaker, *, now_s: float, sent_s: float) -> Breaker:
    """A request goes out; in half-open it is the probe and nobody else passes until it ends."""
    if phase(breaker, now_s=now_s) == "half_open":
        return replace(breaker, is_probing=True, probe_sent_s=sent_s)
    return breaker


def on_success(breaker: Breaker, *, now_s: float, sent_s: float) -> Breaker:
    """An answer came: an open breaker closes and forgets all but when it last opened."""
    if sent_s < breaker.opened_at_s:
        return breaker
    if breaker.open_until_s != 0.0:
        return Breaker(opened_at_s=breaker.opened_at_s)
    breaker = _rolled(breaker, now_s=now_s)
    return replace(breaker, consecutive_failures=0, window_requests=breaker.window_requests + 1)


def on_abandon(breaker: Breaker, *, sent_s: float) -> Breaker:
    """A request ended without saying anything about the cluster (the client left, a bad request)."""
    return replace(breaker, is_probing=False) if _is_probe(breaker, sent_s=sent_s) else breaker


def on_failure(
    breaker: Breaker, *, now_s: float, sent_s: float, draw: float, retry_after_s: float = 0.0
) -> Breaker:
    """A failure that counts against the cluster. `draw` in [0, 1) spreads reopening by +-20 %.

    Opens after 5 in a row, or when half of at least 10 within 30 s failed, or again, twice as long,
    when the probe failed. An upstream that names a time (`retry_after_s`) is left alone for just that
    long, at once, and no longer until it has failed 5 times in a row.
    """
    is_probe = _is_probe(breaker, sent_s=sent_s)
    if sent_s < breaker.opened_at_s and not is_probe:
        return breaker
    if breaker.open_until_s != 0.0 and not is_probe:
        # A last resort failed: nothing new, unless the upstream asks for more time.
        asked_until_s = now_s + min(retry_after_s, RETRY_AFTER_S_MAX) if retry_after_s > 0 else 0.0
        return replace(breaker, open_until_s=max(breaker.open_until_s, asked_until_s))
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
    if not (is_over or is_probe or retry_after_s > 0):
        return breaker
    open_s, open_count = 0.0, breaker.open_count
    if is_over or retry_after_s <= 0:
        open_s = min(OPEN_S * 2**open_count, OPEN_S_MAX) * (1 - JITTER + 2 * JITTER * draw)
        open_count = min(open_count + 1, OPEN_COUNT_MAX)
    return replace(
        breaker,
        is_probing=False,
        open_count=open_count,
        opened_at_s=now_s,
        open_until_s=now_s + max(open_s, min(retry_after_s, RETRY_AFTER_S_MAX)),
    )


def on_shared_ends(breaker: Breaker, *, failures: int, successes: int, now_s: float) -> Breaker:
    """Requests of other processes ended: their failures are in our row too, any success of theirs ends it.

    Only the row is shared: of the share of failures within 30 s each process judges by its own.
    """
    if breaker.open_until_s != 0.0:
        return breaker
    row = 0 if successes else breaker.consecutive_failures + failures
    breaker = replace(breaker, consecutive_failures=row)
    if row < CONSECUTIVE_FAILURES_MAX:
        return breaker
    return replace(
        breaker,
        open_count=min(breaker.open_count + 1, OPEN_COUNT_MAX),
        opened_at_s=now_s,
        open_until_s=now_s + min(OPEN_S * 2**breaker.open_count, OPEN_S_MAX),
    )


def on_shared(breaker: Breaker, *, open_until_s: float, now_s: float) -> Breaker:
    """Another process's breaker opened until then, or closed (0), and ours does as it did.

    Each process sends a probe of its own when the time is over. One that is under way decides alone.
    """
    if breaker.is_probing:
        return breaker
    if open_until_s == 0.0:
        return Breaker(opened_at_s=breaker.opened_at_s) if breaker.open_until_s != 0.0 else breaker
    if open_until_s <= now_s:
        return breaker
    open_count = breaker.open_count
    if breaker.open_until_s <= now_s:
        open_count = min(open_count + 1, OPEN_COUNT_MAX)
    return replace(
        breaker,
        open_count=open_count,
        opened_at_s=now_s,
        open_until_s=max(breaker.open_until_s, open_until_s),
    )


def _is_probe(breaker: Breaker, *, sent_s: float) -> bool:
    return breaker.is_probing and sent_s == breaker.probe_sent_s


def _rolled(breaker: Breaker, *, now_s: float) -> Breaker:
    if now_s - breaker.window_started_s < WINDOW_S:
        return breaker
    return replace(breaker, window_started_s=now_s, window_requests=0, window_failures=0)
