"""LiteLLM's key management as far as its clients need it to move here: keys, their budgets, their spend.

An ordinary Django path with the ORM, outside /v1; it is off until a master key is set (README, Coming
from LiteLLM). Errors have LiteLLM's shape, which is OpenAI's with the status as a text in `code`.
"""

import secrets
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from billing import key_records, spend_logs
from billing.key_records import BudgetChange, KeyRecord, TeamRecord
from billing.records import RecordError
from gateway import wrong_keys
from gateway.lifespan import wall_clock
from gateway.litellm_schemas import (
    DeleteKeysBody,
    GenerateKeyBody,
    LimitsBody,
    NewTeamBody,
    UnsupportedFieldError,
    UpdateKeyBody,
    UpdateTeamBody,
    day_document,
    key_changes,
    key_document,
    limit_changes,
    limit_nanousd,
    spend_document,
    team_document,
    window_of_duration,
)

# What it makes lives here, where nothing else is said.
LITELLM_ORGANISATION = "litellm"
DEFAULT_TEAM = "litellm"
DEFAULT_NAME = "litellm"
SPEND_SPAN_MAX = timedelta(days=400)
KEY_TYPES = frozenset({None, "default", "llm_api"})

Answer = dict[str, Any] | list[dict[str, Any]]


class ShimError(Exception):
    """A refusal in LiteLLM's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,  # noqa: A002 -- the member's name
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.param, self.retry_after_s = status, type, param, retry_after_s


api = NinjaAPI(
    title="Tollgate, LiteLLM-compatible",
    urls_namespace="litellm",
    docs_url=None,
    openapi_url=None,
)


# --- Who asks.


def _caller(request: HttpRequest) -> str:
    """The key that was sent; raises where the endpoints are off or none was sent."""
    if not settings.MASTER_KEY:
        raise ShimError(
            "LiteLLM's endpoints are off: set GATEWAY_MASTER_KEY (or GATEWAY_MASTER_KEY_FILE) and restart.",
            status=403,
            type="auth_error",
        )
    wait_s = wrong_keys.shut_out_s(address=_address(request), now=wall_clock())
    if wait_s:
        raise ShimError(
            f"Too many wrong keys came from this address: wait {wait_s} seconds, then send the right one.",
            status=429,
            type="auth_error",
            retry_after_s=wait_s,
        )
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ShimError("Send the master key as `Authorization: Bearer …`.", status=401, type="auth_error")
    return token.strip()


def _is_master(token: str) -> bool:
    return wrong_keys.is_same_secret(given=token, secret=settings.MASTER_KEY)


def _address(request: HttpRequest) -> str:
    """Of the client; behind a proxy that is trusted, the one that it names."""
    return str(request.META.get("REMOTE_ADDR", ""))


def _master(request: HttpRequest) -> bool:
    """For ninja, which asks before it reads the body."""
    token = _caller(request)
    if not _is_master(token):
        _living_key(request, token)
        raise ShimError("Only the master key may do this.", status=403, type="auth_error")
    return True


def _living_key(request: HttpRequest, token: str) -> KeyRecord:
    """The caller's own key; raises where it is unknown, revoked or expired, and counts that."""
    now = wall_clock()
    record = key_records.find_key(given=token, now=now)
    # The SHA-256 names a key, but is no key.
    if record is None or record.token == token or not record.is_live(now=now):
        wrong_keys.note_wrong(address=_address(request), now=now)
        raise ShimError("Incorrect API key.", status=401, type="auth_error")
    return record


# --- Keys.


@api.post("/key/generate", auth=_master)
def generate_key(request: HttpRequest, body: GenerateKeyBody) -> Answer:
    """A new key, or one that was made elsewhere (`key`), with its limits and budget."""
    now = wall_clock()
    body.check()
    if body.key_type not in KEY_TYPES:
        raise UnsupportedFieldError("key_type: keys are for models only; leave it out", param="key_type")
    changes = {"metadata": {}, **key_changes(body, now=now, before={"litellm": {"key_alias": None}})}
    key_id, secret = key_records.make_key(
        team_id=_team_id(body.team_id),
        name=changes.pop("name", DEFAULT_NAME),
        key=body.key,
        changes=changes,
        budget_changes=_budget_changes(body, before=None),
    )
    _take_effect(request)
    record = key_records.get_key(key_id=key_id, now=now)
    document = key_document(record, spend_nanousd=0)
    return {"key": secret, "token": record.token, "token_id": record.token, **document}


