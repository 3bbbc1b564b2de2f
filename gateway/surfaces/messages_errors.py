"""Failures in the words of Anthropic's API: https://platform.claude.com/docs/en/api/errors."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import (
    GatewayError,
    InsufficientQuotaError,
    UnavailableError,
    UpstreamTimeoutError,
)

BILLING, OVERLOADED = 402, 529
API_ERROR = "api_error"
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    BILLING: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
# Of errors inside a stream, by the codes and types of their OpenAI shape.
EVENT_TYPES = {
    UpstreamTimeoutError.code: "timeout_error",
    UnavailableError.type: "overloaded_error",
    "rate_limit_error": "rate_limit_error",
    "invalid_request_error": "invalid_request_error",
}


def error_status(error: GatewayError) -> int:
    """The status where theirs differs: a spent budget is no rate limit, and what is full is overloaded."""
    if isinstance(error, InsufficientQuotaError):
        return BILLING
    return OVERLOADED if isinstance(error, UnavailableError) else error.http_status


def error_document(error: GatewayError, *, request_id: str) -> bytes:
    status = error_status(error)
    kind = TYPES.get(status, API_ERROR if status >= 500 else "invalid_request_error")
    return orjson.dumps(_document(kind, error.message, request_id=request_id))


def error_of_event(error: Mapping[str, Any], *, request_id: str) -> dict[str, Any]:
    """The same of an error that came inside a stream."""
    kind = EVENT_TYPES.get(error.get("code") or "") or EVENT_TYPES.get(error.get("type") or "", API_ERROR)
    return _document(kind, str(error.get("message")), request_id=request_id)


def _document(kind: str, message: str, *, request_id: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
