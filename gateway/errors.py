"""Every way a request can fail, with its status and code, and the one renderer of OpenAI's error shape.

GatewayError
├── InvalidRequestError 400          the request is wrong: its message says what to change
│   ├── InvalidJsonError             not JSON, or nested too deep
│   ├── ContextLengthError           longer than every deployment's context window
│   ├── UnsupportedError             no deployment can do what it needs
│   └── ModelNotPricedError          a hard budget watches, and the model has no price
├── InvalidApiKeyError 401           no key, an unknown, expired or revoked one
├── PermissionDeniedError 403        the key may not use the model
├── ModelNotFoundError 404           no route of that name
├── NotFoundError 404, MethodNotAllowedError 405
├── RequestTimeoutError 408          the body did not arrive in time
├── IdempotencyKeyError              by an Idempotency-Key that stands for a request already
│   ├── IdempotencyReusedError 422   with another body
│   └── IdempotencyInUseError 409, IdempotencyNotKeptError 409
├── RequestTooLargeError 413
├── RateLimitError 429               requests or tokens per minute
│   └── BudgetHeldError              running requests hold what is left of a hard budget
├── InsufficientQuotaError 429       a hard budget is spent
│   └── CrossedBudgetError 400       the same, as LiteLLM's clients expect it
├── ClientClosedError 499            the caller left: in logs only
├── InternalError 500                a bug of ours: logged with its request id
├── UpstreamError 502                the upstream failed; the subclasses say how
│   ├── UpstreamUnreachableError, UpstreamInvalidError, UpstreamAuthError, UpstreamTooLargeError
│   └── UpstreamRefusedError         its own 400, 404, 413, 422, passed on
├── UnavailableError 503             NoHealthyClusterError, OverloadedError, LedgerDownError, DrainingError,
│                                    ClusterAsleepError
└── UpstreamTimeoutError 504
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import orjson

ORIGINAL_REQUEST_HEADER = "x-gateway-original-request-id"


class GatewayError(Exception):
    """A failure as the caller sees it. `headers` go out beside the body."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "api_error"
    headers: tuple[tuple[str, str], ...] = ()

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def http_status(self) -> int:
        return self.status


class InternalError(GatewayError):
    """A bug of ours."""


class InvalidRequestError(GatewayError):
    status = 400
    code = "invalid_request_error"
    type = "invalid_request_error"


class InvalidJsonError(InvalidRequestError):
    code = "invalid_json"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class UnsupportedError(InvalidRequestError):
    code = "unsupported_parameter"


class ModelNotPricedError(InvalidRequestError):
    code = "model_not_priced"


