"""The callers behind the keys, with all that binds them: what gateways load and admit by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from billing.budgets import BudgetView, load_budgets
from billing.limits import LimitView, ModelLimits, limits_of, load_model_limits, model_limits_of
from billing.models import ApiKey
from billing.placements import placement_of
from billing.revision import get_revision as get_revision  # noqa: PLC0414 -- part of this door
from routing.types import Placement

# A key is remembered so long after its revocation that the refusal can say "revoked".
REVOKED_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller behind a key. `allowed_models` None: all of them; `budgets`: all that bind it."""

    key_id: str
    key_name: str
    prefix: str
    team: str
    organisation: str
    allowed_models: frozenset[str] | None
    expires_at: datetime | None
    revoked_at: datetime | None
    limits: tuple[LimitView, ...]
    model_limits: Mapping[str, tuple[LimitView, ...]]
    budgets: tuple[BudgetView, ...]
    weight: int = 1  # of the team, where teams wait for places
    priority: int = 0
    placement: Placement | None = None  # None: every cluster may serve it


def load_principals() -> Mapping[bytes, Principal]:
    """Every key by the digest of its secret, revoked and expired ones included; three queries.

    Only keys that were revoked more than 30 days ago are left out.
    """
    budgets, limits = load_budgets(), load_model_limits()
    keys = ApiKey.objects.select_related("team__organisation").filter(
        Q(revoked_at=None) | Q(revoked_at__gt=Now() - REVOKED_KEPT)
    )
    return {bytes.fromhex(key.digest): _principal(key=key, budgets=budgets, limits=limits) for key in keys}


def _principal(
    *, key: ApiKey, budgets: Mapping[UUID, Sequence[BudgetView]], limits: ModelLimits
) -> Principal:
    owners = (key.team.organisation_id, key.team_id, key.id)
    return Principal(
        key_id=str(key.id),
        key_name=key.name,
        prefix=key.prefix,
        team=key.team.name,
        organisation=key.team.organisation.name,
        allowed_models=frozenset(key.allowed_models) or None,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        limits=limits_of(key=key),
        model_limits=model_limits_of(key=key, limits=limits),
        budgets=tuple(view for owner in owners for view in budgets.get(owner, ())),
        weight=key.team.weight,
        priority=key.priority,
        placement=placement_of(key=key),
    )