@api.post("/key/update", auth=_master)
def update_key(request: HttpRequest, body: UpdateKeyBody) -> Answer:
    """Change what the body has; a limit of null is taken away."""
    now = wall_clock()
    body.check()
    before = _key(body.key)
    changes = key_changes(body, now=now, before=before.metadata)
    if body.team_id:
        changes["team_id"] = _team_id(body.team_id)
    key_records.change_key(
        key_id=before.id, changes=changes, budget_changes=_budget_changes(body, before=before)
    )
    _take_effect(request)
    record = key_records.get_key(key_id=before.id, now=now)
    spend = key_records.spend_nanousd(key=record, now=now)
    return {"key": body.key, "token": record.token, **key_document(record, spend_nanousd=spend)}


@api.get("/key/info")
def show_key(request: HttpRequest, key: str | None = None) -> Answer:
    """A key with its spend, to the last settled request; a key may ask for itself."""
    token = _caller(request)
    if _is_master(token):
        if key is None:
            raise ShimError("Name the key: /key/info?key=sk-…", status=400, type="bad_request", param="key")
        record = _key(key)
    else:
        record = _living_key(request, token)
        if key is not None and key not in (token, record.token):
            raise ShimError("A key may ask for itself alone.", status=403, type="auth_error", param="key")
    spend = key_records.spend_nanousd(key=record, now=wall_clock())
    return {"key": key or record.token, "info": key_document(record, spend_nanousd=spend)}


@api.post("/key/delete", auth=_master)
def delete_keys(request: HttpRequest, body: DeleteKeysBody) -> Answer:
    """All or none. What has spent is revoked: the ledger keeps it."""
    now = wall_clock()
    given = {name: _key(name).id for name in body.keys or ()}
    for alias in body.key_aliases or ():
        found = key_records.find_keys_named(name=alias, now=now)
        if len(found) != 1:
            raise ShimError(
                f"{len(found)} keys are called {alias[:100]!r}: name them by key instead.",
                status=404 if not found else 400,
                type="not_found_error" if not found else "bad_request",
                param="key_aliases",
            )
        given[alias] = found[0].id
    if not given:
        raise ShimError('Name the keys: {"keys": ["sk-…"]}.', status=400, type="bad_request", param="keys")
    key_records.end_keys(key_ids=list(given.values()), now=now)
    _take_effect(request)
    return {"deleted_keys": list(given)}


# --- Teams.


@api.post("/team/new", auth=_master)
def new_team(request: HttpRequest, body: NewTeamBody) -> Answer:
    """A team in the organisation that LiteLLM's teams live in."""
    now = wall_clock()
    _check_team(body)
    if body.team_id and body.team_alias and body.team_id != body.team_alias:
        raise UnsupportedFieldError("team_id and team_alias are one name here: give one", param="team_alias")
    name = body.team_id or body.team_alias or f"team-{secrets.token_hex(4)}"
    key_records.make_team(
        organisation=LITELLM_ORGANISATION,
        name=name,
        changes=limit_changes(body),
        budget_changes=_budget_changes(body, before=None),
    )
    _take_effect(request)
    return _team_document(name, now=now)


@api.post("/team/update", auth=_master)
def update_team(request: HttpRequest, body: UpdateTeamBody) -> Answer:
    """Change what the body has; a limit of null is taken away."""
    now = wall_clock()
    _check_team(body)
    before = key_records.find_team(given=body.team_id, now=now)
    if before is None:
        raise _no_team(body.team_id)
    names = {"name": body.team_alias} if body.team_alias else {}
    key_records.change_team(
        team_id=before.id,
        changes={**limit_changes(body), **names},
        budget_changes=_budget_changes(body, before=before),
    )
    _take_effect(request)
    name = body.team_alias or before.name
    return {"team_id": name, "data": _team_document(name, now=now)}


# --- Spend.


@api.get("/spend/logs", auth=_master)
def list_spend(
    request: HttpRequest,
    api_key: str | None = None,
    user_id: str | None = None,
    request_id: str | None = None,
    start_date: date | None = None,
    end_date: date | None = None,
    summarize: bool = True,
) -> Answer:
    """Attempts, newest first; with two dates and nothing else to ask for, sums for each day."""
    del request
    key_id = _key(api_key).id if api_key else None
    from_at = _midnight(start_date) if start_date else None
    to_at = _midnight(end_date) + timedelta(days=1) if end_date else None
    if from_at and to_at and not 0 < (to_at - from_at).days <= SPEND_SPAN_MAX.days:
        raise ShimError(
            f"start_date comes before end_date, by {SPEND_SPAN_MAX.days} days at most.",
            status=400,
            type="bad_request",
            param="start_date",
        )
    if from_at and to_at and summarize and request_id is None and user_id is None:
        days = spend_logs.spend_by_day(from_at=from_at, to_at=to_at, key_id=key_id)
        return [day_document(day) for day in days]
    key_ids = spend_logs.key_ids_of_user(user_id=user_id) if user_id else None
    rows = spend_logs.spend_rows(
        request_id=request_id, key_id=key_id, key_ids=key_ids, from_at=from_at, to_at=to_at
    )
    return [spend_document(row) for row in rows]


