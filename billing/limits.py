"""The one door for a model's limits, and the limits of keys, teams and models as gateways load them."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from billing.models import ApiKey, ModelLimit, Team
from billing.records import RecordError, save_checked
from billing.revision import bump_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """Limits of one scope: a key, a team, or a model for one of them or for everybody. `None`: no limit."""

    scope: str
    label: str
    rpm_max: int | None
    tpm_max: int | None
    concurrent_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The limits of models, by whose they are; `everybody` by the model's name."""

    everybody: Mapping[str, LimitView]
    by_team: Mapping[UUID, Mapping[str, LimitView]]
    by_key: Mapping[UUID, Mapping[str, LimitView]]


def check_limits(record: ApiKey | Team | ModelLimit) -> None:
    """Raises RecordError for a limit that lets nothing through."""
    for limit, unit in (
        (record.rpm_max, "requests per minute"),
        (record.tpm_max, "tokens per minute"),
        (record.concurrent_max, "requests at once"),
    ):
        if limit is not None and limit < 1:
            raise RecordError(f"a limit of {limit} {unit} lets nothing through: revoke the key")


def put_model_limit(
    *,
    model: str,
    team_id: UUID | None = None,
    key_id: UUID | None = None,
    rpm_max: int | None = None,
    tpm_max: int | None = None,
    concurrent_max: int | None = None,
) -> UUID:
    """Limit a model for a key, a team, or (neither given) for everybody; replaces what was there."""
    with transaction.atomic():
        owner = {"model": model, "team_id": team_id, "key_id": key_id}
        record = ModelLimit.objects.filter(**owner).first() or ModelLimit(**owner)
        record.rpm_max, record.tpm_max, record.concurrent_max = rpm_max, tpm_max, concurrent_max
        save_model_limit(record=record)
        return record.id


def save_model_limit(*, record: ModelLimit) -> None:
    save_checked(record=record, check=_check_model_limit)


def delete_model_limit(*, record: ModelLimit) -> None:
    with transaction.atomic():
        record.delete()
        bump_revision()


def load_model_limits() -> ModelLimits:
    """Every model's limits; one query."""
    everybody: dict[str, LimitView] = {}
    by_team: dict[UUID, dict[str, LimitView]] = {}
    by_key: dict[UUID, dict[str, LimitView]] = {}
    for record in ModelLimit.objects.select_related("team", "key").order_by("id"):
        if record.key is not None:
            place, owner, whose = by_key.setdefault(record.key.id, {}), record.key.id, "this key"
        elif record.team is not None:
            place, owner, whose = (
                by_team.setdefault(record.team.id, {}),
                record.team.id,
                f'team "{record.team.name}"',
            )
        else:
            place, owner, whose = everybody, None, "everybody"
        scope = f"model:{record.model}" + (f":{owner}" if owner else "")
        place[record.model] = _view(record, scope=scope, label=f"model `{record.model}` for {whose}")
    return ModelLimits(everybody=everybody, by_team=by_team, by_key=by_key)


def limits_of(*, key: ApiKey) -> tuple[LimitView, ...]:
    """The limits of a key and of its team, without those that limit nothing."""
    views = (
        _view(key, scope=f"key:{key.id}", label=f"API key {key.prefix}…"),
        _view(key.team, scope=f"team:{key.team.id}", label=f'team "{key.team.name}"'),
    )
    return tuple(view for view in views if view.rpm_max or view.tpm_max or view.concurrent_max)


def model_limits_of(*, key: ApiKey, limits: ModelLimits) -> Mapping[str, tuple[LimitView, ...]]:
    """What binds the key's use of each model: its own limit, its team's, everybody's."""
    own, team = limits.by_key.get(key.id, {}), limits.by_team.get(key.team_id, {})
    models = {**limits.everybody, **team, **own}
    return {
        model: tuple(place[model] for place in (own, team, limits.everybody) if model in place)
        for model in models
    }


def _view(record: ApiKey | Team | ModelLimit, *, scope: str, label: str) -> LimitView:
    return LimitView(
        scope=scope,
        label=label,
        rpm_max=record.rpm_max,
        tpm_max=record.tpm_max,
        concurrent_max=record.concurrent_max,
    )


def _check_model_limit(record: ModelLimit) -> None:
    if record.team_id is not None and record.key_id is not None:
        raise RecordError("a model's limit is a key's, a team's, or (neither chosen) everybody's")
    if record.rpm_max is None and record.tpm_max is None and record.concurrent_max is None:
        raise RecordError("give at least one limit, or delete this row")
    check_limits(record)
