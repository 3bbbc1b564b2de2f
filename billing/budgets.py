"""The one door for budgets: their writer, their overrides, their checks, and what gateways load of them."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from billing.models import ApiKey, Budget, Organisation, Team
from billing.records import RecordError, save_checked
from billing.windows import is_timezone
from routing.money import NANOUSD_MAX

PERCENT_MAX = 1_000
WARNING_PERCENTS_MAX = 10
WARNING_EMAILS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """A budget as gateways know it; `limit_at` says which of its two limits counts."""

    id: str
    owner: str
    limit_nanousd: int
    window: str
    timezone: str
    is_hard: bool
    is_clamped: bool = False
    is_crossed: bool = False
    override_limit_nanousd: int | None = None
    override_until: datetime | None = None


def put_budget(  # noqa: PLR0913 -- a budget has this many parts
    *,
    organisation_id: UUID | None = None,
    team_id: UUID | None = None,
    key_id: UUID | None = None,
    limit_nanousd: int,
    window: str,
    is_hard: bool,
    timezone: str = "UTC",
    is_clamped: bool | None = None,
    is_crossed: bool | None = None,
) -> UUID:
    """Limit what the owner (exactly one) spends in a window.

    An owner has one hard and one soft budget per window: where it is there, its limit and zone change, and
    whether it is clamped or crossed if that is given. Its override and its warnings stay.
    """
    if [organisation_id, team_id, key_id].count(None) != 2:
        raise RecordError("a budget belongs to exactly one organisation, team or key")
    owner = {"organisation_id": organisation_id, "team_id": team_id, "key_id": key_id}
    given = {
        "limit_nanousd": limit_nanousd,
        "timezone": timezone,
        "is_clamped": is_clamped,
        "is_crossed": is_crossed,
    }
    with transaction.atomic():
        found = Budget.objects.filter(**owner, window=window, is_hard=is_hard).order_by("id").first()
        record = found or Budget(**owner, window=window, is_hard=is_hard)
        changes = {name: value for name, value in given.items() if value is not None}
        if found is not None and all(getattr(found, name) == value for name, value in changes.items()):
            return found.id
        for name, value in changes.items():
            setattr(record, name, value)
        save_checked(record=record, check=check_budget)
        return record.id


def override_budget(
    *, budget_id: UUID, limit_nanousd: int, until: datetime, reason: str, now: datetime
) -> None:
    """Give the budget another limit, higher or lower, up to a moment; what is spent stays counted."""
    if not reason.strip():
        raise RecordError("an override needs a reason: say why the limit is another one meanwhile")
    if until.tzinfo is None:
        raise RecordError(f"the end {until} of an override needs a time zone")
    if until <= now:
        raise RecordError(f"an override ends in the future; {until.isoformat()} is over")
    with transaction.atomic():
        record = _existing(budget_id)
        record.override_limit_nanousd = limit_nanousd
        record.override_until = until
        record.override_reason = reason.strip()
        save_checked(record=record, check=check_budget)


def end_override(*, budget_id: UUID) -> None:
    """The budget's own limit counts again, from now on."""
    with transaction.atomic():
        record = _existing(budget_id)
        if record.override_until is None:
            return
        record.override_limit_nanousd, record.override_until, record.override_reason = None, None, ""
        save_checked(record=record, check=check_budget)


def limit_at(budget: Budget | BudgetView, *, now: datetime) -> int:
    """The limit that counts at that moment: the override's up to its end, else the budget's own."""
    return budget.limit_nanousd if override_at(budget, now=now) is None else _override_limit(budget)


def override_at(budget: Budget | BudgetView, *, now: datetime) -> datetime | None:
    """The end of the override that is in force at that moment; None: there is none."""
    until = budget.override_until
    return until if until is not None and now < until else None


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
    for limit in (record.limit_nanousd, record.override_limit_nanousd):
        if limit is not None and not 0 <= limit <= NANOUSD_MAX:
            raise RecordError(f"a limit of {limit} nano-USD is not between 0 and {NANOUSD_MAX}")
    if record.is_clamped and not record.is_hard:
        raise RecordError("only a hard budget shortens answers: make it hard, or do not clamp it")
    if record.is_crossed and (record.is_clamped or not record.is_hard):
        raise RecordError("only a hard budget that is not clamped may be crossed: choose one of the two")
    if (record.override_limit_nanousd is None) != (record.override_until is None):
        raise RecordError("an override is a limit and a moment at which it ends: give both or neither")
    check_warnings(
        percents=record.warning_percents, emails=record.warning_emails, webhook=record.warning_webhook
    )


def check_warnings(*, percents: object, emails: object, webhook: str) -> None:
    """Whether this says when to warn and whom; raises RecordError."""
    if not isinstance(percents, list) or not all(_is_percent(percent) for percent in percents):
        raise RecordError(f"warnings are whole percents of the limit, 1 to {PERCENT_MAX}, such as 80 and 100")
    if len(percents) > WARNING_PERCENTS_MAX:
        raise RecordError(f"a budget warns at {WARNING_PERCENTS_MAX} percents at most")
    if not isinstance(emails, list) or len(emails) > WARNING_EMAILS_MAX:
        raise RecordError(f"warnings go to a list of e-mail addresses, {WARNING_EMAILS_MAX} at most")
    for email in emails:
        try:
            validate_email(str(email))
        except ValidationError as error:
            raise RecordError(f"{email!r} is not an e-mail address") from error
    if webhook and urlsplit(webhook).scheme not in {"http", "https"}:
        raise RecordError(f"the webhook {webhook!r} is not a URL that begins with http:// or https://")


def _is_percent(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= PERCENT_MAX


def _existing(budget_id: UUID) -> Budget:
    found = Budget.objects.select_for_update().filter(id=budget_id).first()
    if found is None:
        raise RecordError(f"there is no budget {budget_id}")
    return found


def _override_limit(budget: Budget | BudgetView) -> int:
    assert budget.override_limit_nanousd is not None, "an override has a limit and an end"
    return budget.override_limit_nanousd


def _budget_view(*, budget: Budget, owner: Organisation | Team | ApiKey) -> BudgetView:
    return BudgetView(
        id=str(budget.id),
        owner=f'{_kind(owner)} "{owner.name}"',
        limit_nanousd=budget.limit_nanousd,
        window=budget.window,
        timezone=budget.timezone,
        is_hard=budget.is_hard,
        is_clamped=budget.is_clamped,
        is_crossed=budget.is_crossed,
        override_limit_nanousd=budget.override_limit_nanousd,
        override_until=budget.override_until,
    )


def _kind(owner: Organisation | Team | ApiKey) -> str:
    if isinstance(owner, Organisation):
        return "organisation"
    return "team" if isinstance(owner, Team) else "key"
