"""Failures in the words of Google's APIs: https://cloud.google.com/apis/design/errors."""

import math
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import GatewayError, UnavailableError, UpstreamTimeoutError

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# Of errors inside a stream, by the codes and types of their OpenAI shape.
EVENT_CODES = {
    UpstreamTimeoutError.code: 504,
    UnavailableError.type: 503,
    "rate_limit_error": 429,
    "invalid_request_error": 400,
    "upstream_error": 502,
}
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
RETRY_AFTER = "retry-after"


def error_document(error: GatewayError) -> bytes:
    """With when to try again, where that is known."""
    document = _document(error.http_status, error.message)
    waits = [value for name, value in error.headers if name == RETRY_AFTER]
    if waits:
        document["error"]["details"] = [{"@type": RETRY_INFO, "retryDelay": f"{math.ceil(float(waits[0]))}s"}]
    return orjson.dumps(document)


def error_of_event(error: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an error that came inside a stream."""
    code = EVENT_CODES.get(error.get("code") or "") or EVENT_CODES.get(error.get("type") or "", 500)
    return _document(code, str(error.get("message")))


def _document(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": STATUSES.get(code, "UNKNOWN")}}
