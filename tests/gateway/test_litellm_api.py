"""LiteLLM's key management, as its clients use it."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.core.cache import caches

from billing import budgets, keys, ledger
from billing.entries import Batch, WindowClaim
from billing.models import ApiKey, Budget, Team
from billing.principals import load_principals
from billing.windows import window_of
from gateway import litellm_api, wrong_keys
from tests.billing.holds import NOW, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__")

MASTER = "sk-1234"
FOREIGN = "sk-made-elsewhere-4711"


@pytest.fixture(autouse=True)
def master_key(settings, monkeypatch):
    settings.MASTER_KEY = MASTER
    monkeypatch.setattr(litellm_api, "wall_clock", lambda: NOW)
    caches[wrong_keys.CACHE].clear()


@pytest.fixture
def post(client):
    def ask(path, body, key=MASTER):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = client.post(path, body, content_type="application/json", headers=headers)
        return answer.status_code, answer.json()

    return ask


@pytest.fixture
def get(client):
    def ask(path, key=MASTER, **parameters):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = client.get(path, parameters, headers=headers)
        return answer.status_code, answer.json()

    return ask


@pytest.fixture
def generate(post):
    def ask(**body):
        status, answer = post("/key/generate", body)
        assert status == 200, answer
        return answer

    return ask


def error(message, *, status, type, param=None):  # noqa: A002 -- the member's name
    return status, {"error": {"message": message, "type": type, "param": param, "code": str(status)}}


def spend(secret, *, input_tokens):
    """One settled attempt of the key, at 1 USD per million tokens, counted against its own budgets."""
    principal = load_principals()[keys.digest_key(secret.encode())]
    claims = [claim_of(budget) for budget in principal.budgets]
    names = {"team": principal.team, "organisation": principal.organisation, "key_name": principal.key_name}
    hold = new_hold(held_nanousd=10**12, claims=claims, key_id=principal.key_id, **names)
    assert ledger.commit(Batch(holds=[hold])) == {}
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=input_tokens)]))
    return hold


def claim_of(budget):
    span = window_of(window=budget.window, timezone=budget.timezone, now=NOW)
    return WindowClaim(
        window_id=f"{budget.id}:{span.key}",
        budget_id=UUID(budget.id),
        owner=budget.owner,
        limit_nanousd=budget.limit_nanousd,
        is_hard=budget.is_hard,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        is_crossed=True,
    )


def budgets_of(key_id):
    rows = Budget.objects.filter(key_id=key_id).order_by("-is_hard", "window")
    return list(rows.values_list("is_hard", "limit_nanousd", "window"))


# --- Who may ask


CALLS = [
    ("post", "/key/generate"),
    ("post", "/key/update"),
    ("post", "/key/delete"),
    ("post", "/team/new"),
    ("post", "/team/update"),
    ("get", "/spend/logs"),
    ("get", "/key/info"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_master_key_it_is_off_and_says_how_to_turn_it_on(client, settings, method, path):
    settings.MASTER_KEY = ""

    answer = getattr(client, method)(path, headers={"Authorization": "Bearer "})

    assert (answer.status_code, answer.json()) == error(
        "LiteLLM's endpoints are off: set GATEWAY_MASTER_KEY (or GATEWAY_MASTER_KEY_FILE) and restart.",
        status=403,
        type="auth_error",
    )


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_caller_without_or_with_an_unknown_key_is_refused(client, method, path):
    ask = getattr(client, method)
    answers = [ask(path), ask(path, headers={"Authorization": "Bearer sk-12345"})]

    assert [(answer.status_code, answer.json()) for answer in answers] == [
        error("Send the master key as `Authorization: Bearer …`.", status=401, type="auth_error"),
        error("Incorrect API key.", status=401, type="auth_error"),
    ]


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[1] != "/key/info"])
def test_only_the_master_key_manages(client, generate, method, path):
    key = generate()["key"]

    answer = getattr(client, method)(path, headers={"Authorization": f"Bearer {key}"})

    assert (answer.status_code, answer.json()) == error(
        "Only the master key may do this.", status=403, type="auth_error"
    )


def test_key_may_ask_for_itself_alone(generate, get):
    mine, other = generate()["key"], generate()["key"]
    by_name, by_nothing = get(f"/key/info?key={mine}", key=mine), get("/key/info", key=mine)

    assert by_name[0] == by_nothing[0] == 200
    assert by_nothing[1]["info"] == by_name[1]["info"]
    assert get(f"/key/info?key={other}", key=mine) == error(
        "A key may ask for itself alone.", status=403, type="auth_error", param="key"
    )


def test_digest_of_a_key_is_no_key(generate, get):
    token = generate()["token"]

    assert get("/key/info", key=token) == error("Incorrect API key.", status=401, type="auth_error")


def test_revoked_and_expired_keys_are_no_keys(generate, get, post):
    revoked, expired = generate()["key"], generate()["key"]
    post("/key/update", {"key": revoked, "blocked": True})
    ApiKey.objects.filter(digest=keys.digest_key(expired.encode()).hex()).update(
        expires_at=datetime(2026, 1, 1, tzinfo=UTC)
    )

    refusal = error("Incorrect API key.", status=401, type="auth_error")
    assert [get("/key/info", key=key) for key in (revoked, expired)] == [refusal, refusal]


def test_wrong_keys_shut_their_address_out_for_a_minute(client, get, post, monkeypatch):
    for _ in range(wrong_keys.WRONG_MAX):
        assert get("/key/info", key="sk-wrong")[0] == 401
    out = client.get("/key/info", headers={"Authorization": f"Bearer {MASTER}"})
    elsewhere = client.get(
        "/key/info", headers={"Authorization": f"Bearer {MASTER}"}, REMOTE_ADDR="198.51.100.7"
    )
    monkeypatch.setattr(litellm_api, "wall_clock", lambda: NOW + wrong_keys.SPAN)
    again, _ = post("/key/generate", {})

    assert (out.status_code, out.json()) == error(
        "Too many wrong keys came from this address: wait 60 seconds, then send the right one.",
        status=429,
        type="auth_error",
    )
    assert (out["Retry-After"], elsewhere.status_code, again) == ("60", 400, 200)


def test_keys_that_may_not_manage_are_no_wrong_ones(generate, post):
    key = generate()["key"]

    statuses = {post("/key/generate", {}, key=key)[0] for _ in range(wrong_keys.WRONG_MAX + 1)}

    assert statuses == {403}


def test_limit_in_force_is_shown_during_an_override_and_is_not_kept(generate, get, post):
    key = generate(max_budget=1)["key"]
    budget_id = Budget.objects.get().id
    budgets.override_budget(
        budget_id=budget_id, limit_nanousd=5 * 10**9, until=NOW + timedelta(hours=1), reason="launch", now=NOW
    )

    during = get(f"/key/info?key={key}")[1]["info"]["max_budget"]
    post("/key/update", {"key": key, "budget_duration": "1d"})

    assert (during, Budget.objects.get().limit_nanousd) == (5.0, 10**9)


# --- Generate


def test_key_has_all_that_was_asked_for(generate):
    answer = generate(
        key_alias="ci",
        duration="30d",
        models=["gpt-4o-mini", "llama"],
        max_budget=12.5,
        soft_budget=10,
        budget_duration="30d",
        rpm_limit=60,
        tpm_limit=1000,
        max_parallel_requests=4,
        user_id="ada",
        metadata={"stage": "test"},
        tags=["a"],
        aliases={"mistral": "llama"},
    )

    record = ApiKey.objects.select_related("team__organisation").get()
    digest = hashlib.sha256(answer["key"].encode()).hexdigest()
    assert keys.is_well_formed(answer["key"])
    assert record.digest == digest
    assert (record.name, record.team.name, record.team.organisation.name) == ("ci", "litellm", "litellm")
    assert record.allowed_models == ["gpt-4o-mini", "llama"]
    assert (record.rpm_max, record.tpm_max, record.concurrent_max) == (60, 1000, 4)
    assert record.expires_at == NOW + timedelta(days=30)
    assert budgets_of(record.id) == [(True, 12_500_000_000, "month"), (False, 10_000_000_000, "month")]
    assert answer == {
        "key": answer["key"],
        "token": digest,
        "token_id": digest,
        "key_name": f"{record.prefix}...",
        "key_alias": "ci",
        "spend": 0.0,
        "max_budget": 12.5,
        "soft_budget": 10.0,
        "budget_duration": "30d",
        "budget_reset_at": "2026-12-01T00:00:00Z",
        "expires": "2026-12-23T12:30:00Z",
        "models": ["gpt-4o-mini", "llama"],
        "aliases": {"mistral": "llama"},
        "config": {},
        "permissions": {},
        "tags": ["a"],
        "user_id": "ada",
        "team_id": "litellm",
        "team_alias": "litellm",
        "max_parallel_requests": 4,
        "rpm_limit": 60,
        "tpm_limit": 1000,
        "metadata": {"stage": "test"},
        "blocked": False,
        "created_at": record.created_at.isoformat().replace("+00:00", "Z"),
        "updated_at": record.updated_at.isoformat().replace("+00:00", "Z"),
    }


def test_key_without_wishes_has_no_limits(generate):
    answer = generate(max_budget=None, rpm_limit=None, models=["all-team-models"])

    limits = ("max_budget", "soft_budget", "budget_duration", "budget_reset_at", "expires", "key_alias")
    assert {name: answer[name] for name in (*limits, "rpm_limit", "tpm_limit", "models")} == {
        **dict.fromkeys(limits),
        "rpm_limit": None,
        "tpm_limit": None,
        "models": [],
    }


def test_smallest_budget_is_a_nanousd_and_never_reset(generate):
    answer = generate(max_budget=0.0000000005)

    assert (answer["max_budget"], answer["budget_duration"], answer["budget_reset_at"]) == (1e-9, None, None)
    assert budgets_of(ApiKey.objects.get().id) == [(True, 1, "total")]


def test_key_that_was_made_elsewhere_goes_on_being_used(generate, post, get):
    answer = generate(key=FOREIGN)

    assert answer["key"] == FOREIGN
    assert keys.digest_key(FOREIGN.encode()) in load_principals()
    assert get("/key/info", key=FOREIGN)[0] == 200
    assert FOREIGN not in str(ApiKey.objects.values().get())
    assert post("/key/generate", {"key": FOREIGN}) == error(
        "this key exists already: choose another, or change that one.", status=400, type="bad_request"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sk-short", "a key that was made elsewhere has 20 to 200 characters without spaces."),
        ("sk-with a space 1234567", "a key that was made elsewhere has 20 to 200 characters without spaces."),
        (
            "tg_abcdefghijklmnopqrstuvwxyz",
            "a key that was made elsewhere begins with sk-; leave `key` out for a new one.",
        ),
    ],
)
def test_key_that_could_be_guessed_is_refused(post, key, message):
    assert post("/key/generate", {"key": key}) == error(message, status=400, type="bad_request")
    assert ApiKey.objects.count() == 0


def test_key_of_a_named_team(generate, post):
    organisation_id = keys.put_organisation(name="acme")
    team_id = keys.put_team(organisation_id=organisation_id, name="search")

    answers = [generate(team_id="search"), generate(team_id=str(team_id))]

    assert [answer["team_id"] for answer in answers] == ["search", "search"]
    assert {p.organisation for p in load_principals().values()} == {"acme"}
    assert post("/key/generate", {"team_id": "serach"}) == error(
        "There is no team 'serach': make it with POST /team/new, or in Admin > Teams.",
        status=404,
        type="not_found_error",
        param="team_id",
    )


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (
            {"model_max_budget": {"gpt-4": 1}},
            400,
            "model_max_budget",
            "model_max_budget has no counterpart here: leave it out; what Tollgate limits is in the README.",
        ),
        (
            {"key_type": "management"},
            400,
            "key_type",
            "key_type: keys are for models only; leave it out.",
        ),
        (
            {"max_budget": 1, "budget_duration": "5s"},
            400,
            "budget_duration",
            (
                "budget_duration '5s' is no calendar window: use 1d, 7d or 30d (or 1mo), or leave it out "
                "for a budget that is never reset."
            ),
        ),
        ({"max_budget": -1}, 400, "max_budget", "max_budget is not between 0 and 4611686018 USD."),
        (
            {"metadata": {"litellm": 1}},
            400,
            "metadata",
            "metadata may not have a member 'litellm': it is ours.",
        ),
        (
            {"metadata": {"text": "a" * 20_000}},
            400,
            "metadata",
            "metadata is longer than 16384 bytes.",
        ),
        (
            {"models": [""]},
            400,
            None,
            'allowed models are a list of names such as ["gpt-4o-mini"]; empty: all.',
        ),
        ({"rpm_limit": 0}, 422, "rpm_limit", "rpm_limit: Input should be greater than or equal to 1."),
        ({"models": "gpt-4"}, 422, "models", "models: Input should be a valid list."),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_makes_no_key(post, body, status, param, message):
    answer = post("/key/generate", body)

    assert answer == error(message, status=status, type="bad_request", param=param)
    assert ApiKey.objects.count() == 0


def test_body_that_is_no_json_is_refused(client):
    answer = client.post(
        "/key/generate", "{", content_type="application/json", headers={"Authorization": f"Bearer {MASTER}"}
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "400")


# --- Update


def test_update_changes_what_it_names_and_nothing_else(generate, post):
    key = generate(key_alias="ci", rpm_limit=60, max_budget=1, budget_duration="1d", metadata={"a": 1})["key"]

    status, answer = post("/key/update", {"key": key, "tpm_limit": 5, "models": ["llama"]})

    assert status == 200
    kept = ("key", "key_alias", "rpm_limit", "max_budget", "budget_duration", "metadata")
    assert {name: answer[name] for name in (*kept, "tpm_limit", "models")} == {
        "key": key,
        "key_alias": "ci",
        "rpm_limit": 60,
        "max_budget": 1.0,
        "budget_duration": "1d",
        "metadata": {"a": 1},
        "tpm_limit": 5,
        "models": ["llama"],
    }


@pytest.mark.parametrize(
    "field", ["max_budget", "soft_budget", "rpm_limit", "tpm_limit", "max_parallel_requests"]
)
def test_limit_is_set_and_taken_away(generate, post, field):
    key = generate()["key"]

    answers = [post("/key/update", {"key": key, field: value})[1][field] for value in (10, None)]

    assert answers == [10, None]


def test_higher_budget_keeps_what_was_spent(generate, post, get):
    key = generate(max_budget=1)["key"]
    spend(key, input_tokens=250_000)

    _, answer = post("/key/update", {"key": key, "max_budget": 2})

    assert (answer["spend"], answer["max_budget"]) == (0.25, 2.0)
    assert budgets_of(ApiKey.objects.get().id) == [(True, 2 * 10**9, "total")]
    assert get(f"/key/info?key={key}")[1]["info"]["spend"] == 0.25


def test_other_duration_is_another_budget(generate, post):
    key = generate(max_budget=1, soft_budget=0.5)["key"]

    post("/key/update", {"key": key, "budget_duration": "7d"})

    assert budgets_of(ApiKey.objects.get().id) == [(True, 10**9, "week"), (False, 5 * 10**8, "week")]


def test_several_budgets_are_left_to_the_admin(generate, post):
    key = generate(max_budget=1)["key"]
    record = ApiKey.objects.get()
    budgets.put_budget(key_id=record.id, limit_nanousd=5, window="day", is_hard=True)

    assert post("/key/update", {"key": key, "max_budget": 2, "rpm_limit": 7}) == error(
        "it has several budgets of one kind: change them in Admin > Budgets.", status=400, type="bad_request"
    )
    record.refresh_from_db()
    assert record.rpm_max is None


def test_blocked_key_is_refused_until_it_is_unblocked(generate, post):
    key = generate()["key"]

    states = []
    for blocked in (True, False):
        assert post("/key/update", {"key": key, "blocked": blocked})[1]["blocked"] is blocked
        states.append(ApiKey.objects.get().revoked_at)

    assert states == [NOW, None]


def test_key_moves_to_another_team_and_never_expires(generate, post):
    keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="search")
    key = generate(duration="1h")["key"]

    _, answer = post("/key/update", {"key": key, "team_id": "search", "duration": "-1"})

    assert (answer["team_id"], answer["expires"]) == ("search", None)


def test_key_is_known_by_its_digest_too(generate, post, get):
    token = generate(key_alias="a")["token"]

    assert post("/key/update", {"key": token, "key_alias": "b"})[1]["key_alias"] == "b"
    assert get(f"/key/info?key={token}")[1]["info"]["key_alias"] == "b"


NO_KEY = error("There is no such key.", status=404, type="not_found_error", param="key")


def test_unknown_key_is_not_found(get, post):
    assert get("/key/info?key=sk-unknown") == NO_KEY
    assert post("/key/update", {"key": "sk-unknown"}) == NO_KEY
    assert post("/key/delete", {"keys": ["sk-unknown"]}) == NO_KEY


# --- Info


def test_master_key_names_the_key(get):
    assert get("/key/info") == error(
        "Name the key: /key/info?key=sk-…", status=400, type="bad_request", param="key"
    )


@pytest.mark.parametrize("budget", [{}, {"max_budget": 5}, {"max_budget": 5, "budget_duration": "1d"}])
def test_spend_is_right_after_the_settled_request(generate, get, budget):
    key = generate(**budget)["key"]

    found = []
    for _ in range(2):
        spend(key, input_tokens=1_234)
        found.append(get("/key/info", key=key)[1]["info"]["spend"])

    assert found == [0.001234, 0.002468]


# --- Delete


def test_deleted_key_is_gone_and_one_that_spent_is_revoked(generate, get, post):
    unused, used = generate(), generate(key_alias="used")
    spend(used["key"], input_tokens=1)

    status, answer = post("/key/delete", {"keys": [unused["token"]], "key_aliases": ["used"]})

    assert (status, answer) == (200, {"deleted_keys": [unused["token"], "used"]})
    assert get(f"/key/info?key={unused['key']}") == NO_KEY
    assert get(f"/key/info?key={used['key']}")[1]["info"]["blocked"] is True
    assert ApiKey.objects.get().revoked_at == NOW


def test_delete_is_all_or_none(generate, post):
    key = generate(key_alias="twin")["key"]
    generate(key_alias="twin")

    answers = [
        post("/key/delete", {"keys": [key, "sk-unknown"]}),
        post("/key/delete", {"keys": [key], "key_aliases": ["twin"]}),
        post("/key/delete", {"key_aliases": ["nobody"]}),
        post("/key/delete", {}),
    ]

    by_alias = {"param": "key_aliases"}
    assert answers == [
        NO_KEY,
        error(
            "2 keys are called 'twin': name them by key instead.", status=400, type="bad_request", **by_alias
        ),
        error(
            "0 keys are called 'nobody': name them by key instead.",
            status=404,
            type="not_found_error",
            **by_alias,
        ),
        error('Name the keys: {"keys": ["sk-…"]}.', status=400, type="bad_request", param="keys"),
    ]
    assert ApiKey.objects.count() == 2


# --- Teams


def test_team_with_a_budget_binds_its_keys(generate, post):
    _, team = post("/team/new", {"team_alias": "search", "max_budget": 0.5, "rpm_limit": 9})
    key = generate(team_id=team["team_id"], max_budget=1)["key"]

    principal = load_principals()[keys.digest_key(key.encode())]
    assert {name: team[name] for name in ("team_id", "team_alias", "max_budget", "spend", "rpm_limit")} == {
        "team_id": "search",
        "team_alias": "search",
        "max_budget": 0.5,
        "spend": 0.0,
        "rpm_limit": 9,
    }
    assert Team.objects.get(name="search").rpm_max == 9
    assert principal.organisation == "litellm"
    assert sorted((b.owner, b.limit_nanousd, b.is_crossed) for b in principal.budgets) == [
        ('key "litellm"', 10**9, True),
        ('team "search"', 5 * 10**8, True),
    ]


def test_budget_keeps_its_rule_whatever_the_shim_changes(generate, post):
    keys_made = [generate(max_budget=1, soft_budget=0.5)["key"] for _ in range(2)]
    key_ids = [load_principals()[keys.digest_key(key.encode())].key_id for key in keys_made]
    Budget.objects.filter(key_id=key_ids[1], is_hard=True).update(is_crossed=False, is_clamped=True)

    for key in keys_made:
        status, _ = post("/key/update", {"key": key, "max_budget": 2, "budget_duration": "1d"})
        assert status == 200

    columns = ("is_hard", "limit_nanousd", "window", "is_clamped", "is_crossed")
    found = [set(Budget.objects.filter(key_id=key_id).values_list(*columns)) for key_id in key_ids]
    soft = (False, 5 * 10**8, "day", False, False)
    assert found == [
        {(True, 2 * 10**9, "day", False, True), soft},
        {(True, 2 * 10**9, "day", True, False), soft},
    ]


def test_team_is_updated(post):
    _, made = post("/team/new", {"max_budget": None})

    answers = [
        post("/team/update", {"team_id": made["team_id"], "max_budget": amount}) for amount in (10, None)
    ]

    assert [(status, answer["data"]["max_budget"]) for status, answer in answers] == [
        (200, 10.0),
        (200, None),
    ]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            "/team/new",
            {"team_id": "a", "team_alias": "b"},
            error(
                "team_id and team_alias are one name here: give one.",
                status=400,
                type="bad_request",
                param="team_alias",
            ),
        ),
        (
            "/team/new",
            {"models": ["llama"]},
            error(
                "models: a team has none here; give it to the keys.",
                status=400,
                type="bad_request",
                param="models",
            ),
        ),
        (
            "/team/update",
            {"team_id": "a"},
            error(
                "There is no team 'a': make it with POST /team/new, or in Admin > Teams.",
                status=404,
                type="not_found_error",
                param="team_id",
            ),
        ),
    ],
)
def test_team_that_cannot_be_is_refused(post, path, body, expected):
    assert post(path, body) == expected
    assert Team.objects.count() == 0


def test_team_exists_once(post):
    post("/team/new", {"team_alias": "a"})

    assert post("/team/new", {"team_alias": "a"}) == error(
        "the team 'a' exists already.", status=400, type="bad_request"
    )


# --- Spend


def test_spend_logs_of_a_request_and_of_a_key(generate, get):
    mine, other = generate(user_id="ada"), generate()
    hold = spend(mine["key"], input_tokens=1_000)
    spend(other["key"], input_tokens=5)

    status, (line,) = get(f"/spend/logs?api_key={mine['key']}")

    today = "2026-11-23"
    assert status == 200
    assert line == {
        "request_id": "req_1",
        "attempt_id": str(hold.attempt_id),
        "call_type": "acompletion",
        "api_key": mine["token"],
        "spend": 0.001,
        "prompt_tokens": 1_000,
        "completion_tokens": 0,
        "total_tokens": 1_000,
        "startTime": "2026-11-23T12:30:00Z",
        "endTime": "2026-11-23T12:30:00Z",
        "model": "llama",
        "model_group": "fast",
        "model_id": "aws",
        "custom_llm_provider": "aws",
        "team_id": "litellm",
        "status": "success",
        "cache_hit": "False",
        "metadata": {"outcome": "ok", "cached_tokens": 0},
    }
    assert get("/spend/logs?user_id=ada") == (200, [line])
    assert get(f"/spend/logs?user_id=ada&start_date={today}&end_date={today}") == (200, [line])
    assert get("/spend/logs?request_id=req_2") == (200, [])
    assert len(get("/spend/logs?request_id=req_1")[1]) == len(get("/spend/logs")[1]) == 2


def test_spend_logs_of_days_are_summed_up(generate, get):
    mine, other = generate(), generate()
    spend(mine["key"], input_tokens=1_000)
    spend(other["key"], input_tokens=500)
    today = "2026-11-23"
    span = f"start_date={today}&end_date={today}"

    assert get(f"/spend/logs?{span}") == (
        200,
        [
            {
                "startTime": today,
                "spend": 0.0015,
                "models": {"fast": 0.0015},
                "api_keys": {mine["token"]: 0.001, other["token"]: 0.0005},
                "users": {},
            }
        ],
    )
    assert get(f"/spend/logs?{span}&api_key={mine['key']}")[1][0]["spend"] == 0.001
    assert len(get(f"/spend/logs?{span}&summarize=false")[1]) == 2


@pytest.mark.parametrize(
    "span", ["start_date=2026-02-01&end_date=2026-01-01", "start_date=2020-01-01&end_date=2026-01-01"]
)
def test_span_that_cannot_be_is_refused(get, span):
    assert get(f"/spend/logs?{span}") == error(
        "start_date comes before end_date, by 400 days at most.",
        status=400,
        type="bad_request",
        param="start_date",
    )