# --- Helpers.


def _key(given: str) -> KeyRecord:
    record = key_records.find_key(given=given, now=wall_clock())
    if record is None:
        raise ShimError("There is no such key.", status=404, type="not_found_error", param="key")
    return record


def _team_id(given: str | None) -> UUID:
    if given is None:
        return key_records.put_team(organisation=LITELLM_ORGANISATION, name=DEFAULT_TEAM)
    found = key_records.find_team(given=given, now=wall_clock())
    if found is None:
        raise _no_team(given)
    return found.id


def _no_team(given: str) -> ShimError:
    return ShimError(
        f"There is no team {given[:100]!r}: make it with POST /team/new, or in Admin > Teams.",
        status=404,
        type="not_found_error",
        param="team_id",
    )


def _check_team(body: LimitsBody) -> None:
    body.check()
    for name in ("models", "metadata", "blocked"):
        if getattr(body, name):
            raise UnsupportedFieldError(f"{name}: a team has none here; give it to the keys", param=name)


def _team_document(name: str, *, now: datetime) -> dict[str, Any]:
    record = key_records.find_team(given=name, now=now)
    assert record is not None
    return team_document(record)


def _budget_changes(body: LimitsBody, *, before: KeyRecord | TeamRecord | None) -> list[BudgetChange]:
    """Both kinds of budget have the one window; what the body leaves out stays as it was."""
    given = body.model_fields_set
    if not given & {"max_budget", "soft_budget", "budget_duration"}:
        return []
    hard, soft = (before.hard, before.soft) if before is not None else (None, None)
    known = hard or soft
    window = known.window if known is not None else "total"
    if "budget_duration" in given:
        window = window_of_duration(body.budget_duration)
    changes = []
    for name, found, is_hard in (("max_budget", hard, True), ("soft_budget", soft, False)):
        limit = found.limit_nanousd if found is not None else None
        if name in given:
            amount = getattr(body, name)
            limit = None if amount is None else limit_nanousd(amount, param=name)
        # LiteLLM's own rule for the budgets that it makes.
        changes.append(BudgetChange(is_hard=is_hard, limit_nanousd=limit, window=window, is_crossed=is_hard))
    return changes


def _take_effect(request: HttpRequest) -> None:
    """Let this process know the change before the answer goes out: clients use a new key at once.

    Other processes see it with their next look at the revisions, within a second.
    """
    gateway = getattr(request, "scope", {}).get("gateway")
    if gateway is not None:
        async_to_sync(gateway.keeper.load)()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


# --- Errors.


def _error(message: str, *, status: int, type: str, param: str | None = None) -> JsonResponse:  # noqa: A002
    member = {"message": message, "type": type, "param": param, "code": str(status)}
    return JsonResponse({"error": member}, status=status)


@api.exception_handler(ShimError)
def _on_shim_error(_request: HttpRequest, error: ShimError) -> JsonResponse:
    answer = _error(str(error), status=error.status, type=error.type, param=error.param)
    if error.retry_after_s is not None:
        answer["Retry-After"] = str(error.retry_after_s)
    return answer


@api.exception_handler(UnsupportedFieldError)
def _on_unsupported(_request: HttpRequest, error: UnsupportedFieldError) -> JsonResponse:
    return _error(f"{error}.", status=400, type="bad_request", param=error.param)


@api.exception_handler(RecordError)
def _on_record_error(_request: HttpRequest, error: RecordError) -> JsonResponse:
    return _error(f"{error}.", status=400, type="bad_request")


@api.exception_handler(ValidationError)
def _on_validation_error(_request: HttpRequest, error: ValidationError) -> JsonResponse:
    first = error.errors[0]
    param = ".".join(str(part) for part in first["loc"][2:]) or None
    return _error(f"{param or 'The body'}: {first['msg']}.", status=422, type="bad_request", param=param)


@api.exception_handler(HttpError)
def _on_http_error(_request: HttpRequest, error: HttpError) -> JsonResponse:
    return _error(str(error), status=error.status_code, type="bad_request")
