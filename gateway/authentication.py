"""From a bearer token to the principal behind it, without a query."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime

from billing.principals import Principal
from gateway.errors import InvalidApiKeyError

# Anthropic's and Google's.
GOOGLE_KEY_HEADER = b"x-goog-api-key"
KEY_HEADERS = frozenset({b"x-api-key", GOOGLE_KEY_HEADER})
WHERE_TO_GET = "Keys are issued in Admin > Keys, or by `manage.py create_api_key`."


def authenticate(
    *, headers: Iterable[tuple[bytes, bytes]], principals: Mapping[bytes, Principal], now: datetime
) -> Principal:
    """The principal of `Authorization: Bearer`, `x-api-key` or `x-goog-api-key`; raises InvalidApiKeyError.

    The look-up is by the token's SHA-256, so that nothing secret is compared byte by byte.
    """
    token = bearer_token(headers)
    if not token:
        raise InvalidApiKeyError(f"You sent no API key: use `Authorization: Bearer tg_…`. {WHERE_TO_GET}")
    principal = principals.get(hashlib.sha256(token).digest())
    if principal is None:
        raise InvalidApiKeyError(f"Incorrect API key. {WHERE_TO_GET}")
    if principal.revoked_at is not None and principal.revoked_at <= now:
        raise InvalidApiKeyError(f"API key {principal.prefix}… was revoked. {WHERE_TO_GET}")
    if principal.expires_at is not None and principal.expires_at <= now:
        day = principal.expires_at.isoformat()
        raise InvalidApiKeyError(f"API key {principal.prefix}… expired at {day}. {WHERE_TO_GET}")
    return principal


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The token as sent, or nothing. `Authorization` wins over the others."""
    api_key = b""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip()
        elif name in KEY_HEADERS:
            api_key = value.strip()
    return api_key
