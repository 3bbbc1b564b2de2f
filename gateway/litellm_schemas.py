"""The bodies and documents of LiteLLM's key management, translated into our words and back.

The contract is LiteLLM's proxy as its clients see it: amounts are USD as JSON numbers, a budget's period
and a key's life are texts such as 30d, a key is known by its secret or by that one's SHA-256.
"""

import re
from collections.abc import Mapping
from datetime import MAXYEAR, UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from billing.key_records import BudgetRecord, KeyRecord, TeamRecord
from billing.spend_logs import DaySpend, SpendRow
from routing.money import NANOUSD_MAX, NANOUSD_PER_USD

# Our part of a key's metadata; the rest is its maker's own.
EXTRAS = "litellm"
METADATA_BYTES_MAX = 16 * 1024
DURATION = re.compile(r"([0-9]{1,6})(mo|[smhdw])")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
DAY_S = 86_400
# LiteLLM's own reset times for these: midnight, Monday, the first of the month.
WINDOWS = {DAY_S: "day", 7 * DAY_S: "week", 30 * DAY_S: "month"}
WINDOW_TEXTS = {"day": "1d", "week": "7d", "month": "30d", "total": None}
# They mean: no limit of the key's own.
ALL_MODELS = frozenset({"all-team-models", "all-proxy-models"})
# What would bind a key in LiteLLM and has no counterpart: never taken silently.
UNSUPPORTED = (
    "model_max_budget",
    "model_rpm_limit",
    "model_tpm_limit",
    "budget_id",
    "budget_limits",
    "enforced_params",
    "allowed_routes",
    "allowed_passthrough_routes",
    "allowed_vector_store_indexes",
    "guardrails",
    "policies",
    "object_permission",
    "team_member_budget",
)
# Kept with the key and given back, without effect here.
KEPT = ("user_id", "aliases", "config", "permissions", "tags")


class UnsupportedFieldError(ValueError):
    """A field that cannot be honoured; `param` names it and the message says what to do."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class LimitsBody(BaseModel):
    """What keys and teams have in common. Which fields a body has decides what changes."""

    model_config = ConfigDict(extra="allow")

    max_budget: Decimal | None = None
    soft_budget: Decimal | None = None
    budget_duration: str | None = None
    rpm_limit: int | None = Field(default=None, ge=1, le=2**31 - 1)
    tpm_limit: int | None = Field(default=None, ge=1, le=2**31 - 1)
    max_parallel_requests: int | None = Field(default=None, ge=1, le=2**31 - 1)
    models: list[str] | None = None
    metadata: dict[str, Any] | None = None
    blocked: bool | None = None

    def check(self) -> None:
        """Refuse what would bind and cannot."""
        for name in UNSUPPORTED:
            if (self.model_extra or {}).get(name):
                raise UnsupportedFieldError(
                    f"{name} has no counterpart here: leave it out; what Tollgate limits is in the README",
                    param=name,
                )


class KeyBody(LimitsBody):
    key_alias: str | None = None
    duration: str | None = None
    team_id: str | None = None


class GenerateKeyBody(KeyBody):
    key: str | None = None
    key_type: str | None = None


class UpdateKeyBody(KeyBody):
    key: str


class DeleteKeysBody(BaseModel):
    keys: list[str] | None = Field(default=None, max_length=100)
    key_aliases: list[str] | None = Field(default=None, max_length=100)


class NewTeamBody(LimitsBody):
    team_id: str | None = None
    team_alias: str | None = None


class UpdateTeamBody(LimitsBody):
    team_id: str
    team_alias: str | None = None


# --- Their words into ours.


def limit_nanousd(usd: Decimal, *, param: str) -> int:
    """Nano-USD, rounded up: what is below the smallest amount would otherwise allow nothing."""
    nanousd = (usd * NANOUSD_PER_USD).to_integral_value(rounding=ROUND_CEILING) if usd.is_finite() else None
    if nanousd is None or not 0 <= nanousd <= NANOUSD_MAX:
        raise UnsupportedFieldError(
            f"{param} is not between 0 and {NANOUSD_MAX // NANOUSD_PER_USD} USD", param=param
        )
    return int(nanousd)


def window_of_duration(text: str | None) -> str:
    """The window of a budget: LiteLLM resets those of 1d, 7d and 30d with the calendar, as we do."""
    if text is None:
        return "total"
    seconds = 30 * DAY_S if text == "1mo" else _seconds(text, param="budget_duration")
    if seconds not in WINDOWS:
        raise UnsupportedFieldError(
            f"budget_duration {text!r} is no calendar window: use 1d, 7d or 30d (or 1mo), or leave it out "
            f"for a budget that is never reset",
            param="budget_duration",
        )
    return WINDOWS[seconds]


def expiry_of_duration(text: str | None, *, now: datetime) -> datetime | None:
    """When a key's life ends; None and -1: never."""
    if text is None or text == "-1":
        return None
    found = DURATION.fullmatch(text)
    if found is not None and found[2] == "mo":
        return _months_later(now, months=int(found[1]))
    try:
        return now + timedelta(seconds=_seconds(text, param="duration"))
    except OverflowError as error:
        raise _bad_duration(text, param="duration") from error