class InvalidApiKeyError(GatewayError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class PermissionDeniedError(GatewayError):
    status = 403
    code = "permission_denied"
    type = "permission_error"


class ModelNotFoundError(GatewayError):
    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class NotFoundError(GatewayError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"


class MethodNotAllowedError(GatewayError):
    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, message: str, *, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.headers = (("allow", ", ".join(sorted(allowed))),)


class RequestTimeoutError(GatewayError):
    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class RequestTooLargeError(GatewayError):
    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class IdempotencyKeyError(GatewayError):
    """The Idempotency-Key stands for a request already; the header says for which."""

    status = 409
    code = "idempotency_key_in_use"
    type = "idempotency_error"

    def __init__(self, message: str, *, original_request_id: str) -> None:
        super().__init__(message, param="Idempotency-Key")
        self.headers = ((ORIGINAL_REQUEST_HEADER, original_request_id),) if original_request_id else ()


class IdempotencyInUseError(IdempotencyKeyError):
    """The request still runs: the same one gets its answer soon."""

    def __init__(self, message: str, *, original_request_id: str) -> None:
        super().__init__(message, original_request_id=original_request_id)
        self.headers += (("x-should-retry", "true"), *_retry_after(1.0))


class IdempotencyNotKeptError(IdempotencyKeyError):
    """The request was answered and its answer cannot be given again: trying again changes nothing."""

    code = "idempotency_result_not_kept"

    def __init__(self, message: str, *, original_request_id: str) -> None:
        super().__init__(message, original_request_id=original_request_id)
        self.headers += (("x-should-retry", "false"),)


class IdempotencyReusedError(IdempotencyKeyError):
    status = 422
    code = "idempotency_key_reused"


class RateLimitError(GatewayError):
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(
        self, message: str, *, retry_after_s: float, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.headers = (*headers, *_retry_after(retry_after_s))


class BudgetHeldError(RateLimitError):
    """What is left of a budget is held by requests that run: some of it comes free when they end."""

    def __init__(self, message: str) -> None:
        retry = ("x-should-retry", "true")
        super().__init__(message, retry_after_s=1.0, headers=[retry])


class InsufficientQuotaError(GatewayError):
    """A spent budget: trying again soon cannot help, and the header tells the SDKs so."""

    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"
    headers = (("x-should-retry", "false"),)


class CrossedBudgetError(InsufficientQuotaError):
    """The same for a key from LiteLLM's key management, in the words and numbers that its clients read."""

    status = 400
    code = "budget_exceeded"
    type = "budget_exceeded"
    WIRE_CODE: ClassVar[str] = "400"


class ClientClosedError(GatewayError):
    """Nobody is there to be told; logs and metrics say so."""

    status = 499
    code = "client_closed_request"
    type = "invalid_request_error"


class UpstreamError(GatewayError):
    status = 502
    code = "upstream_error"
    type = "upstream_error"


class UpstreamUnreachableError(UpstreamError):
    code = "upstream_unreachable"


class UpstreamInvalidError(UpstreamError):
    code = "upstream_invalid_response"


class UpstreamAuthError(UpstreamError):
    code = "upstream_auth"


class UpstreamTooLargeError(UpstreamError):
    code = "upstream_too_large"


class UpstreamRefusedError(UpstreamError):
    """The upstream's own verdict on the request: its status and message, in our shape."""

    code = "upstream_refused"
    type = "invalid_request_error"
    PASSED_ON: ClassVar[frozenset[int]] = frozenset({400, 404, 413, 422})

    def __init__(self, message: str, *, upstream_status: int, param: str | None, code: str | None) -> None:
        assert upstream_status in self.PASSED_ON
        super().__init__(message, param=param)
        self.upstream_status = upstream_status
        self.upstream_code = code

    @property
    def http_status(self) -> int:
        return self.upstream_status


class UpstreamTimeoutError(GatewayError):
    status = 504
    code = "upstream_timeout"
    type = "upstream_error"


class UnavailableError(GatewayError):
    """Nothing is wrong with the request: the same one may succeed soon."""

    status = 503
    code = "overloaded"
    type = "overloaded_error"
    retry_after_s: ClassVar[float] = 1.0

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.headers = _retry_after(self.retry_after_s if retry_after_s is None else retry_after_s)


class OverloadedError(UnavailableError):
    """Every place that could answer is full."""


class NoHealthyClusterError(UnavailableError):
    code = "no_healthy_cluster"
    retry_after_s = 5.0


class ClusterAsleepError(UnavailableError):
    """What could answer has to wake first; Retry-After says when it should be there."""

    code = "cluster_asleep"


class LedgerDownError(UnavailableError):
    code = "ledger_unavailable"
    retry_after_s = 2.0


class DrainingError(UnavailableError):
    code = "draining"


def error_body(error: GatewayError) -> bytes:
    """OpenAI's error shape; `param` and `code` are always there, possibly null (WIRE 1)."""
    code = error.code
    if isinstance(error, UpstreamRefusedError) and error.upstream_code:
        code = error.upstream_code
    elif isinstance(error, CrossedBudgetError):
        code = error.WIRE_CODE
    member = {"message": error.message, "type": error.type, "param": error.param, "code": code}
    return orjson.dumps({"error": member})


def error_event(error: GatewayError) -> bytes:
    """The same inside a stream whose headers are gone: one event, and no `[DONE]` after it (WIRE 9)."""
    return b"data: " + error_body(error) + b"\n\n"


def _retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    """Rounded up: a caller that waits just so long must not come too early."""
    return (
        ("retry-after", str(max(1, math.ceil(seconds)))),
        ("retry-after-ms", str(max(1, math.ceil(seconds * 1000)))),
    )
