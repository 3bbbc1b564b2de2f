"""The headers that Anthropic's clients read: the request's id, and what is left of the limits."""

import re
from datetime import datetime, timedelta

from gateway.surfaces.translation import Headers

RATE_LIMIT_START = "x-ratelimit-"
DURATION = re.compile(r"(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")


def anthropic_headers(headers: Headers, request_id: str, now: datetime) -> Headers:
    """Those that a message has besides the ones of a chat.

    `x-ratelimit-reset-tokens: 6m0s` is `anthropic-ratelimit-tokens-reset`, a moment by RFC 3339.
    """
    told = [("request-id", request_id)]
    for name, value in headers:
        if not name.startswith(RATE_LIMIT_START):
            continue
        figure, _, noun = name.removeprefix(RATE_LIMIT_START).partition("-")
        told.append(
            (f"anthropic-ratelimit-{noun}-{figure}", _moment(value, now) if figure == "reset" else value)
        )
    return tuple(told)


def _moment(duration: str, now: datetime) -> str:
    found = DURATION.fullmatch(duration)
    assert found is not None, "our own limits write it"
    minutes, seconds, milliseconds = (int(part or 0) for part in found.groups())
    at = now + timedelta(minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
