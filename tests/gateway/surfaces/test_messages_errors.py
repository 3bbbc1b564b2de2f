"""Failures and headers in Anthropic's words: each status has its type, each limit its name."""

from datetime import UTC, datetime

import orjson
import pytest

from gateway.errors import (
    CrossedBudgetError,
    GatewayError,
    InsufficientQuotaError,
    InternalError,
    InvalidApiKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    NoHealthyClusterError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    error_body,
)
from gateway.surfaces.messages_errors import error_document, error_of_event, error_status
from gateway.surfaces.messages_headers import anthropic_headers

REFUSED = UpstreamRefusedError("a", upstream_status=422, param=None, code=None)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequestError("a"), 400, "invalid_request_error"),
        (InvalidApiKeyError("a"), 401, "authentication_error"),
        (InsufficientQuotaError("a"), 402, "billing_error"),
        (CrossedBudgetError("a"), 402, "billing_error"),
        (PermissionDeniedError("a"), 403, "permission_error"),
        (ModelNotFoundError("a"), 404, "not_found_error"),
        (RequestTooLargeError("a"), 413, "request_too_large"),
        (REFUSED, 422, "invalid_request_error"),
        (RateLimitError("a", retry_after_s=1), 429, "rate_limit_error"),
        (InternalError("a"), 500, "api_error"),
        (UpstreamError("a"), 502, "api_error"),
        (UpstreamTimeoutError("a"), 504, "timeout_error"),
        (OverloadedError("a"), 529, "overloaded_error"),
        (NoHealthyClusterError("a"), 529, "overloaded_error"),
    ],
)
def test_each_failure_has_its_status_and_type(error, status, kind):
    document = orjson.loads(error_document(error, request_id="req_1"))

    assert error_status(error) == status
    assert document == {"type": "error", "error": {"type": kind, "message": "a"}, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamError("a"), "api_error"),
        (UpstreamTimeoutError("a"), "timeout_error"),
        (OverloadedError("a"), "overloaded_error"),
        (RateLimitError("a", retry_after_s=1), "rate_limit_error"),
        (InternalError("a"), "api_error"),
    ],
)
def test_failure_inside_a_stream_has_the_same_type(error: GatewayError, kind):
    event = orjson.loads(error_body(error))["error"]

    assert error_of_event(event, request_id="req_1") == {
        "type": "error",
        "error": {"type": kind, "message": "a"},
        "request_id": "req_1",
    }


def test_limits_have_anthropics_names_and_moments():
    told = tuple(
        (f"x-ratelimit-{figure}-tokens", value)
        for figure, value in (("limit", "9"), ("remaining", "8"), ("reset", "6m1s"))
    )
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    assert anthropic_headers((*told, ("x-gateway-cluster", "a")), "req_1", now) == (
        ("request-id", "req_1"),
        ("anthropic-ratelimit-tokens-limit", "9"),
        ("anthropic-ratelimit-tokens-remaining", "8"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-23T12:06:01Z"),
    )


@pytest.mark.parametrize(
    ("duration", "moment"), [("0s", "12:00:00"), ("120ms", "12:00:00"), ("59s", "12:00:59")]
)
def test_reset_is_a_moment(duration, moment):
    headers = (("x-ratelimit-reset-requests", duration),)

    told = dict(anthropic_headers(headers, "req_1", datetime(2026, 11, 23, 12, tzinfo=UTC)))

    assert told["anthropic-ratelimit-requests-reset"] == f"2026-11-23T{moment}Z"
