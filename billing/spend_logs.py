"""What was spent, attempt by attempt or day by day, as a management API asks for it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Sum

from billing.models import ApiKey, SpendRollup, UsageRecord

# The newest so many; a longer list comes from export_usage.
ROWS_MAX = 1_000
FIELDS = (
    "request_id",
    "attempt_id",
    "key_id",
    "team",
    "model",
    "served_model",
    "cluster",
    "provider",
    "surface",
    "outcome",
    "started_at",
    "settled_at",
    "cost_nanousd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """One attempt; `token` is the key's SHA-256, empty where the key is gone."""

    request_id: str
    attempt_id: str
    token: str
    team: str
    model: str
    served_model: str
    cluster: str
    provider: str
    surface: str
    outcome: str
    started_at: datetime
    settled_at: datetime
    cost_nanousd: int
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySpend:
    """One UTC day's sums, and what of it went to each model and each key (by its SHA-256)."""

    day: str
    cost_nanousd: int
    models: dict[str, int]
    tokens: dict[str, int]


def spend_rows(
    *,
    request_id: str | None = None,
    key_id: Any = None,
    key_ids: list[Any] | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
) -> list[SpendRow]:
    """The attempts that match all that is given, newest first, at most ROWS_MAX; two queries."""
    asked: dict[str, Any] = {}
    if request_id is not None:
        asked["request_id"] = request_id
    if key_id is not None:
        asked["key_id"] = key_id
    if key_ids is not None:
        asked["key_id__in"] = key_ids
    if from_at is not None:
        asked["settled_at__gte"] = from_at
    if to_at is not None:
        asked["settled_at__lt"] = to_at
    records = list(UsageRecord.objects.filter(**asked).order_by("-settled_at")[:ROWS_MAX])
    tokens = _tokens({record.key_id for record in records})
    return [_spend_row(record, token=tokens.get(record.key_id, "")) for record in records]


def spend_by_day(*, from_at: datetime, to_at: datetime, key_id: Any = None) -> list[DaySpend]:
    """Sums of the hours' rollups, oldest day first; two queries."""
    hours = SpendRollup.objects.filter(
        period=SpendRollup.Period.HOUR, starts_at__gte=from_at, starts_at__lt=to_at
    )
    if key_id is not None:
        hours = hours.filter(key_id=key_id)
    rows = list(
        hours.values_list("starts_at", "model", "key_id")
        .annotate(cost=Sum("cost_nanousd"))
        .order_by("starts_at", "model", "key_id")
    )
    tokens = _tokens({key for _, _, key, _ in rows})
    days: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for starts_at, model, key, cost in rows:
        # PostgreSQL sums big integers as decimals.
        by_model, by_token = days.setdefault(f"{starts_at:%Y-%m-%d}", ({}, {}))
        token = tokens.get(key, "")
        by_model[model] = by_model.get(model, 0) + int(cost)
        by_token[token] = by_token.get(token, 0) + int(cost)
    return [
        DaySpend(day=day, cost_nanousd=sum(by_model.values()), models=by_model, tokens=by_token)
        for day, (by_model, by_token) in days.items()
    ]


def key_ids_of_user(*, user_id: str) -> list[Any]:
    """The keys whose maker named this user."""
    keys = ApiKey.objects.filter(metadata__litellm__user_id=user_id)
    return list(keys.order_by("id").values_list("id", flat=True))


def _tokens(key_ids: set[Any]) -> dict[Any, str]:
    return dict(ApiKey.objects.filter(id__in=key_ids).values_list("id", "digest").order_by())


def _spend_row(record: UsageRecord, *, token: str) -> SpendRow:
    return SpendRow(
        request_id=record.request_id,
        attempt_id=str(record.attempt_id),
        token=token,
        team=record.team,
        model=record.model,
        served_model=record.served_model,
        cluster=record.cluster,
        provider=record.provider,
        surface=record.surface,
        outcome=record.outcome,
        started_at=record.started_at,
        settled_at=record.settled_at,
        cost_nanousd=record.cost_nanousd,
        input_tokens=record.usage.input_tokens,
        cache_read_tokens=record.cache_read_tokens,
        output_tokens=record.usage.output_tokens,
    )
