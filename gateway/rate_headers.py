"""What a provider's headers say of its rate limits: how long to wait, and whether nothing is left.

Read are Retry-After (seconds or a date), retry-after-ms, and the limits as OpenAI, Azure, Groq and others
write them (x-ratelimit-remaining-*, x-ratelimit-reset-*: a duration, seconds or a moment) and as Anthropic
does (anthropic-ratelimit-*-remaining and -reset: a moment, RFC 3339).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

WAIT_S_MAX = 300.0
# Numbers above these are moments since the epoch, in seconds or milliseconds, and no durations.
EPOCH_S_MIN, EPOCH_MS_MIN = 1e9, 1e12
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
# (what is left, when there is more again), the pairs that providers send.
_PAIRS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float:
    """Seconds that a refused request shall wait, 300 at most; 0: the provider does not say.

    `now_s` is the wall clock's, since the epoch.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    told = headers.get("retry-after", "").strip()
    seconds = _number(told)
    if seconds is None and told:
        seconds = _date_s(told, now_s=now_s)
    return exhausted_s(headers, now_s=now_s) if seconds is None else _bounded(seconds)


def exhausted_s(headers: Mapping[str, str], *, now_s: float) -> float:
    """Seconds until a limit of which nothing is left allows more, 300 at most; 0 where something is left."""
    waits = [
        _reset_s(headers.get(reset, ""), now_s=now_s)
        for remaining, reset in _PAIRS
        if _number(headers.get(remaining, "")) == 0
    ]
    return _bounded(max(waits, default=0.0))


def _reset_s(text: str, *, now_s: float) -> float:
    number = _number(text)
    if number is not None:
        if number >= EPOCH_MS_MIN:
            return number / 1000 - now_s
        return number - now_s if number >= EPOCH_S_MIN else number
    match = _DURATION.fullmatch(text)
    if match and text:
        return sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s


def _date_s(text: str, *, now_s: float) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - now_s
    except ValueError:
        return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,16}(\.\d{1,9})?", text.strip()) else None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), WAIT_S_MAX)
