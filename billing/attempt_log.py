"""What became of one request: its attempts in order, as plain values, each with why it went there."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing.amounts import usd_text
from billing.models import UsageRecord
from billing.settled_rows import REQUEST_ID_CHARACTERS_MAX
from routing.decision_record import explained, next_best

ATTEMPTS_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAttempt:
    """One settled attempt; amounts in nano-USD, times in ms. `decision` is the record as it was kept."""

    attempt_id: str
    request_id: str
    number: int
    organisation: str
    team: str
    key_name: str
    model: str
    served_model: str
    cluster: str
    provider: str
    surface: str
    is_stream: bool
    outcome: str
    error_code: str
    started_at: datetime
    settled_at: datetime
    ttft_ms: int | None
    duration_ms: int
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    held_nanousd: int
    cost_nanousd: int
    decision: Mapping[str, Any]

    @property
    def explanation(self) -> list[str]:
        """Why it went there, in sentences."""
        return explained(self.decision, usd_text=usd_text)

    @property
    def next_best(self) -> tuple[str, int] | None:
        """Where else it could have gone, and what that was estimated to cost in nano-USD."""
        return next_best(self.decision)


def load_attempts(
    *, request_id: str, organisation: str | None = None, team: str | None = None
) -> tuple[LoggedAttempt, ...]:
    """The settled attempts of a request, first to last; only a team's where one is given. One query.

    An id that no request has, too long or with a NUL in it, which PostgreSQL takes for no text, finds none.
    """
    if len(request_id) > REQUEST_ID_CHARACTERS_MAX or "\0" in request_id:
        return ()
    rows = UsageRecord.objects.filter(request_id=request_id)
    if team is not None:
        rows = rows.filter(organisation=organisation, team=team)
    return tuple(_logged(row) for row in rows.order_by("attempt_number", "settled_at")[:ATTEMPTS_MAX])


def _logged(row: UsageRecord) -> LoggedAttempt:
    return LoggedAttempt(
        attempt_id=str(row.attempt_id),
        request_id=row.request_id,
        number=row.attempt_number,
        organisation=row.organisation,
        team=row.team,
        key_name=row.key_name,
        model=row.model,
        served_model=row.served_model,
        cluster=row.cluster,
        provider=row.provider,
        surface=row.surface,
        is_stream=row.is_stream,
        outcome=row.outcome,
        error_code=row.error_code,
        started_at=row.started_at,
        settled_at=row.settled_at,
        ttft_ms=row.ttft_ms,
        duration_ms=row.duration_ms,
        input_tokens=row.usage.input_tokens,
        output_tokens=row.usage.output_tokens,
        is_estimate=row.is_estimate,
        held_nanousd=row.held_nanousd,
        cost_nanousd=row.cost_nanousd,
        decision=row.decision,
    )
