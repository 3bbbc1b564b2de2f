"""The one door for organisations, teams and API keys: their writers and their checks."""

import hashlib
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import ProtectedError

from billing.budgets import check_budget
from billing.limits import check_limits
from billing.models import ApiKey, Budget, Organisation, Team, UsageRecord
from billing.placements import ANYWHERE, PlacementWords, check_placement
from billing.records import RecordError, save_checked
from billing.revision import bump_revision

# tg_ + 8 visible characters + _ + 32 secret ones (190 random bits) + 6 of a checksum.
KEY_START = "tg_"
PREFIX_CHARACTERS = 8
SECRET_CHARACTERS = 32
CHECKSUM_CHARACTERS = 6
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_CHARACTERS = len(KEY_START) + PREFIX_CHARACTERS + 1 + SECRET_CHARACTERS + CHECKSUM_CHARACTERS

ALLOWED_MODELS_MAX = 500
KeyRecord = Organisation | Team | ApiKey | Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key: `key` is the secret itself, which is stored nowhere and shown once."""

    id: UUID
    key: str = field(repr=False)
    prefix: str


# --- Writers. Each bumps the revision in its transaction.


def issue_key(  # noqa: PLR0913 -- a key has this many parts
    *,
    team_id: UUID,
    name: str,
    allowed_models: Sequence[str] = (),
    expires_at: datetime | None = None,
    rpm_max: int | None = None,
    tpm_max: int | None = None,
    concurrent_max: int | None = None,
    priority: int = 0,
    placement: PlacementWords = ANYWHERE,
) -> IssuedKey:
    """Make a key for a team; only its digest is kept, so the caller must show the key now or never."""
    if not Team.objects.filter(id=team_id).exists():
        raise RecordError(f"there is no team {team_id}: make it first")
    issued_key = _random_key()
    prefix = issued_key[: len(KEY_START) + PREFIX_CHARACTERS]
    record = ApiKey(
        team_id=team_id,
        name=name,
        prefix=prefix,
        digest=digest_key(issued_key.encode()).hex(),
        allowed_models=list(allowed_models),
        expires_at=expires_at,
        rpm_max=rpm_max,
        tpm_max=tpm_max,
        concurrent_max=concurrent_max,
        priority=priority,
        allowed_regions=list(placement.allowed_regions),
        required_tags=list(placement.required_tags),
        forbidden_tags=list(placement.forbidden_tags),
    )
    save_record(record=record)
    return IssuedKey(id=record.id, key=issued_key, prefix=prefix)


def revoke_key(*, key_id: UUID, now: datetime) -> None:
    """Refuse this key from now on; a key that is revoked already keeps its first moment."""
    with transaction.atomic():
        if ApiKey.objects.filter(id=key_id, revoked_at=None).update(revoked_at=now, updated_at=now) == 1:
            bump_revision()
        elif not ApiKey.objects.filter(id=key_id).exists():
            raise RecordError(f"there is no key {key_id}")


def put_organisation(*, name: str) -> UUID:
    """The organisation of that name, made where it is new."""
    with transaction.atomic():
        found = Organisation.objects.filter(name=name).first()
        if found is not None:
            return found.id
        record = Organisation(name=name)
        save_record(record=record)
        return record.id


def put_team(*, organisation_id: UUID, name: str) -> UUID:
    """The team of that name, made where it is new; a name belongs to one organisation only."""
    with transaction.atomic():
        found = Team.objects.select_related("organisation").filter(name=name).first()
        if found is None:
            record = Team(organisation_id=organisation_id, name=name)
            save_record(record=record)
            return record.id
        if found.organisation_id != organisation_id:
            raise RecordError(
                f"the team {name!r} belongs to the organisation {found.organisation.name!r}: "
                f"name that one, or give the team another name"
            )
        return found.id


def save_record(*, record: KeyRecord) -> None:
    """Check and save a row, new or changed; raises RecordError with what is wrong with it."""
    save_checked(record=record, check=_CHECKS.get(type(record)))


def delete_records(*, records: Sequence[KeyRecord]) -> None:
    """Delete rows, all or none. What the ledger knows stays: its keys are revoked instead."""
    for record in records:
        if has_spent(record=record):
            raise RecordError(f"{record} is in the ledger and cannot be deleted: revoke its keys instead")
    with transaction.atomic():
        for record in records:
            try:
                record.delete()
            except ProtectedError as error:
                raise RecordError(f"{record} still owns teams or keys: delete those first") from error
        bump_revision()


# --- Readers.


def has_spent(*, record: KeyRecord) -> bool:
    """Whether the ledger holds rows of the key, or of any key of the team or organisation."""
    if isinstance(record, ApiKey):
        key_ids = [record.id]
    elif isinstance(record, Team):
        key_ids = list(ApiKey.objects.filter(team=record).values_list("id", flat=True))
    elif isinstance(record, Organisation):
        key_ids = list(ApiKey.objects.filter(team__organisation=record).values_list("id", flat=True))
    else:
        key_ids = []
    return bool(key_ids) and UsageRecord.objects.filter(key_id__in=key_ids).exists()


def find_team(*, name: str) -> tuple[UUID, UUID] | None:
    """The ids of the team of that name and of its organisation, or None."""
    return Team.objects.filter(name=name).values_list("id", "organisation_id").first()


def digest_key(key: bytes) -> bytes:
    """SHA-256, unsalted and unstretched: the key has 190 random bits, so there is nothing to guess."""
    return hashlib.sha256(key).digest()


def is_well_formed(key: str) -> bool:
    """Whether this has the shape and the checksum of a key: typos are refused without a look at the keys."""
    body, checksum = key[:-CHECKSUM_CHARACTERS], key[-CHECKSUM_CHARACTERS:]
    separator_at = len(KEY_START) + PREFIX_CHARACTERS
    if len(key) != KEY_CHARACTERS or not key.startswith(KEY_START) or key[separator_at] != "_":
        return False
    characters = key[len(KEY_START) : separator_at] + key[separator_at + 1 :]
    return all(character in BASE62 for character in characters) and checksum == _checksum(body)


def _random_key() -> str:
    prefix = "".join(secrets.choice(BASE62) for _ in range(PREFIX_CHARACTERS))
    secret = "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARACTERS))
    body = f"{KEY_START}{prefix}_{secret}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(BASE62))
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def _check_key(record: ApiKey) -> None:
    models = record.allowed_models
    if not isinstance(models, list) or not all(isinstance(model, str) and model for model in models):
        raise RecordError('allowed models are a list of names such as ["gpt-4o-mini"]; empty: all')
    if len(models) > ALLOWED_MODELS_MAX:
        raise RecordError(f"a key names at most {ALLOWED_MODELS_MAX} models; leave the list empty for all")
    check_limits(record)
    check_placement(record)
    if record.expires_at is not None and record.expires_at.tzinfo is None:
        raise RecordError(f"the moment {record.expires_at} of expiry needs a time zone")


def _check_team(record: Team) -> None:
    check_limits(record)
    check_placement(record)


_CHECKS: Mapping[type[KeyRecord], Callable[[Any], None]] = {
    ApiKey: _check_key,
    Budget: check_budget,
    Team: _check_team,
}
