"""Words of the refusals that routing and the ledger cause: what was wrong, and what to do."""

from billing.entries import BudgetExceededError
from gateway.errors import (
    ContextLengthError,
    GatewayError,
    InsufficientQuotaError,
    ModelNotPricedError,
    NoHealthyClusterError,
    OverloadedError,
    UnsupportedError,
)
from routing.money import NANOUSD_PER_USD
from routing.types import Decision

FINAL_REASONS = frozenset({"context_window", "unpriced"})
FULL_REASONS = frozenset({"in_flight_max", "queue_depth", "latency"})


def no_candidate_refusal(decision: Decision) -> GatewayError:
    """Why no deployment may serve the request. A reason that the caller can act on comes first."""
    # A disabled cluster is as good as none: it will not be there for the next try either.
    excluded = [exclusion for exclusion in decision.exclusions if exclusion.reason != "disabled"]
    reasons = {exclusion.reason for exclusion in excluded}
    model = decision.model
    lacking = sorted(reason.removeprefix("lacks_") for reason in reasons if reason.startswith("lacks_"))
    # Where every reason lies in the request itself, the same request never succeeds: no retry helps.
    is_final = bool(reasons) and all(r in FINAL_REASONS or r.startswith("lacks_") for r in reasons)
    if is_final and "context_window" in reasons:
        windows = max(e.deployment.context_window for e in excluded if e.reason == "context_window")
        return ContextLengthError(
            f"The prompt is longer than the context window of `{model}` ({windows} tokens); shorten it.",
            param="messages",
        )
    if is_final and lacking:
        return UnsupportedError(f"No deployment of `{model}` can do this: it lacks {', '.join(lacking)}.")
    if is_final:
        return ModelNotPricedError(
            f"`{model}` has no price, and a hard budget binds this key: add one in Admin > Prices.",
            param="model",
        )
    if reasons & FULL_REASONS:
        return OverloadedError(f"Every cluster that serves `{model}` is full ({_listed(decision)}).")
    return NoHealthyClusterError(f"No cluster can serve `{model}` now ({_listed(decision)}).")


def budget_refusal(error: BudgetExceededError) -> InsufficientQuotaError:
    """Which budget, how much, until when, and what to do."""
    claim = error.claim
    until = f"until {claim.ends_at.isoformat()}" if claim.ends_at else "for good"
    return InsufficientQuotaError(
        f"The budget of {claim.owner} ({_usd(claim.limit_nanousd)}) has no room for this request, which may "
        f"cost up to {_usd(error.needed_nanousd)}, {until}. Lower max_tokens, or raise it in Admin > Budgets."
    )


def _listed(decision: Decision) -> str:
    parts = [f"{e.deployment.cluster}: {e.reason}" for e in decision.exclusions[:10]]
    return ", ".join(parts) or "none is registered"


def _usd(nanousd: int) -> str:
    whole, part = divmod(nanousd, NANOUSD_PER_USD)
    return f"${whole}.{part:09d}".rstrip("0").rstrip(".")
