"""From a decision to the ledger's values: how much to hold, and what an attempt's end is booked as."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from billing.budgets import BudgetView, limit_at, override_at
from billing.entries import Clamp, Hold, Settlement, WindowClaim
from billing.principals import Principal
from billing.windows import WindowSpan, window_of
from gateway.completion import CompletionRequest
from gateway.metering import service_tier_asked
from routing.cost import charge_of, hold_nanousd
from routing.decision_record import record_of
from routing.experiments import is_crossed_over
from routing.money import NANOUSD_MAX
from routing.rate_record import rate_record
from routing.types import Candidate, Decision, Deployment, Rate, RequestProfile, Usage

# What an answer may be long where a hard budget watches and neither client nor deployment says.
OUTPUT_TOKENS_DEFAULT = 4096
OUTPUT_TOKENS_MIN = 16
# The prompt as seen by the limit on the answer: the estimate and a third lies above most true counts.
PROMPT_NUMERATOR, PROMPT_DENOMINATOR = 4, 3
UNPRICED = Rate.flat(input_microusd_per_mtok=0, output_microusd_per_mtok=0, source="unpriced")


class OutputBound(Struct, frozen=True, kw_only=True):
    """The most tokens one choice may have, and whether we must write it into the request."""

    tokens_max: int
    is_injected: bool


def output_bound(*, profile: RequestProfile, deployment: Deployment) -> OutputBound:
    """The least of what the client allows, the deployment allows and the context leaves.

    Where the client sets no limit and no hard budget watches, nothing is written into its request: no
    answer is longer than the context window, and that is held.
    """
    if profile.surface == "embeddings":
        return OutputBound(tokens_max=0, is_injected=False)
    asked, allowed = profile.output_tokens_max, deployment.output_tokens_max
    if asked is not None:
        tokens_max = asked if allowed is None else min(asked, allowed)
        return OutputBound(tokens_max=tokens_max, is_injected=tokens_max != asked)
    if allowed is None and not profile.is_priced_only:
        return OutputBound(tokens_max=deployment.context_window, is_injected=False)
    prompt_tokens = -(-profile.prompt_tokens_estimate * PROMPT_NUMERATOR // PROMPT_DENOMINATOR)
    left = deployment.context_window - prompt_tokens
    most = OUTPUT_TOKENS_DEFAULT if allowed is None else allowed
    tokens_max = min(max(left, OUTPUT_TOKENS_MIN), most)
    return OutputBound(tokens_max=tokens_max, is_injected=True)


class WindowCalendar:
    """Which window of each budget is running, and which limit; the calendar is asked once per window."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str], WindowSpan] = {}

    def claims_of(self, principal: Principal, *, now: datetime) -> tuple[WindowClaim, ...]:
        return tuple(self._claim(budget, now=now) for budget in principal.budgets)

    def _claim(self, budget: BudgetView, *, now: datetime) -> WindowClaim:
        key = (budget.window, budget.timezone)
        span = self._spans.get(key)
        if span is None or not (span.starts_at <= now and (span.ends_at is None or now < span.ends_at)):
            span = self._spans[key] = window_of(window=budget.window, timezone=budget.timezone, now=now)
        return WindowClaim(
            window_id=f"{budget.id}:{span.key}",
            budget_id=UUID(budget.id),
            owner=budget.owner,
            limit_nanousd=limit_at(budget, now=now),
            is_hard=budget.is_hard,
            starts_at=span.starts_at,
            ends_at=span.ends_at,
            is_crossed=budget.is_crossed,
            is_clamped=budget.is_hard and budget.is_clamped,
            window=budget.window,
            override_until=override_at(budget, now=now),
        )


