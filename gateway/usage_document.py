"""The answer of GET /v1/usage: a key's own spend, what its budgets have left, and its limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qsl

from ninja import Schema

from billing import balances
from billing.amounts import plain_usd_text
from billing.balances import BudgetBalance, KeySpend, Spend
from billing.limits import LimitView
from billing.periods import Period, PeriodError, period_of
from billing.principals import Principal
from billing.reports import ReportRow
from billing.rollup_rows import ReportError
from gateway.errors import InvalidRequestError

PARAMETERS = ("from", "to", "group")


class SpendSums(Schema):
    """`requests` counts attempts: one that was sent anew elsewhere counts each time."""

    cost_usd: str
    requests: int
    input_tokens: int
    output_tokens: int


class UsageSums(SpendSums):
    name: str


class UsageKey(Schema):
    id: str
    name: str
    prefix: str
    team: str
    organisation: str
    expires_at: datetime | None


class UsageSpend(Schema):
    """Of the UTC day, of the UTC month, and in all."""

    today: SpendSums
    this_month: SpendSums
    total: SpendSums


class BudgetOwner(Schema):
    kind: Literal["organisation", "team", "key"]
    name: str


class BudgetOverride(Schema):
    limit_usd: str
    until: datetime
    reason: str


class UsageBudget(Schema):
    """Of budgets shared with other keys only what is left is told; then the other amounts are null.

    `in_doubt_usd` is the part of `held_usd` that stays held until an operator ends the attempts of a process
    that died.
    """

    owner: BudgetOwner
    window: Literal["day", "week", "month", "total"]
    kind: Literal["hard", "soft"]
    clamped: bool
    limit_usd: str | None
    spent_usd: str | None
    held_usd: str | None
    in_doubt_usd: str | None
    remaining_usd: str
    starts_at: datetime
    resets_at: datetime | None
    override: BudgetOverride | None


class UsageLimit(Schema):
    """Of the key, its team or a model; null: no limit."""

    scope: str
    model: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None


class UsageDocument(Schema):
    """Amounts are exact decimal texts in USD. `usage` is there where `group` was asked for."""

    object: Literal["usage"] = "usage"
    key: UsageKey
    spend: UsageSpend
    budgets: list[UsageBudget]
    limits: list[UsageLimit]
    usage: list[UsageSums] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """What the query string asks for beside the balances."""

    group: str
    period: Period


def read_question(*, query: bytes, now: datetime) -> UsageQuestion | None:
    """`?group=day|model&from=2026-11-01&to=2026-11-30`; raises InvalidRequestError."""
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    if unknown := sorted(set(given) - set(PARAMETERS)):
        raise InvalidRequestError(f"There is no `{unknown[0]}` here: ask for `group`, `from` and `to`.")
    if not given:
        return None
    group = given.get("group", "day")
    if group not in balances.GROUPS:
        raise InvalidRequestError("`group` is `day` or `model`.", param="group")
    try:
        period = period_of(
            name="custom", from_text=given.get("from", ""), to_text=given.get("to", ""), now=now
        )
    except PeriodError as error:
        raise InvalidRequestError(f"{error}.", param="from") from error
    return UsageQuestion(group=group, period=period)


def load_usage(*, principal: Principal, question: UsageQuestion | None, now: datetime) -> dict[str, Any]:
    """Blocks; at most eleven queries. Raises InvalidRequestError."""
    document: dict[str, Any] = {
        "object": "usage",
        "key": _key(principal),
        "spend": _key_spend(balances.key_spend(key_id=principal.key_id, now=now)),
        "budgets": [_budget(balance) for balance in balances.budget_balances(principal=principal, now=now)],
        "limits": _limits(principal),
    }
    if question is not None:
        document["usage"] = [_row(row) for row in _rows(principal, question)]
    return document


def _rows(principal: Principal, question: UsageQuestion) -> Sequence[ReportRow]:
    period = question.period
    try:
        return balances.key_usage(
            key_id=principal.key_id, group=question.group, from_at=period.from_at, to_at=period.to_at
        )
    except ReportError as error:
        raise InvalidRequestError(f"{error}.", param="from") from error


def _key(principal: Principal) -> dict[str, Any]:
    return {
        "id": principal.key_id,
        "name": principal.key_name,
        "prefix": principal.prefix,
        "team": principal.team,
        "organisation": principal.organisation,
        "expires_at": principal.expires_at,
    }


def _key_spend(spend: KeySpend) -> dict[str, Any]:
    return {"today": _sums(spend.today), "this_month": _sums(spend.this_month), "total": _sums(spend.total)}


def _sums(spend: Spend | ReportRow) -> dict[str, Any]:
    return {
        "cost_usd": plain_usd_text(spend.cost_nanousd),
        "requests": spend.requests,
        "input_tokens": spend.input_tokens,
        "output_tokens": spend.output_tokens,
    }


def _row(row: ReportRow) -> dict[str, Any]:
    return {"name": row.name, **_sums(row)}


def _budget(balance: BudgetBalance) -> dict[str, Any]:
    override = balance.override
    return {
        "owner": {"kind": balance.owner_kind, "name": balance.owner_name},
        "window": balance.window,
        "kind": "hard" if balance.is_hard else "soft",
        "clamped": balance.is_clamped,
        "limit_usd": _usd(balance.limit_nanousd),
        "spent_usd": _usd(balance.spent_nanousd),
        "held_usd": _usd(balance.held_nanousd),
        "in_doubt_usd": _usd(balance.in_doubt_nanousd),
        "remaining_usd": plain_usd_text(balance.remaining_nanousd),
        "starts_at": balance.starts_at,
        "resets_at": balance.resets_at,
        "override": None
        if override is None
        else {
            "limit_usd": plain_usd_text(override.limit_nanousd),
            "until": override.until,
            "reason": override.reason,
        },
    }


def _usd(nanousd: int | None) -> str | None:
    return None if nanousd is None else plain_usd_text(nanousd)


def _limits(principal: Principal) -> list[dict[str, Any]]:
    allowed = principal.allowed_models
    limits = [_limit(view, model=None) for view in principal.limits]
    for model, views in sorted(principal.model_limits.items()):
        if allowed is None or model in allowed:
            limits += [_limit(view, model=model) for view in views]
    return limits


def _limit(view: LimitView, *, model: str | None) -> dict[str, Any]:
    return {
        "scope": view.label,
        "model": model,
        "requests_per_minute": view.rpm_max,
        "tokens_per_minute": view.tpm_max,
        "concurrent_requests": view.concurrent_max,
    }
