"""Words of the refusals that routing and the ledger cause: what was wrong, and what to do."""

import math
from collections.abc import Collection, Sequence
from datetime import datetime

from billing.amounts import plain_usd_text, usd_text
from billing.entries import BudgetExceededError, WindowClaim
from gateway.errors import (
    BudgetHeldError,
    ClusterAsleepError,
    ContextLengthError,
    CrossedBudgetError,
    GatewayError,
    InsufficientQuotaError,
    ModelNotPricedError,
    NoHealthyClusterError,
    OverloadedError,
    PermissionDeniedError,
    UnsupportedError,
)
from routing.eligibility import RESIDENCY, TAGS
from routing.spilling import warm_in_s
from routing.types import Decision, Exclusion, Placement, RequestProfile

PLACEMENT_REASONS = frozenset({RESIDENCY, TAGS})
FINAL_REASONS = frozenset({"context_window", "unpriced"}) | PLACEMENT_REASONS
QUOTE = '"'
WINDOW_WORDS = {"day": "daily", "week": "weekly", "month": "monthly", "total": "total"}
IN_DOUBT = "is held by attempts in doubt, whose gateway died"
EXPIRED_NAMED_MAX = 3
FULL_REASONS = frozenset({"in_flight_max", "queue_depth", "latency"})


def no_candidate_refusal(decision: Decision, *, profile: RequestProfile, now_s: float) -> GatewayError:
    """Why no deployment may serve the request. A reason that the caller can act on comes first."""
    # A disabled cluster is as good as none: it will not be there for the next try either.
    excluded = [exclusion for exclusion in decision.exclusions if exclusion.reason != "disabled"]
    reasons = {exclusion.reason for exclusion in excluded}
    if profile.placement is None or not reasons & PLACEMENT_REASONS:
        return _refusal(decision, excluded, profile, now_s)
    rules = _placement_words(profile.placement, reasons=reasons)
    if reasons <= PLACEMENT_REASONS:
        return PermissionDeniedError(
            f"No cluster that serves `{decision.model}` may serve this request, since {rules}. "
            f"Add one that may, or change the rule in Admin.",
            param="model",
        )
    error = _refusal(decision, excluded, profile, now_s)
    error.message = f"{error.message} Mind that {rules}."
    return error


def _placement_words(placement: Placement, *, reasons: Collection[str]) -> str:
    """The rules on places that excluded a cluster, and whose they are."""
    words = []
    if RESIDENCY in reasons and placement.regions is not None:
        allowed = ", ".join(sorted(placement.regions))
        only = f"allows only the regions {allowed}" if allowed else "have no allowed region in common"
        words.append(f"{placement.regions_by} {only}")
    if TAGS in reasons and placement.required_tags:
        words.append(f"{placement.tags_by} requires the tags {', '.join(sorted(placement.required_tags))}")
    if TAGS in reasons and placement.forbidden_tags:
        words.append(f"{placement.tags_by} forbids the tags {', '.join(sorted(placement.forbidden_tags))}")
    return "; ".join(words)


def _refusal(
    decision: Decision, excluded: Sequence[Exclusion], profile: RequestProfile, now_s: float
) -> GatewayError:
    reasons = {exclusion.reason for exclusion in excluded}
    model = decision.model
    lacking = sorted(reason.removeprefix("lacks_") for reason in reasons if reason.startswith("lacks_"))
    # Where every reason lies in the request itself, the same request never succeeds: no retry helps.
    is_final = bool(reasons) and all(r in FINAL_REASONS or r.startswith("lacks_") for r in reasons)
    if is_final and "context_window" in reasons:
        return ContextLengthError(_too_long_words(decision, excluded, profile), param="messages")
    if is_final and lacking:
        return UnsupportedError(f"No deployment of `{model}` can do this: it lacks {', '.join(lacking)}.")
    if is_final:
        return ModelNotPricedError(
            f"`{model}` has no price, and a hard budget binds this key: add one in Admin > Prices.",
            param="model",
        )
    if reasons & FULL_REASONS:
        return OverloadedError(f"Every cluster that serves `{model}` is full ({listed(decision)}).")
    left_s = warm_in_s(decision, now_s=now_s)
    if left_s is not None:
        return ClusterAsleepError(
            f"What serves `{model}` is asleep and is being woken ({listed(decision)}). It should answer in "
            f"about {math.ceil(left_s)} s: send the request again then.",
            retry_after_s=left_s,
        )
    words = f"No cluster can serve `{model}` now ({listed(decision)})."
    return NoHealthyClusterError(" ".join([words, *_expired_certificates(excluded)]))


def _expired_certificates(excluded: Sequence[Exclusion]) -> Sequence[str]:
    """What no try again helps against: whose certificate ended, and when, as the inventory says it."""
    return sorted(
        {
            f"{place.health_reason[0].upper()}{place.health_reason[1:]}."
            for place in (each.deployment for each in excluded)
            if f"certificate of {place.cluster} expired" in place.health_reason
        }
    )[:EXPIRED_NAMED_MAX]


def _too_long_words(decision: Decision, excluded: Sequence[Exclusion], profile: RequestProfile) -> str:
    windows: dict[str, int] = {}
    for each in excluded:
        if each.reason == "context_window":
            place = each.deployment
            windows[place.model] = max(windows.get(place.model, 0), place.context_window)
    what, advice = "The prompt is", "shorten it"
    if profile.output_tokens_max:
        prompt = f"The prompt (about {profile.prompt_tokens_estimate} tokens)"
        what = f"{prompt} and max_tokens ({profile.output_tokens_max}) together are"
        advice = "shorten one of them"
    if len(windows) == 1:
        window = max(windows.values())
        return f"{what} longer than the context window of `{decision.model}` ({window} tokens); {advice}."
    listed_windows = ", ".join(f"`{model}` {window}" for model, window in sorted(windows.items()))
    return (
        f"{what} longer than every context window behind `{decision.model}`, fallbacks included "
        f"({listed_windows} tokens); {advice}."
    )


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


def listed(decision: Decision) -> str:
    """The clusters and why each is out; the first ten."""
    parts = [f"{e.deployment.cluster}: {e.reason}" for e in decision.exclusions[:10]]
    return ", ".join(parts) or "none is registered"