def new_hold(  # noqa: PLR0913 -- a row of the ledger has this many parts
    *,
    attempt_id: UUID,
    attempt_number: int,
    request_id: str,
    owner: UUID,
    principal: Principal,
    request: CompletionRequest,
    decision: Decision,
    candidate: Candidate,
    bound: OutputBound,
    claims: tuple[WindowClaim, ...],
    now: datetime,
) -> Hold:
    """The reservation of one attempt: an upper bound of its cost at the rate that is frozen here."""
    deployment, profile = candidate.deployment, request.profile
    rate = deployment.rate or UNPRICED
    service_tier = service_tier_asked(request.document.get("service_tier"))
    held = hold_nanousd(
        input_tokens_max=profile.prompt_tokens_max,
        output_tokens_max=bound.tokens_max * profile.choice_count,
        rate=rate,
        service_tier=service_tier,
    )
    attribution = {
        "attempt_number": attempt_number,
        "organisation": principal.organisation,
        "team": principal.team,
        "key_id": principal.key_id,
        "key_name": principal.key_name,
        "model": request.model,
        "served_model": deployment.model,
        "cluster": deployment.cluster,
        "cluster_kind": deployment.cluster_kind,
        "provider": deployment.provider,
        "surface": request.surface,
        "is_stream": request.is_stream,
        # With the tiers that may apply; the row keeps the one that did.
        "rate": rate_record(rate=rate, input_tokens_max=profile.prompt_tokens_max),
        # What was asked for; the row gets what served it.
        "service_tier": service_tier,
        "decision": {**record_of(decision, chosen=candidate), **_crossed(profile, deployment)},
        **({"experiment": profile.experiment, "arm": profile.arm} if profile.arm else {}),
        # Not a column of the row: what an attempt in doubt is charged for its prompt.
        "prompt_tokens_estimate": profile.prompt_tokens_estimate,
    }
    return Hold(
        attempt_id=attempt_id,
        request_id=request_id,
        owner=owner,
        # More than the ledger can count is more than any budget: a list of prompts multiplies fast.
        held_nanousd=min(held, NANOUSD_MAX),
        claims=claims,
        attribution=attribution,
        at=now,
        clamp=_clamp(profile=profile, bound=bound, rate=rate, service_tier=service_tier)
        if any(claim.is_clamped for claim in claims)
        else None,
    )


def _clamp(
    *, profile: RequestProfile, bound: OutputBound, rate: Rate, service_tier: str | None
) -> Clamp | None:
    """How a clamped budget may shorten the answer; embeddings have none that could be."""
    if bound.tokens_max == 0:
        return None
    return Clamp(
        input_tokens_max=profile.prompt_tokens_max,
        output_tokens_max=bound.tokens_max,
        output_tokens_min=min(bound.tokens_max, OUTPUT_TOKENS_MIN),
        choice_count=profile.choice_count,
        rate=rate,
        service_tier=service_tier,
    )


def clamped_hold(hold: Hold) -> Hold:
    """The hold with the shortened answer in its decision, for the row that is kept."""
    decision = {**hold.attribution["decision"], "output_tokens_max": hold.clamped_output_tokens}
    return replace(hold, attribution={**hold.attribution, "decision": decision})


def _crossed(profile: RequestProfile, deployment: Deployment) -> dict[str, bool]:
    """Who is in an arm and answered by another has crossed over."""
    return {"crossed_over": True} if is_crossed_over(arm=profile.arm, deployment=deployment) else {}


def settlement_of(  # noqa: PLR0913 -- a row of the ledger has this many parts
    *,
    hold: Hold,
    rate: Rate | None,
    usage: Usage,
    service_tier_said: str | None = None,
    reported_cost_nanousd: int | None = None,
    outcome: str,
    error_code: str = "",
    ttft_ms: int | None,
    duration_ms: int,
    now: datetime,
) -> Settlement:
    """What an attempt's end costs: the same function as the estimate, at the rate of the hold.

    The row keeps the one rate that was applied, of all that the hold allowed for.
    """
    rate = rate or UNPRICED
    asked = hold.attribution.get("service_tier") or ""
    charge = charge_of(usage=usage, rate=rate, asked=asked, said=service_tier_said)
    if charge.rate is not rate:
        hold = replace(hold, attribution={**hold.attribution, "rate": rate_record(rate=charge.rate)})
    return Settlement(
        hold=hold,
        usage=usage,
        cost_nanousd=charge.cost_nanousd,
        reported_cost_nanousd=reported_cost_nanousd,
        service_tier=charge.service_tier,
        outcome=outcome,
        error_code=error_code,
        ttft_ms=ttft_ms,
        duration_ms=duration_ms,
        at=now,
        is_void=usage == NOTHING_USED,
    )


NOTHING_USED = Usage()
