"""What one key has spent, and what its budgets have left: for the key's own holder to see."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import Q, Sum

from billing.budgets import BudgetView, limit_at, override_at
from billing.doubt import load_in_doubt
from billing.models import Budget, BudgetWindow, SpendRollup
from billing.principals import Principal
from billing.reports import ReportRow, spend_report
from billing.rollup_rows import ReportFilter, latest_folded
from billing.windows import WindowSpan, window_of

GROUPS = ("day", "model")
SUMS = ("requests", "input_tokens", "output_tokens", "cost_nanousd")
OWN_KIND = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Sums of attempts: one that was sent anew elsewhere counts each time."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpend:
    """Up to now: of the UTC day, of the UTC month, and in all."""

    today: Spend
    this_month: Spend
    total: Spend


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another limit up to a moment, and why."""

    limit_nanousd: int
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetBalance:
    """A budget that binds the key, in its present window. `owner_kind`: organisation | team | key.

    What others spent of a shared budget is no business of the key's: it gets what is left, the rest is None.
    """

    owner_kind: str
    owner_name: str
    window: str
    is_hard: bool
    is_clamped: bool
    starts_at: datetime
    resets_at: datetime | None
    remaining_nanousd: int
    limit_nanousd: int | None
    spent_nanousd: int | None
    held_nanousd: int | None
    # The part of it that no running request will free: attempts of a process that died.
    in_doubt_nanousd: int | None
    override: Override | None


def key_spend(*, key_id: str, now: datetime) -> KeySpend:
    """Right to the last settled request; three queries, of the rollups alone."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begins = {"today": today, "this_month": today.replace(day=1), "total": None}
    rows = SpendRollup.objects.filter(key_id=key_id)
    hours = rows.filter(period=SpendRollup.Period.HOUR)
    folded = latest_folded()
    pieces = [hours]
    if folded is not None:
        days = rows.filter(period=SpendRollup.Period.DAY, starts_at__lt=folded)
        pieces = [days, hours.filter(starts_at__gte=folded)]
    sums = {
        f"{name}_{column}": Sum(column, filter=Q() if begin is None else Q(starts_at__gte=begin), default=0)
        for name, begin in begins.items()
        for column in SUMS
    }
    found = [piece.aggregate(**sums) for piece in pieces]
    return KeySpend(**{name: _spend(found, name=name) for name in begins})


def key_usage(*, key_id: str, group: str, from_at: datetime, to_at: datetime) -> tuple[ReportRow, ...]:
    """The key's own sums by day or model; raises ReportError. At most five queries."""
    assert group in GROUPS
    report = spend_report(group=group, from_at=from_at, to_at=to_at, only=ReportFilter(key_id=key_id))
    return report.rows


def budget_balances(*, principal: Principal, now: datetime) -> tuple[BudgetBalance, ...]:
    """Each budget that binds the key; three queries, or none."""
    spans = {
        view.id: window_of(window=view.window, timezone=view.timezone, now=now) for view in principal.budgets
    }
    if not spans:
        return ()
    windows = BudgetWindow.objects.in_bulk([f"{budget_id}:{span.key}" for budget_id, span in spans.items()])
    reasons = dict(Budget.objects.filter(id__in=list(spans)).values_list("id", "override_reason"))
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        in_doubt = load_in_doubt(cursor)
    texts = {str(budget_id): reason for budget_id, reason in reasons.items()}
    return tuple(
        _balance(
            view,
            span=spans[view.id],
            window=windows.get(f"{view.id}:{spans[view.id].key}"),
            in_doubt_nanousd=in_doubt.get(f"{view.id}:{spans[view.id].key}", 0),
            reason=texts.get(view.id, ""),
            now=now,
        )
        for view in principal.budgets
    )


def _spend(found: Iterable[Mapping[str, Any]], *, name: str) -> Spend:
    pieces = list(found)
    # PostgreSQL sums big integers as decimals.
    return Spend(**{column: sum(int(piece[f"{name}_{column}"]) for piece in pieces) for column in SUMS})


def _balance(
    view: BudgetView,
    *,
    span: WindowSpan,
    window: BudgetWindow | None,
    in_doubt_nanousd: int,
    reason: str,
    now: datetime,
) -> BudgetBalance:
    kind, _, name = view.owner.partition(" ")
    limit = limit_at(view, now=now)
    spent = 0 if window is None else window.spent_nanousd
    held = 0 if window is None else window.held_nanousd
    until = override_at(view, now=now)
    is_own = kind == OWN_KIND
    override = None
    if is_own and until is not None:
        override = Override(limit_nanousd=limit, until=until, reason=reason)
    return BudgetBalance(
        owner_kind=kind,
        owner_name=name.strip('"'),
        window=view.window,
        is_hard=view.is_hard,
        is_clamped=view.is_clamped,
        starts_at=span.starts_at,
        resets_at=span.ends_at,
        remaining_nanousd=max(limit - spent - held, 0),
        limit_nanousd=limit if is_own else None,
        spent_nanousd=spent if is_own else None,
        held_nanousd=held if is_own else None,
        in_doubt_nanousd=in_doubt_nanousd if is_own else None,
        override=override,
    )
