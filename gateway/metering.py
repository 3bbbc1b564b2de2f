"""From what an upstream reports to disjoint buckets of tokens; an estimate where it reports nothing sane."""

from collections.abc import Mapping
from typing import Any

from routing.types import Usage

# English and code average 3 to 4 bytes a token; the estimate errs on the dear side.
BYTES_PER_TOKEN_ESTIMATE = 4
TOKENS_MAX = 2**62


def usage_from_openai(
    reported: object,
    *,
    input_tokens_max: int = TOKENS_MAX,
    output_tokens_max: int = TOKENS_MAX,
    is_output_needed: bool = False,
) -> Usage | None:
    """Normalise OpenAI's `usage` member; None when it is absent or impossible (WIRE 11, 12).

    Impossible is also what lies above the bounds: more than there can have been, whatever the limits
    asked for. `prompt_tokens` includes cached tokens and `completion_tokens` includes reasoning and audio; in
    the buckets each token is counted once. Details that exceed their total are impossible.
    """
    if not isinstance(reported, Mapping):
        return None
    prompt = _count(reported, "prompt_tokens")
    # Embeddings have none; elsewhere its absence says nothing, and least of all that there was none.
    completion = _count(reported, "completion_tokens", default=None if is_output_needed else 0)
    prompt_details = _details(reported, "prompt_tokens_details")
    completion_details = _details(reported, "completion_tokens_details")
    cached = _count(prompt_details, "cached_tokens", default=0)
    reasoning = _count(completion_details, "reasoning_tokens", default=0)
    audio = _count(completion_details, "audio_tokens", default=0)
    if prompt is None or completion is None or cached is None or reasoning is None or audio is None:
        return None
    if cached > prompt or reasoning + audio > completion:
        return None
    if prompt > input_tokens_max or completion > output_tokens_max:
        return None
    return Usage(
        input_fresh_tokens=prompt - cached,
        cache_read_tokens=cached,
        output_text_tokens=completion - reasoning - audio,
        reasoning_tokens=reasoning,
        audio_tokens=audio,
    )


def estimated_usage(*, prompt_tokens_estimate: int, output_tokens: int) -> Usage:
    """What was probably used, flagged as an estimate."""
    return Usage(
        input_fresh_tokens=prompt_tokens_estimate, output_text_tokens=output_tokens, is_estimate=True
    )


def tokens_of_bytes(byte_count: int) -> int:
    """A guess at the tokens in so many bytes of text, at least one for any text at all."""
    return -(-byte_count // BYTES_PER_TOKEN_ESTIMATE)


def _details(reported: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    """A details member; absent, null or not an object says nothing."""
    details = reported.get(name)
    return details if isinstance(details, Mapping) else {}


def _count(reported: Mapping[Any, Any], name: str, *, default: int | None = None) -> int | None:
    """A token count, or None when it is missing or impossible: only a whole number from 0 up will do."""
    value = reported.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        return None
    return value
