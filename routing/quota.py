"""A provider's rate limits mirrored here, as a pure fold: evenly refilled buckets, emptied by a 429."""

from msgspec import Struct

MINUTE_S = 60.0
UNLIMITED = 1e15  # finite, so that nothing becomes no number


class Quota(Struct, frozen=True):
    """What is missing to full buckets of requests and tokens; nothing missing is a fresh minute."""

    requests_missing: float = 0.0
    tokens_missing: float = 0.0
    at_s: float = 0.0


FULL = Quota()


def limit_of(given: int | None) -> float:
    """A provider's limit as the buckets count it; None: it has none."""
    return UNLIMITED if given is None else float(given)


def has_room(
    quota: Quota, *, requests_per_min: float, tokens_per_min: float, tokens: float, now_s: float
) -> bool:
    """Whether one more request of so many tokens fits into what the provider allows now."""
    elapsed_min = max(now_s - quota.at_s, 0.0) / MINUTE_S
    requests_missing = max(quota.requests_missing - elapsed_min * requests_per_min, 0.0)
    tokens_missing = max(quota.tokens_missing - elapsed_min * tokens_per_min, 0.0)
    return requests_per_min - requests_missing >= 1.0 and tokens_per_min - tokens_missing >= tokens


def on_dispatch(
    quota: Quota,
    *,
    requests_per_min: float,
    tokens_per_min: float,
    tokens: float,
    now_s: float,
    requests: int = 1,
) -> Quota:
    elapsed_min = max(now_s - quota.at_s, 0.0) / MINUTE_S
    return Quota(
        max(quota.requests_missing - elapsed_min * requests_per_min, 0.0) + requests,
        max(quota.tokens_missing - elapsed_min * tokens_per_min, 0.0) + tokens,
        now_s,
    )


def on_refusal(quota: Quota, *, requests_per_min: float, tokens_per_min: float, now_s: float) -> Quota:
    """The provider says 429: whatever the mirror believed, there is nothing left."""
    elapsed_min = max(now_s - quota.at_s, 0.0) / MINUTE_S
    return Quota(
        max(quota.requests_missing - elapsed_min * requests_per_min, requests_per_min),
        max(quota.tokens_missing - elapsed_min * tokens_per_min, tokens_per_min),
        now_s,
    )
