"""The share of prompt tokens that a deployment read from its cache, as a pure fold that forgets."""

from math import exp

from msgspec import Struct

# Older answers fade with this time constant.
TAU_S = 300.0
# Prompt tokens below which a share would be chance.
TOKENS_MIN = 1.0


class CacheHits(Struct, frozen=True, kw_only=True):
    """Prompt tokens of the answers so far and those read from the cache, as of `at_s`; both fade."""

    read_tokens: float = 0.0
    input_tokens: float = 0.0
    at_s: float = 0.0


NOTHING_READ = CacheHits()


def on_answer(hits: CacheHits, *, read_tokens: int, input_tokens: int, now_s: float) -> CacheHits:
    """After an answer whose usage the upstream itself reported."""
    kept = exp(-max(now_s - hits.at_s, 0.0) / TAU_S)
    return CacheHits(
        read_tokens=hits.read_tokens * kept + read_tokens,
        input_tokens=hits.input_tokens * kept + input_tokens,
        at_s=now_s,
    )


def hit_share(hits: CacheHits, *, now_s: float) -> float | None:
    """Between 0 and 1; None where too little is remembered."""
    kept = exp(-max(now_s - hits.at_s, 0.0) / TAU_S)
    return None if hits.input_tokens * kept < TOKENS_MIN else hits.read_tokens / hits.input_tokens
