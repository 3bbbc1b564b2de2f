"""The one door for budgets: their writer, their checks, and what gateways load of them."""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from billing.models import ApiKey, Budget, Organisation, Team
from billing.records import RecordError, save_checked
from billing.windows import is_timezone
from routing.money import NANOUSD_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    id: str
    owner: str
    limit_nanousd: int
    window: str
    timezone: str
    is_hard: bool


def put_budget(
    *,
    organisation_id: UUID | None = None,
    team_id: UUID | None = None,
    key_id: UUID | None = None,
    limit_nanousd: int,
    window: str,
    is_hard: bool,
    timezone: str = "UTC",
) -> UUID:
    """Limit what the owner (exactly one) spends in a window.

    An owner has one hard and one soft budget per window: where it is there, its limit and zone change.
    """
    if [organisation_id, team_id, key_id].count(None) != 2:
        raise RecordError("a budget belongs to exactly one organisation, team or key")
    owner = {"organisation_id": organisation_id, "team_id": team_id, "key_id": key_id}
    with transaction.atomic():
        found = Budget.objects.filter(**owner, window=window, is_hard=is_hard).order_by("id").first()
        if found is None:
            found = Budget(**owner, window=window, is_hard=is_hard)
        elif (found.limit_nanousd, found.timezone) == (limit_nanousd, timezone):
            return found.id
        found.limit_nanousd, found.timezone = limit_nanousd, timezone
        save_checked(record=found, check=check_budget)
        return found.id


def load_budgets() -> dict[UUID, list[BudgetView]]:
    """Every budget by the id of its owner; one query."""
    budgets: dict[UUID, list[BudgetView]] = {}
    for budget in Budget.objects.select_related("organisation", "team", "key").order_by("id"):
        owner = budget.organisation or budget.team or budget.key
        assert owner is not None
        budgets.setdefault(owner.id, []).append(_budget_view(budget=budget, owner=owner))
    return budgets


def check_budget(record: Budget) -> None:
    if not is_timezone(record.timezone):
        raise RecordError(f"unknown time zone {record.timezone!r}: it is a name such as Europe/Berlin")
    if not 0 <= record.limit_nanousd <= NANOUSD_MAX:
        raise RecordError(f"a limit of {record.limit_nanousd} nano-USD is not between 0 and {NANOUSD_MAX}")


def _budget_view(*, budget: Budget, owner: Organisation | Team | ApiKey) -> BudgetView:
    return BudgetView(
        id=str(budget.id),
        owner=f'{_kind(owner)} "{owner.name}"',
        limit_nanousd=budget.limit_nanousd,
        window=budget.window,
        timezone=budget.timezone,
        is_hard=budget.is_hard,
    )


def _kind(owner: Organisation | Team | ApiKey) -> str:
    if isinstance(owner, Organisation):
        return "organisation"
    return "team" if isinstance(owner, Team) else "key"
