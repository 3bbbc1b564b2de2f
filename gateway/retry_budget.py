"""Bounds re-routes: a share of the requests and a trickle, so that an outage is not amplified."""

from collections.abc import Callable

SHARE = 0.10
TRICKLE_PER_S = 3.0
TOKENS_MAX = 50.0
# A fresh process hides the fall of a cluster too: it takes 5 failures to open its breaker.
TOKENS_START = 5.0


class RetryBudget:
    """A token bucket: each request adds SHARE, each second TRICKLE_PER_S, each re-route takes one."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = TOKENS_START
        self._filled_at_s = clock()

    def on_request(self) -> None:
        self._tokens = min(self._tokens + SHARE, TOKENS_MAX)

    def take(self) -> bool:
        """Whether one more re-route is within the budget; takes it if so."""
        now_s = self._clock()
        grown = self._tokens + (now_s - self._filled_at_s) * TRICKLE_PER_S
        self._tokens, self._filled_at_s = min(grown, TOKENS_MAX), now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
