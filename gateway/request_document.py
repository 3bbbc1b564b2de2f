"""The answer of GET /v1/requests/{id}: what became of a request, and why each attempt went where it did."""

from collections.abc import Sequence
from typing import Any

from ninja import Schema

from billing.amounts import plain_usd_text
from billing.attempt_log import LoggedAttempt, load_attempts
from billing.principals import Principal
from gateway.errors import NotFoundError


class NextBest(Schema):
    place: str
    cost_usd: str


class AttemptDocument(Schema):
    """`decision` is the record as the ledger keeps it: costs in nano-USD, the chosen place first."""

    number: int
    cluster: str
    model: str
    outcome: str
    error_code: str
    started_at: str
    ttft_ms: int | None
    duration_ms: int
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    cost_usd: str
    next_best: NextBest | None
    explanation: list[str]
    decision: dict[str, Any]


class RequestDocument(Schema):
    object: str
    id: str
    model: str
    cost_usd: str
    attempts: list[AttemptDocument]


def load_request(*, request_id: str, principal: Principal) -> dict[str, Any]:
    """The document, for a request of the caller's own team. Blocks; raises NotFoundError."""
    attempts = load_attempts(request_id=request_id, organisation=principal.organisation, team=principal.team)
    if not attempts:
        raise NotFoundError(
            f"There is no settled attempt of request `{request_id}` of your team: it may still run, was "
            f"refused before it was sent, or is pruned."
        )
    return request_document(attempts)


def request_document(attempts: Sequence[LoggedAttempt]) -> dict[str, Any]:
    """The settled attempts of one request, first to last."""
    return RequestDocument(
        object="request",
        id=attempts[0].request_id,
        model=attempts[0].model,
        cost_usd=plain_usd_text(sum(attempt.cost_nanousd for attempt in attempts)),
        attempts=[_attempt(attempt) for attempt in attempts],
    ).dict()


def _attempt(attempt: LoggedAttempt) -> AttemptDocument:
    other = attempt.next_best
    return AttemptDocument(
        number=attempt.number,
        cluster=attempt.cluster,
        model=attempt.served_model,
        outcome=attempt.outcome,
        error_code=attempt.error_code,
        started_at=attempt.started_at.isoformat().replace("+00:00", "Z"),
        ttft_ms=attempt.ttft_ms,
        duration_ms=attempt.duration_ms,
        input_tokens=attempt.input_tokens,
        output_tokens=attempt.output_tokens,
        is_estimate=attempt.is_estimate,
        cost_usd=plain_usd_text(attempt.cost_nanousd),
        next_best=None if other is None else NextBest(place=other[0], cost_usd=plain_usd_text(other[1])),
        explanation=attempt.explanation,
        decision=dict(attempt.decision),
    )
