"""Keys and teams as a management API reads and changes them: values out, changes in through the doors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from billing import budgets, keys, reports
from billing.models import ApiKey, Budget, BudgetWindow, Team
from billing.records import RecordError
from billing.rollup_rows import ReportFilter
from billing.windows import window_of

DIGEST_CHARACTERS = 64
FOREIGN_KEY_CHARACTERS = (20, 200)
FOREIGN_PREFIX_CHARACTERS = 6
SPEND_SPAN = timedelta(days=1099)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRecord:
    """The one budget of its kind that an owner has; `spent_nanousd` is of the window that runs now."""

    limit_nanousd: int
    # The limit that counts now: that of an override, while there is one.
    limit_now_nanousd: int
    window: str
    spent_nanousd: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key without its secret; `token` is the SHA-256 that it is known by, in hexadecimal."""

    id: UUID
    token: str
    prefix: str
    name: str
    team_id: UUID
    team: str
    organisation: str
    allowed_models: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    rpm_max: int | None
    tpm_max: int | None
    concurrent_max: int | None
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    hard: BudgetRecord | None
    soft: BudgetRecord | None

    def is_live(self, *, now: datetime) -> bool:
        is_over = self.expires_at is not None and self.expires_at <= now
        return not is_over and (self.revoked_at is None or self.revoked_at > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRecord:
    """A team and its budgets."""

    id: UUID
    name: str
    organisation: str
    rpm_max: int | None
    tpm_max: int | None
    concurrent_max: int | None
    created_at: datetime
    hard: BudgetRecord | None
    soft: BudgetRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChange:
    """The one budget of a kind that an owner is to have from now on; without a limit it is to have none."""

    is_hard: bool
    limit_nanousd: int | None
    window: str
    # Of one that is made; one that is there keeps its rule.
    is_crossed: bool = False


# --- Writers. Each is one transaction; `changes` are columns of the row, and RecordError says what is wrong.


@transaction.atomic
def make_key(
    *,
    team_id: UUID,
    name: str,
    key: str | None,
    changes: Mapping[str, Any],
    budget_changes: Sequence[BudgetChange] = (),
) -> tuple[UUID, str]:
    """A new key's id and its secret; `key` is a secret that was made elsewhere and goes on being used."""
    if key is None:
        issued = keys.issue_key(team_id=team_id, name=name)
        change_key(key_id=issued.id, changes=changes, budget_changes=budget_changes)
        return issued.id, issued.key
    _check_foreign(key)
    digest = keys.digest_key(key.encode()).hex()
    if ApiKey.objects.filter(digest=digest).exists():
        raise RecordError("this key exists already: choose another, or change that one")
    # The start of it is shown to tell keys apart; what is left stays beyond guessing.
    record = ApiKey(
        team_id=team_id, name=name, prefix=key[:FOREIGN_PREFIX_CHARACTERS], digest=digest, **changes
    )
    keys.save_record(record=record)
    _set_budgets(owner={"key_id": record.id}, budget_changes=budget_changes)
    return record.id, key


@transaction.atomic
def change_key(
    *, key_id: UUID, changes: Mapping[str, Any], budget_changes: Sequence[BudgetChange] = ()
) -> None:
    _change(ApiKey.objects.get(id=key_id), changes=changes)
    _set_budgets(owner={"key_id": key_id}, budget_changes=budget_changes)


@transaction.atomic
def end_keys(*, key_ids: Sequence[UUID], now: datetime) -> None:
    """Delete keys that never spent anything; those that the ledger knows are revoked and stay to be read."""
    for record in ApiKey.objects.filter(id__in=key_ids).order_by("id"):
        if keys.has_spent(record=record):
            keys.revoke_key(key_id=record.id, now=now)
        else:
            keys.delete_records(records=[record])


@transaction.atomic
def make_team(
    *,
    organisation: str,
    name: str,
    changes: Mapping[str, Any],
    budget_changes: Sequence[BudgetChange] = (),
) -> UUID:
    if Team.objects.filter(name=name).exists():
        raise RecordError(f"the team {name!r} exists already")
    organisation_id = keys.put_organisation(name=organisation)
    record = Team(organisation_id=organisation_id, name=name, **changes)
    keys.save_record(record=record)
    _set_budgets(owner={"team_id": record.id}, budget_changes=budget_changes)
    return record.id


@transaction.atomic
def change_team(
    *, team_id: UUID, changes: Mapping[str, Any], budget_changes: Sequence[BudgetChange] = ()
) -> None:
    _change(Team.objects.get(id=team_id), changes=changes)
    _set_budgets(owner={"team_id": team_id}, budget_changes=budget_changes)


# --- Readers.


def find_key(*, given: str, now: datetime) -> KeyRecord | None:
    """The key that this is the secret of, or the SHA-256 in hexadecimal."""
    is_digest = len(given) == DIGEST_CHARACTERS and all(c in "0123456789abcdef" for c in given)
    digest = given if is_digest else keys.digest_key(given.encode()).hex()
    found = ApiKey.objects.select_related("team__organisation").filter(digest=digest).first()
    return None if found is None else _key_record(found, now=now)


def get_key(*, key_id: UUID, now: datetime) -> KeyRecord:
    return _key_record(ApiKey.objects.select_related("team__organisation").get(id=key_id), now=now)


def find_keys_named(*, name: str, now: datetime) -> list[KeyRecord]:
    """The keys of that name which are not revoked."""
    found = ApiKey.objects.select_related("team__organisation").filter(name=name, revoked_at=None)
    return [_key_record(record, now=now) for record in found.order_by("id")]


def find_team(*, given: str, now: datetime) -> TeamRecord | None:
    """The team with that id or name."""
    team_id = _uuid(given)
    teams = Team.objects.select_related("organisation")
    found = teams.filter(id=team_id).first() if team_id else None
    found = found or teams.filter(name=given).first()
    return None if found is None else _team_record(found, now=now)


def put_team(*, organisation: str, name: str) -> UUID:
    """The team of that name, made in that organisation where it is new."""
    found = keys.find_team(name=name)
    if found is not None:
        return found[0]
    return keys.put_team(organisation_id=keys.put_organisation(name=organisation), name=name)


def spend_nanousd(*, key: KeyRecord, now: datetime) -> int:
    """What the hard budget counts; without one all that the key spent in three years."""
    if key.hard is not None:
        return key.hard.spent_nanousd
    only = ReportFilter(key_id=str(key.id))
    report = reports.spend_report(
        group="key", from_at=now - SPEND_SPAN, to_at=now + timedelta(seconds=1), only=only
    )
    return report.totals.cost_nanousd


def _change(record: ApiKey | Team, *, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        setattr(record, name, value)
    if changes:
        keys.save_record(record=record)


def _set_budgets(*, owner: Mapping[str, UUID], budget_changes: Sequence[BudgetChange]) -> None:
    """A budget whose window changes is another one, and begins to count anew."""
    for change in budget_changes:
        found = list(Budget.objects.filter(**owner, is_hard=change.is_hard).order_by("id"))
        if len(found) > 1:
            raise RecordError("it has several budgets of one kind: change them in Admin > Budgets")
        limit_nanousd, window = change.limit_nanousd, change.window
        gone = [budget for budget in found if limit_nanousd is None or budget.window != window]
        if gone:
            keys.delete_records(records=gone)
        if limit_nanousd is not None:
            budgets.put_budget(
                key_id=owner.get("key_id"),
                team_id=owner.get("team_id"),
                limit_nanousd=limit_nanousd,
                window=window,
                timezone=found[0].timezone if found else "UTC",
                is_hard=change.is_hard,
                is_clamped=found[0].is_clamped if found else False,
                is_crossed=found[0].is_crossed if found else change.is_crossed,
            )


def _key_record(record: ApiKey, *, now: datetime) -> KeyRecord:
    owner = {"key_id": record.id}
    return KeyRecord(
        id=record.id,
        token=record.digest,
        prefix=record.prefix,
        name=record.name,
        team_id=record.team_id,
        team=record.team.name,
        organisation=record.team.organisation.name,
        allowed_models=tuple(record.allowed_models),
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        rpm_max=record.rpm_max,
        tpm_max=record.tpm_max,
        concurrent_max=record.concurrent_max,
        metadata=record.metadata,
        created_at=record.created_at,
        updated_at=record.updated_at,
        hard=_budget_record(owner=owner, is_hard=True, now=now),
        soft=_budget_record(owner=owner, is_hard=False, now=now),
    )


def _team_record(record: Team, *, now: datetime) -> TeamRecord:
    owner = {"team_id": record.id}
    return TeamRecord(
        id=record.id,
        name=record.name,
        organisation=record.organisation.name,
        rpm_max=record.rpm_max,
        tpm_max=record.tpm_max,
        concurrent_max=record.concurrent_max,
        created_at=record.created_at,
        hard=_budget_record(owner=owner, is_hard=True, now=now),
        soft=_budget_record(owner=owner, is_hard=False, now=now),
    )


def _budget_record(*, owner: Mapping[str, UUID], is_hard: bool, now: datetime) -> BudgetRecord | None:
    budget = Budget.objects.filter(**owner, is_hard=is_hard).order_by("id").first()
    if budget is None:
        return None
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    spent = BudgetWindow.objects.filter(id=f"{budget.id}:{span.key}").values_list("spent_nanousd", flat=True)
    return BudgetRecord(
        limit_nanousd=budget.limit_nanousd,
        limit_now_nanousd=budgets.limit_at(budget, now=now),
        window=budget.window,
        spent_nanousd=spent.first() or 0,
        ends_at=span.ends_at,
    )


def _check_foreign(key: str) -> None:
    low, high = FOREIGN_KEY_CHARACTERS
    if not key.startswith("sk-") or key.startswith(keys.KEY_START):
        raise RecordError("a key that was made elsewhere begins with sk-; leave `key` out for a new one")
    if not (low <= len(key) <= high and key.isascii() and key.isprintable() and " " not in key):
        raise RecordError(f"a key that was made elsewhere has {low} to {high} characters without spaces")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
