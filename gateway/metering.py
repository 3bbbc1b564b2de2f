"""From what an upstream reports to disjoint buckets of tokens; an estimate where it reports nothing sane."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from routing.cost import STANDARD_SERVICE_TIERS
from routing.money import NANOUSD_PER_USD
from routing.types import Usage

# English and code average 3 to 4 bytes a token; the estimate errs on the dear side.
BYTES_PER_TOKEN_ESTIMATE = 4
TOKENS_MAX = 2**62
# One answer never costs more; an upstream that says so mistook the unit.
REPORTED_COST_USD_MAX = 10_000
COST_DECIMALS_MAX = 40
SERVICE_TIER_AUTO = "auto"
# As long as the ledger's column.
SERVICE_TIER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,15}")


def usage_from_openai(
    reported: object,
    *,
    input_tokens_max: int = TOKENS_MAX,
    output_tokens_max: int = TOKENS_MAX,
    is_output_needed: bool = False,
) -> Usage | None:
    """Normalise OpenAI's `usage` member; None when it is absent or impossible (WIRE 11, 12).

    Impossible is also what lies above the bounds: more than there can have been, whatever the limits
    asked for. `prompt_tokens` includes cached tokens, audio and images, `completion_tokens` reasoning and
    audio; in the buckets each token is counted once. Details that exceed their total are impossible.
    """
    if not isinstance(reported, dict):
        return None
    prompt = _count(reported, "prompt_tokens")
    # Embeddings have none; elsewhere its absence says nothing, and least of all that there was none.
    completion = _count(reported, "completion_tokens", default=None if is_output_needed else 0)
    if prompt is None or completion is None:
        return None
    if prompt > input_tokens_max or completion > output_tokens_max:
        return None
    prompt_details = _details(reported, "prompt_tokens_details")
    completion_details = _details(reported, "completion_tokens_details")
    if not prompt_details and not completion_details:
        return Usage(input_fresh_tokens=prompt, output_text_tokens=completion)
    inputs = _input_buckets(prompt_details, prompt=prompt)
    outputs = _output_buckets(completion_details, completion=completion)
    return None if inputs is None or outputs is None else Usage(**inputs, **outputs)


def cost_from_openai(reported: object, *, header: str = "") -> int | None:
    """What the upstream itself says that the answer costs, in nano-USD; None: nothing, or nothing sane.

    OpenRouter writes USD into `usage.cost`, Perplexity an object with a total, others `usage.total_cost`;
    LiteLLM sends a header. Numbers must have been decoded exactly (`exact_number`); what is finer than a
    nano-USD is rounded up, once.
    """
    usage = reported if isinstance(reported, dict) else {}
    cost, total = usage.get("cost"), usage.get("total_cost")
    if cost is None and total is None and not header:
        return None
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    for said in (cost, total, exact_number(header) if header else None):
        if said is not None:
            return _nanousd(said)
    return None


def exact_number(text: str) -> Decimal | None:
    """A decimal number as it was written, for JSON decoders: a float would change it. None: not a number."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return None


def service_tier_said(value: object) -> str | None:
    """The service tier that a response names; empty: the standard one, None: it names none."""
    if not isinstance(value, str) or SERVICE_TIER_NAME.fullmatch(value) is None:
        return None
    name = value.lower()
    return "" if name in STANDARD_SERVICE_TIERS else name


def service_tier_asked(value: object) -> str | None:
    """The service tier that a request asks for; None: the upstream chooses, `auto` or not named at all."""
    return None if value == SERVICE_TIER_AUTO else service_tier_said(value)


def estimated_usage(*, prompt_tokens_estimate: int, output_tokens: int) -> Usage:
    """What was probably used, flagged as an estimate."""
    return Usage(
        input_fresh_tokens=prompt_tokens_estimate, output_text_tokens=output_tokens, is_estimate=True
    )


def tokens_of_bytes(byte_count: int) -> int:
    """A guess at the tokens in so many bytes of text, at least one for any text at all."""
    return -(-byte_count // BYTES_PER_TOKEN_ESTIMATE)


def _input_buckets(details: Mapping[Any, Any], *, prompt: int) -> dict[str, Any] | None:
    """The prompt's tokens: each in one bucket. Cached audio and images count as cached, not as media."""
    of_cache = _details(details, "cached_tokens_details")
    of_write = _details(details, "cache_creation_token_details")
    cached = _count(details, "cached_tokens", default=0)
    # OpenRouter's name and LiteLLM's for what was written into the cache; the total includes it.
    written = _count(details, "cache_write_tokens")
    written = _count(details, "cache_creation_tokens", default=0) if written is None else written
    written_1h = _count(of_write, "ephemeral_1h_input_tokens", default=0)
    audio = _count(details, "audio_tokens", default=0)
    image = _count(details, "image_tokens", default=0)
    if cached is None or written is None or written_1h is None or audio is None or image is None:
        return None
    # Where the upstream does not say what of the cached is media: what fits in no other way.
    rest = max(cached + written + audio + image - prompt, 0)
    cached_audio = _count(of_cache, "audio_tokens", default=min(rest, audio, cached))
    if cached_audio is None:
        return None
    cached_image = _count(of_cache, "image_tokens", default=min(max(rest - cached_audio, 0), image))
    if cached_image is None or cached_audio + cached_image > cached:
        return None
    buckets = {
        "input_fresh_tokens": prompt - cached - written - (audio - cached_audio) - (image - cached_image),
        "cache_read_tokens": cached,
        "cache_write_5m_tokens": written - written_1h,
        "cache_write_1h_tokens": written_1h,
        "input_audio_tokens": audio - cached_audio,
        "input_image_tokens": image - cached_image,
    }
    return buckets if min(buckets.values()) >= 0 else None


def _output_buckets(details: Mapping[Any, Any], *, completion: int) -> dict[str, Any] | None:
    reasoning = _count(details, "reasoning_tokens", default=0)
    audio = _count(details, "audio_tokens", default=0)
    if reasoning is None or audio is None or reasoning + audio > completion:
        return None
    return {
        "output_text_tokens": completion - reasoning - audio,
        "reasoning_tokens": reasoning,
        "audio_tokens": audio,
    }


def _nanousd(cost_usd: object) -> int | None:
    """Exact, rounded up; None for what is no amount, negative or more than one answer can cost."""
    if isinstance(cost_usd, bool) or not isinstance(cost_usd, int | Decimal):
        return None
    if isinstance(cost_usd, Decimal):
        _, digits, exponent = cost_usd.as_tuple()
        # Neither NaN nor infinite, and no number that takes long to count with.
        if not isinstance(exponent, int) or exponent < -COST_DECIMALS_MAX or len(digits) > COST_DECIMALS_MAX:
            return None
    if not 0 <= cost_usd <= REPORTED_COST_USD_MAX:
        return None
    numerator, denominator = cost_usd.as_integer_ratio()
    return -(-numerator * NANOUSD_PER_USD // denominator)


def _details(reported: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    """A details member; absent, null or not an object says nothing."""
    details = reported.get(name)
    return details if isinstance(details, dict) else {}


def _count(reported: Mapping[Any, Any], name: str, *, default: int | None = None) -> int | None:
    """A token count, or None when it is missing or impossible: only a whole number from 0 up will do."""
    value = reported.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        return None
    return value
