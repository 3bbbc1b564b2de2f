"""What in the books asks for attention now: budgets close to their limit, attempts whose end is unknown."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connections

from billing.budgets import limit_at
from billing.models import Budget, BudgetWindow
from billing.windows import window_of

CLOSE_PERCENT = 80
PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """A budget and what its current window has spent and holds."""

    id: str
    owner: str
    window: str
    is_hard: bool
    limit_nanousd: int
    spent_nanousd: int
    held_nanousd: int

    @property
    def bound_nanousd(self) -> int:
        """Spent or promised: what the limit is compared with."""
        return self.spent_nanousd + self.held_nanousd

    @property
    def is_full(self) -> bool:
        return self.bound_nanousd >= self.limit_nanousd


def load_close_budgets(*, now: datetime) -> tuple[BudgetUse, ...]:
    """The budgets of which at least 80 % is spent or held, fullest first; two queries."""
    budgets = list(Budget.objects.select_related("organisation", "team", "key"))
    window_ids = {budget.id: _window_id(budget=budget, now=now) for budget in budgets}
    windows = BudgetWindow.objects.in_bulk(list(window_ids.values()))
    uses = (
        _use(budget=budget, window=windows[window_ids[budget.id]], now=now)
        for budget in budgets
        if window_ids[budget.id] in windows
    )
    close = (use for use in uses if use.bound_nanousd * PERCENT >= use.limit_nanousd * CLOSE_PERCENT)
    return tuple(sorted(close, key=lambda use: (-_fullness(use), use.owner, use.id)))


def load_unwarned_owners() -> tuple[str, ...]:
    """Whose budgets warn nobody: no address and no webhook is named; one query."""
    unwarned = Budget.objects.filter(warning_emails=[], warning_webhook="")
    return tuple(sorted(_owner(one) for one in unwarned.select_related("organisation", "team", "key")))


def count_in_doubt() -> int:
    """Attempts of processes that died: their money stays held until each is decided."""
    # In the words of the index reservation_in_doubt, as literals: SQLite matches no parameter with an
    # index's condition, and would read the closed millions.
    sql = "SELECT COUNT(*) FROM billing_reservation WHERE state = 'in_doubt'"
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def _window_id(*, budget: Budget, now: datetime) -> str:
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    return f"{budget.id}:{span.key}"


def _use(*, budget: Budget, window: BudgetWindow, now: datetime) -> BudgetUse:
    return BudgetUse(
        id=str(budget.id),
        owner=_owner(budget),
        window=budget.window,
        is_hard=budget.is_hard,
        limit_nanousd=limit_at(budget, now=now),
        spent_nanousd=window.spent_nanousd,
        held_nanousd=window.held_nanousd,
    )


def _owner(budget: Budget) -> str:
    if budget.organisation is not None:
        return f"organisation {budget.organisation.name}"
    if budget.team is not None:
        return f"team {budget.team.name}"
    assert budget.key is not None
    return f"key {budget.key.name}"


def _fullness(use: BudgetUse) -> int:
    return use.bound_nanousd * PERCENT // max(use.limit_nanousd, 1)