def key_changes(body: KeyBody, *, now: datetime, before: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the key that the body sets; `before` is the key's metadata so far."""
    given = body.model_fields_set
    changes = limit_changes(body)
    if "models" in given:
        changes["allowed_models"] = [name for name in body.models or () if name not in ALL_MODELS]
    if "duration" in given:
        changes["expires_at"] = expiry_of_duration(body.duration, now=now)
    if "blocked" in given and body.blocked is not None:
        changes["revoked_at"] = now if body.blocked else None
    if body.key_alias:
        changes["name"] = body.key_alias
    changes["metadata"] = _metadata(body, before=before)
    return changes


def limit_changes(body: LimitsBody) -> dict[str, Any]:
    columns = {"rpm_limit": "rpm_max", "tpm_limit": "tpm_max", "max_parallel_requests": "concurrent_max"}
    return {column: getattr(body, name) for name, column in columns.items() if name in body.model_fields_set}


def _metadata(body: KeyBody, *, before: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in before.items() if name != EXTRAS}
    if "metadata" in body.model_fields_set:
        own = dict(body.metadata or {})
    if EXTRAS in own:
        raise UnsupportedFieldError(
            f"metadata may not have a member {EXTRAS!r}: it is ours", param="metadata"
        )
    sent = {name: value for name, value in (body.model_extra or {}).items() if name in KEPT}
    extras = {**before.get(EXTRAS, {}), **sent}
    if "key_alias" in body.model_fields_set:
        extras["key_alias"] = body.key_alias
    metadata = {**own, EXTRAS: extras}
    if len(orjson.dumps(metadata)) > METADATA_BYTES_MAX:
        raise UnsupportedFieldError(f"metadata is longer than {METADATA_BYTES_MAX} bytes", param="metadata")
    return metadata


def _seconds(text: str, *, param: str) -> int:
    found = DURATION.fullmatch(text)
    if found is None or found[2] not in UNIT_SECONDS or int(found[1]) == 0:
        raise _bad_duration(text, param=param)
    return int(found[1]) * UNIT_SECONDS[found[2]]


def _bad_duration(text: str, *, param: str) -> UnsupportedFieldError:
    return UnsupportedFieldError(
        f"{param} {text[:20]!r} is no duration: write it as 30m, 24h, 30d or 1mo", param=param
    )


def _months_later(moment: datetime, *, months: int) -> datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    if moment.year + years > MAXYEAR:
        raise _bad_duration(f"{months}mo", param="duration")
    first = moment.replace(year=moment.year + years, month=month + 1, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(moment.day, last_day))


# --- Our values in their words.


def usd(nanousd: int) -> float:
    """A JSON number, as their clients read it; sums are never made of these."""
    return nanousd / NANOUSD_PER_USD


def key_document(record: KeyRecord, *, spend_nanousd: int) -> dict[str, Any]:
    """What /key/info says of a key, and /key/generate and /key/update beside the secret."""
    extras = record.metadata.get(EXTRAS, {})
    return {
        "key_name": f"{record.prefix}...",
        "key_alias": extras.get("key_alias", record.name),
        "spend": usd(spend_nanousd),
        **_budget_members(hard=record.hard, soft=record.soft),
        "expires": _moment(record.expires_at),
        "models": list(record.allowed_models),
        "aliases": extras.get("aliases") or {},
        "config": extras.get("config") or {},
        "permissions": extras.get("permissions") or {},
        "tags": extras.get("tags"),
        "user_id": extras.get("user_id"),
        "team_id": record.team,
        "team_alias": record.team,
        "max_parallel_requests": record.concurrent_max,
        "rpm_limit": record.rpm_max,
        "tpm_limit": record.tpm_max,
        "metadata": {name: value for name, value in record.metadata.items() if name != EXTRAS},
        "blocked": record.revoked_at is not None,
        "created_at": _moment(record.created_at),
        "updated_at": _moment(record.updated_at),
    }


def team_document(record: TeamRecord) -> dict[str, Any]:
    spent = record.hard.spent_nanousd if record.hard else 0
    return {
        "team_id": record.name,
        "team_alias": record.name,
        "organization_alias": record.organisation,
        "spend": usd(spent),
        **_budget_members(hard=record.hard, soft=record.soft),
        "models": [],
        "max_parallel_requests": record.concurrent_max,
        "rpm_limit": record.rpm_max,
        "tpm_limit": record.tpm_max,
        "metadata": {},
        "blocked": False,
        "created_at": _moment(record.created_at),
    }


def spend_document(row: SpendRow) -> dict[str, Any]:
    """One line of /spend/logs."""
    return {
        "request_id": row.request_id,
        "attempt_id": row.attempt_id,
        "call_type": "aembedding" if row.surface == "embeddings" else "acompletion",
        "api_key": row.token,
        "spend": usd(row.cost_nanousd),
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "total_tokens": row.input_tokens + row.output_tokens,
        "startTime": _moment(row.started_at),
        "endTime": _moment(row.settled_at),
        "model": row.served_model,
        "model_group": row.model,
        "model_id": row.cluster,
        "custom_llm_provider": row.provider,
        "team_id": row.team,
        "status": "failure" if row.outcome == "failed" else "success",
        "cache_hit": "False",
        "metadata": {"outcome": row.outcome, "cached_tokens": row.cache_read_tokens},
    }


def day_document(day: DaySpend) -> dict[str, Any]:
    """One day of /spend/logs where two dates are given."""
    return {
        "startTime": day.day,
        "spend": usd(day.cost_nanousd),
        "models": {name: usd(cost) for name, cost in day.models.items()},
        "api_keys": {token: usd(cost) for token, cost in day.tokens.items()},
        "users": {},
    }


def _budget_members(*, hard: BudgetRecord | None, soft: BudgetRecord | None) -> dict[str, Any]:
    window = hard or soft
    return {
        "max_budget": usd(hard.limit_now_nanousd) if hard else None,
        "soft_budget": usd(soft.limit_now_nanousd) if soft else None,
        "budget_duration": WINDOW_TEXTS[window.window] if window else None,
        "budget_reset_at": _moment(window.ends_at) if window else None,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
