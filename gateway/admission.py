"""Whether a request may enter: the model, the key's allowance and limits, and room in this process."""

from dataclasses import dataclass, field

from billing.principals import Principal
from gateway.completion import CompletionRequest
from gateway.errors import (
    DrainingError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
)
from gateway.fleet import FleetSnapshot
from gateway.ratelimit import Allowance, RateLimiter, headers_of


@dataclass(slots=True, kw_only=True)
class Ticket:
    """An admitted request's place. `release` gives it back, once."""

    principal: Principal
    tokens_taken: int
    headers: tuple[tuple[str, str], ...] = ()
    is_released: bool = field(default=False)


class Admission:
    """One per process: counts what is being served and keeps the keys' limits."""

    def __init__(self, *, limiter: RateLimiter, in_flight_max: int) -> None:
        self._limiter = limiter
        self._in_flight_max = in_flight_max
        self.in_flight = 0
        self.is_draining = False

    def admit(self, *, principal: Principal, request: CompletionRequest, snapshot: FleetSnapshot) -> Ticket:
        """Raises the refusal; the order is: model, drain, room, limits. What is refused takes nothing."""
        check_model(principal=principal, model=request.model, snapshot=snapshot)
        if self.is_draining:
            raise DrainingError("This gateway is shutting down; send the request again.")
        if self.in_flight >= self._in_flight_max:
            raise OverloadedError(f"This gateway is serving its limit of {self._in_flight_max} requests.")
        tokens = request.profile.prompt_tokens_estimate
        headers = self._take_limits(principal, tokens=tokens)
        self.in_flight += 1
        return Ticket(principal=principal, tokens_taken=tokens, headers=headers)

    def release(self, ticket: Ticket, *, tokens_used: int) -> None:
        """The request ended; its true tokens replace the estimate in the key's allowance."""
        if ticket.is_released:
            return
        ticket.is_released = True
        self.in_flight -= 1
        principal = ticket.principal
        if principal.tpm_max:
            surplus = ticket.tokens_taken - tokens_used
            self._limiter.give_back(
                key_id=principal.key_id, kind="tokens", limit=principal.tpm_max, amount=surplus
            )

    def _take_limits(self, principal: Principal, *, tokens: int) -> tuple[tuple[str, str], ...]:
        headers: tuple[tuple[str, str], ...] = ()
        taken: list[tuple[str, int, int]] = []
        for kind, limit, amount in (
            ("requests", principal.rpm_max, 1),
            ("tokens", principal.tpm_max, tokens),
        ):
            if not limit:
                continue
            allowance = self._limiter.take(key_id=principal.key_id, kind=kind, limit=limit, amount=amount)
            headers += headers_of(allowance)
            if allowance.is_refused:
                for other_kind, other_limit, other_amount in taken:
                    self._limiter.give_back(
                        key_id=principal.key_id, kind=other_kind, limit=other_limit, amount=other_amount
                    )
                raise _refusal(principal, allowance, headers, amount=amount)
            taken.append((kind, limit, amount))
        return headers


def check_model(*, principal: Principal, model: str, snapshot: FleetSnapshot) -> None:
    """Raise ModelNotFoundError or PermissionDeniedError unless the key may use the model."""
    if model not in snapshot.fleet.routes:
        raise ModelNotFoundError(
            f"The model `{model}` does not exist here; GET /v1/models lists those you may use.", param="model"
        )
    if principal.allowed_models is not None and model not in principal.allowed_models:
        raise PermissionDeniedError(
            f"API key {principal.prefix}… may not use `{model}`; its models are set in Admin > Keys.",
            param="model",
        )


def _refusal(
    principal: Principal, allowance: Allowance, headers: tuple[tuple[str, str], ...], *, amount: int
) -> RateLimitError:
    if amount > allowance.limit:
        message = (
            f"This request needs about {amount} {allowance.kind}, more than the {allowance.limit} per minute "
            f"of API key {principal.prefix}…: make it shorter, or raise the limit in Admin > Keys."
        )
        headers = (*headers, ("x-should-retry", "false"))
        return RateLimitError(message, retry_after_s=allowance.retry_after_s, headers=headers)
    message = (
        f"API key {principal.prefix}… is over its limit of {allowance.limit} {allowance.kind} per minute; "
        f"try again in {allowance.retry_after_s:.1f} s."
    )
    return RateLimitError(message, retry_after_s=allowance.retry_after_s, headers=headers)
