"""Every error as its caller sees it: status, code, type, body and headers."""

import orjson
import pytest

from gateway import errors
from gateway.errors import GatewayError, error_body, error_event

INVALID, UPSTREAM, BUSY = "invalid_request_error", "upstream_error", "overloaded_error"
TABLE = {
    "GatewayError": (500, "internal_error", "api_error"),
    "InternalError": (500, "internal_error", "api_error"),
    "InvalidRequestError": (400, "invalid_request_error", INVALID),
    "InvalidJsonError": (400, "invalid_json", INVALID),
    "ContextLengthError": (400, "context_length_exceeded", INVALID),
    "UnsupportedError": (400, "unsupported_parameter", INVALID),
    "ModelNotPricedError": (400, "model_not_priced", INVALID),
    "InvalidApiKeyError": (401, "invalid_api_key", "authentication_error"),
    "PermissionDeniedError": (403, "permission_denied", "permission_error"),
    "ModelNotFoundError": (404, "model_not_found", INVALID),
    "NotFoundError": (404, "not_found", INVALID),
    "MethodNotAllowedError": (405, "method_not_allowed", INVALID),
    "RequestTimeoutError": (408, "request_timeout", INVALID),
    "IdempotencyKeyError": (409, "idempotency_key_in_use", "idempotency_error"),
    "IdempotencyInUseError": (409, "idempotency_key_in_use", "idempotency_error"),
    "IdempotencyNotKeptError": (409, "idempotency_result_not_kept", "idempotency_error"),
    "IdempotencyReusedError": (422, "idempotency_key_reused", "idempotency_error"),
    "RequestTooLargeError": (413, "request_too_large", INVALID),
    "RateLimitError": (429, "rate_limit_exceeded", "rate_limit_error"),
    "BudgetHeldError": (429, "rate_limit_exceeded", "rate_limit_error"),
    "InsufficientQuotaError": (429, "insufficient_quota", "insufficient_quota"),
    "CrossedBudgetError": (400, "budget_exceeded", "budget_exceeded"),
    "ClientClosedError": (499, "client_closed_request", INVALID),
    "UpstreamError": (502, "upstream_error", UPSTREAM),
    "UpstreamUnreachableError": (502, "upstream_unreachable", UPSTREAM),
    "UpstreamInvalidError": (502, "upstream_invalid_response", UPSTREAM),
    "UpstreamAuthError": (502, "upstream_auth", UPSTREAM),
    "UpstreamTooLargeError": (502, "upstream_too_large", UPSTREAM),
    "UpstreamRefusedError": (502, "upstream_refused", INVALID),
    "UnavailableError": (503, "overloaded", BUSY),
    "OverloadedError": (503, "overloaded", BUSY),
    "NoHealthyClusterError": (503, "no_healthy_cluster", BUSY),
    "ClusterAsleepError": (503, "cluster_asleep", BUSY),
    "LedgerDownError": (503, "ledger_unavailable", BUSY),
    "DrainingError": (503, "draining", BUSY),
    "UpstreamTimeoutError": (504, "upstream_timeout", UPSTREAM),
}


def classes():
    found, left = [], [GatewayError]
    while left:
        found.append(left.pop())
        left += found[-1].__subclasses__()
    return [one for one in found if one.__module__ == errors.__name__]


def test_errors_have_the_status_code_and_type_of_the_wire():
    assert {one.__name__: (one.status, one.code, one.type) for one in classes()} == TABLE


@pytest.mark.parametrize("name", sorted(TABLE))
def test_errors_are_all_in_the_picture_of_the_tree(name):
    assert name in errors.__doc__


@pytest.mark.parametrize(
    ("error", "member"),
    [
        (
            errors.InvalidRequestError("No `model`.", param="model"),
            {
                "message": "No `model`.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "invalid_request_error",
            },
        ),
        (
            errors.InternalError("Broken."),
            {"message": "Broken.", "type": "api_error", "param": None, "code": "internal_error"},
        ),
        (
            errors.UpstreamRefusedError("Too long.", upstream_status=400, param="messages", code="too_long"),
            {
                "message": "Too long.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "too_long",
            },
        ),
        (
            errors.UpstreamRefusedError("No.", upstream_status=404, param=None, code=None),
            {"message": "No.", "type": "invalid_request_error", "param": None, "code": "upstream_refused"},
        ),
    ],
)
def test_error_body_is_openai_s_shape(error, member):
    assert orjson.loads(error_body(error)) == {"error": member}
    assert error_event(error) == b"data: " + error_body(error) + b"\n\n"


def test_error_body_keeps_quotes_and_line_ends_inside_the_json():
    event = error_event(errors.InternalError('a "b"\n\ndata: [DONE]\n\n'))

    assert event.count(b"\n\n") == 1
    assert orjson.loads(event[6:])["error"]["message"] == 'a "b"\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_upstream_refusal_keeps_its_status(status):
    error = errors.UpstreamRefusedError("No.", upstream_status=status, param=None, code=None)

    assert error.http_status == status


@pytest.mark.parametrize("status", [200, 401, 403, 429, 500])
def test_upstream_refusal_passes_on_no_other_status(status):
    with pytest.raises(AssertionError):
        errors.UpstreamRefusedError("No.", upstream_status=status, param=None, code=None)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.InternalError("x"), ()),
        (errors.InsufficientQuotaError("x"), (("x-should-retry", "false"),)),
        (
            errors.BudgetHeldError("x"),
            (("x-should-retry", "true"), ("retry-after", "1"), ("retry-after-ms", "1000")),
        ),
        (errors.MethodNotAllowedError("x", allowed={"POST", "GET"}), (("allow", "GET, POST"),)),
        (errors.OverloadedError("x"), (("retry-after", "1"), ("retry-after-ms", "1000"))),
        (errors.OverloadedError("x", retry_after_s=7.5), (("retry-after", "8"), ("retry-after-ms", "7500"))),
        (errors.NoHealthyClusterError("x"), (("retry-after", "5"), ("retry-after-ms", "5000"))),
        (errors.LedgerDownError("x"), (("retry-after", "2"), ("retry-after-ms", "2000"))),
        (errors.DrainingError("x"), (("retry-after", "1"), ("retry-after-ms", "1000"))),
        (
            errors.RateLimitError("x", retry_after_s=0.0301, headers=[("x-a", "b")]),
            (("x-a", "b"), ("retry-after", "1"), ("retry-after-ms", "31")),
        ),
        (errors.RateLimitError("x", retry_after_s=0.0), (("retry-after", "1"), ("retry-after-ms", "1"))),
    ],
)
def test_errors_say_when_to_come_again(error, headers):
    assert tuple(error.headers) == headers
