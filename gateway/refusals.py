"""Words of the refusals that routing and the ledger cause: what was wrong, and what to do."""

from datetime import datetime

from billing.amounts import plain_usd_text, usd_text
from billing.entries import BudgetExceededError, WindowClaim
from gateway.errors import (
    BudgetHeldError,
    ContextLengthError,
    CrossedBudgetError,
    GatewayError,
    InsufficientQuotaError,
    ModelNotPricedError,
    NoHealthyClusterError,
    OverloadedError,
    UnsupportedError,
)
from routing.types import Decision

FINAL_REASONS = frozenset({"context_window", "unpriced"})
QUOTE = '"'
WINDOW_WORDS = {"day": "daily", "week": "weekly", "month": "monthly", "total": "total"}
IN_DOUBT = "is held by attempts in doubt, whose gateway died"
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


def budget_refusal(error: BudgetExceededError) -> GatewayError:
    """Which budget, how much, until when, and what to do.

    What runs now may leave room when it ends: where that would do, the same request may be sent again. What
    attempts in doubt hold comes free by an operator's hand alone: no retry helps.
    """
    claim = error.claim
    if error.is_temporary:
        return BudgetHeldError(
            f"{_named(claim)} has no room at the moment for this request, which {_needs(error)}: "
            f"{_sums(error)}. What those do not use comes free when they end: send it again in a second."
        )
    if claim.is_crossed:
        return crossed_budget_refusal(error)
    return InsufficientQuotaError(
        f"{_named(claim)} has no room for this request, which {_needs(error)}: {_sums(error)}. "
        f"{_advice(error)}"
    )


def crossed_budget_refusal(error: BudgetExceededError) -> CrossedBudgetError:
    """In LiteLLM's words, whose clients look for them; `Team=` names the team whose budget it is."""
    claim = error.claim
    kind, _, name = claim.owner.partition(" ")
    team = f"Team={name.strip(QUOTE)} " if kind == "team" else ""
    path = "" if kind == "organisation" else f" with POST /{kind}/update or"
    until = f"It starts anew at {claim.ends_at.isoformat()}; or raise" if claim.ends_at else "Raise"
    return CrossedBudgetError(
        f"Budget has been exceeded! {team}Current cost: {plain_usd_text(error.used_nanousd)}, Max budget: "
        f"{plain_usd_text(claim.limit_nanousd)}. {until} max_budget of {claim.owner}{path} "
        f"in Admin > Budgets."
        + (f" Of it {plain_usd_text(error.in_doubt_nanousd)} {IN_DOUBT}." if error.is_in_doubt else "")
    )


def _named(claim: WindowClaim) -> str:
    window = f"{WINDOW_WORDS[claim.window]} " if claim.window in WINDOW_WORDS else ""
    return f"The {window}budget of {claim.owner}"


def _needs(error: BudgetExceededError) -> str:
    needed = usd_text(error.needed_nanousd)
    if error.claim.is_crossed:
        return "needs something to be left"
    if error.output_tokens_min is not None:
        return f"needs at least {needed} for its prompt and {error.output_tokens_min} tokens of answer"
    return f"may cost up to {needed}"


def _sums(error: BudgetExceededError) -> str:
    spent, limit = usd_text(error.spent_nanousd), usd_text(error.claim.limit_nanousd)
    running, in_doubt = error.held_nanousd - error.in_doubt_nanousd, error.in_doubt_nanousd
    parts = [f"{spent} of {limit} is spent"]
    if running > 0:
        parts.append(f"{usd_text(running)} is held by requests that run")
    if in_doubt:
        parts.append(f"{usd_text(in_doubt)} {IN_DOUBT}")
    return ", and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _advice(error: BudgetExceededError) -> str:
    """Until when this counts, and what to do."""
    claim = error.claim
    choices = ["raise it in Admin > Budgets"]
    if error.is_in_doubt:
        choices.append("have an operator end those attempts (manage.py reconcile_ledger --settle-in-doubt)")
    if error.spent_nanousd < claim.limit_nanousd:
        choices.insert(0, "send less" if error.output_tokens_min is not None else "lower max_tokens")
    if claim.ends_at is not None:
        choices.insert(0, f"wait until it starts anew at {_moment(claim.ends_at)}")
    advice = ", or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    until = claim.override_until
    override = "" if until is None else f"Its limit is an override that ends at {_moment(until)}. "
    if claim.ends_at is None:
        return f"{override}It never starts anew: {advice}."
    return f"{override}{advice[0].upper()}{advice[1:]}."


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="minutes")


def _listed(decision: Decision) -> str:
    parts = [f"{e.deployment.cluster}: {e.reason}" for e in decision.exclusions[:10]]
    return ", ".join(parts) or "none is registered"
