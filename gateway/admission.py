"""Whether a request may enter: the model, the key's allowance and limits, and room in this process."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

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
from gateway.ratelimit import CONCURRENT, Allowance, Demand, Taken, headers_of

TOKENS = "tokens"


class Limiter(Protocol):
    """Who counts: this process alone, or all of them together."""

    async def take(self, demands: Sequence[Demand]) -> Taken: ...

    def correct(self, demand: Demand, *, amount: int) -> None: ...

    def leave(self, demand: Demand) -> None: ...


class Ticket(Struct, kw_only=True):
    """An admitted request's place. `release` gives it back, once."""

    demands: tuple[Demand, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    is_released: bool = False


class Admission:
    """One per process: counts what is being served and asks for what the limits allow."""

    def __init__(self, *, limiter: Limiter, in_flight_max: int) -> None:
        self._limiter = limiter
        self._in_flight_max = in_flight_max
        self.in_flight = 0
        self.is_draining = False

    async def admit(
        self, *, principal: Principal, request: CompletionRequest, snapshot: FleetSnapshot
    ) -> Ticket:
        """Raises the refusal; the order is: model, drain, room, limits. What is refused takes nothing."""
        check_model(principal=principal, model=request.model, snapshot=snapshot)
        if self.is_draining:
            raise DrainingError("This gateway is shutting down; send the request again.")
        if self.in_flight >= self._in_flight_max:
            raise OverloadedError(f"This gateway is serving its limit of {self._in_flight_max} requests.")
        demands = demands_of(principal, model=request.model, tokens=request.profile.prompt_tokens_estimate)
        # Its place first: whoever comes while the limits are asked finds one place less.
        self.in_flight += 1
        headers: tuple[tuple[str, str], ...] = ()
        try:
            if demands:
                headers = await self._take_limits(demands)
        except BaseException:
            self.in_flight -= 1
            raise
        return Ticket(demands=demands, headers=headers)

    def release(self, ticket: Ticket, *, tokens_used: int) -> None:
        """The request ended; its true tokens replace the estimate, its places are free."""
        if ticket.is_released:
            return
        ticket.is_released = True
        self.in_flight -= 1
        for demand in ticket.demands:
            if demand.kind == CONCURRENT:
                self._limiter.leave(demand)
            elif demand.kind == TOKENS:
                self._limiter.correct(demand, amount=tokens_used - demand.amount)

    async def _take_limits(self, demands: Sequence[Demand]) -> tuple[tuple[str, str], ...]:
        taken = await self._limiter.take(demands)
        headers = headers_of(taken.allowances)
        refused = taken.refused
        if refused is not None:
            raise _refusal(refused, headers)
        return headers


def demands_of(principal: Principal, *, model: str, tokens: int) -> tuple[Demand, ...]:
    """What a request takes of each limit that binds it: the key's, the team's, the model's."""
    demands = []
    for view in (*principal.limits, *principal.model_limits.get(model, ())):
        for kind, limit, amount in (
            ("requests", view.rpm_max, 1),
            (TOKENS, view.tpm_max, tokens),
            (CONCURRENT, view.concurrent_max, 1),
        ):
            if limit:
                demands.append(
                    Demand(scope=view.scope, label=view.label, kind=kind, limit=limit, amount=amount)
                )
    return tuple(demands)


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


def _refusal(allowance: Allowance, headers: tuple[tuple[str, str], ...]) -> RateLimitError:
    demand = allowance.demand
    if demand.kind == CONCURRENT:
        message = (
            f"The {demand.label} is at its limit of {demand.limit} requests at once; "
            f"send this again when one has ended."
        )
    elif demand.amount > demand.limit:
        message = (
            f"This request needs about {demand.amount} {demand.kind}, more than the {demand.limit} "
            f"per minute of the {demand.label}: make it shorter, or raise the limit in the admin."
        )
        headers = (*headers, ("x-should-retry", "false"))
    else:
        message = (
            f"The {demand.label} is over its limit of {demand.limit} {demand.kind} per minute; "
            f"try again in {allowance.retry_after_s:.1f} s."
        )
    return RateLimitError(message, retry_after_s=allowance.retry_after_s, headers=headers)
