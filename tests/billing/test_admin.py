"""The admin's pages of keys, budgets and prices: they write through the door and show no secret."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import budgets, keys, principals
from billing.models import ApiKey, Budget, BudgetWindow, Organisation, Price, Team
from billing.prices import put_price
from billing.windows import window_of
from tests.billing.rows import make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

KEY_SHAPE = re.compile(r"tg_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}")


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 -- the admin reads the clock itself


@pytest.fixture
def team_id():
    return keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="search")


def text_of(answer) -> str:
    return answer.content.decode()


def moment_fields(name, moment):
    return {f"{name}_0": f"{moment:%Y-%m-%d}", f"{name}_1": f"{moment:%H:%M:%S}"}


def key_form(team_id, **changes):
    blank = {"expires_at_0": "", "expires_at_1": "", "rpm_max": "", "tpm_max": "", "allowed_models": ""}
    blank["priority"] = "3"
    return {"team": str(team_id), "name": "ci", **blank, **changes}


def test_adding_a_key_shows_it_once(admin_client, team_id):
    form = key_form(team_id, allowed_models="a\nb, a", rpm_max="60")

    answer = admin_client.post("/admin/billing/apikey/add/", form)

    record = ApiKey.objects.get()
    (key,) = set(KEY_SHAPE.findall(text_of(answer)))
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert keys.digest_key(key.encode()).hex() == record.digest
    assert (record.allowed_models, record.rpm_max, record.tpm_max) == (["a", "b"], 60, None)
    assert record.priority == 3
    assert LogEntry.objects.get().object_id == str(record.id)
    for path in ("", f"{record.id}/change/", f"{record.id}/history/", f"{record.id}/delete/"):
        page = text_of(admin_client.get(f"/admin/billing/apikey/{path}"))
        assert key not in page
        assert record.digest not in page
    assert key not in str(dict(admin_client.session))


def test_adding_a_key_refuses_on_the_form(admin_client, team_id):
    answer = admin_client.post("/admin/billing/apikey/add/", key_form(team_id, name="", rpm_max="0"))

    assert answer.status_code == 200
    assert "This field is required." in text_of(answer)
    assert "greater than or equal to 1" in text_of(answer)
    assert ApiKey.objects.count() == 0


def test_forms_of_keys_and_teams_say_where_they_are_served(admin_client, team_id):
    placement = {"allowed_regions": "eu-1\neu-2", "required_tags": "gdpr, on-prem", "forbidden_tags": "spot"}
    team = Team.objects.get(id=team_id)

    admin_client.post("/admin/billing/apikey/add/", key_form(team_id, **placement))
    admin_client.post(
        f"/admin/billing/team/{team_id}/change/",
        {"organisation": str(team.organisation_id), "name": "search", "weight": "1", "required_tags": "gdpr"},
    )

    key, team = ApiKey.objects.get(), Team.objects.get()
    assert (key.allowed_regions, key.required_tags, key.forbidden_tags) == (
        ["eu-1", "eu-2"],
        ["gdpr", "on-prem"],
        ["spot"],
    )
    assert (team.allowed_regions, team.required_tags, team.forbidden_tags) == ([], ["gdpr"], [])
    assert "in eu-1, eu-2; with gdpr, on-prem; without spot" in text_of(
        admin_client.get("/admin/billing/apikey/")
    )
    assert "with gdpr" in text_of(admin_client.get("/admin/billing/team/"))


def test_form_names_teams_and_leads_to_one_page_only(admin_client, team_id):
    page = text_of(admin_client.get("/admin/billing/apikey/add/"))

    assert f'<option value="{team_id}">search</option>' in page
    assert [name in page for name in ("_save", "_addanother", "_continue")] == [True, False, False]


def test_changing_a_key_keeps_team_and_secret(admin_client, team_id):
    issued = keys.issue_key(team_id=team_id, name="ci")
    other_id = keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="ads")
    before = principals.get_revision()

    answer = admin_client.post(
        f"/admin/billing/apikey/{issued.id}/change/",
        key_form(other_id, name="renamed", allowed_models="x", digest="0" * 64, revoked_at="2020-01-01"),
    )

    principal = principals.load_principals()[keys.digest_key(issued.key.encode())]
    assert answer.status_code == 302
    assert (principal.key_name, principal.team, principal.allowed_models, principal.revoked_at) == (
        "renamed",
        "search",
        frozenset({"x"}),
        None,
    )
    assert principals.get_revision() == before + 1


def test_key_list_says_state_and_limits_at_a_glance(admin_client, team_id):
    keys.issue_key(team_id=team_id, name="live", allowed_models=["a", "b", "c", "d"], rpm_max=6000)
    keys.issue_key(team_id=team_id, name="old", expires_at=now() - timedelta(days=1))
    gone = keys.issue_key(team_id=team_id, name="gone")
    keys.revoke_key(key_id=gone.id, now=now())

    page = text_of(admin_client.get("/admin/billing/apikey/"))

    for text in (
        '<span class="badge badge-ok">active</span>',
        '<span class="badge badge-warn">expired</span>',
        '<span class="badge badge-bad">revoked</span>',
        "a, b, c and 1 more",
        "6,000 requests",
        f"{gone.prefix}…",
        f"/usage/?group=model&amp;key={gone.id}",
    ):
        assert text in page


def test_revoking_asks_first_and_then_revokes(admin_client, team_id):
    issued = [keys.issue_key(team_id=team_id, name=name) for name in ("a", "b")]
    form = {"action": "revoke_keys", "_selected_action": [str(key.id) for key in issued]}

    asked = admin_client.post("/admin/billing/apikey/", form)
    active_count = ApiKey.objects.filter(revoked_at=None).count()
    done = admin_client.post("/admin/billing/apikey/", {**form, "is_confirmed": "1"}, follow=True)

    assert "This cannot be undone." in text_of(asked)
    assert active_count == 2
    assert "2 revoked." in text_of(done)
    assert ApiKey.objects.filter(revoked_at=None).count() == 0
    assert LogEntry.objects.filter(change_message="Revoked.").count() == 2


def test_deleting_a_used_key_is_refused_with_a_reason(admin_client, team_id):
    issued = keys.issue_key(team_id=team_id, name="ci")
    make_usage(key_id=issued.id)

    answer = admin_client.post(f"/admin/billing/apikey/{issued.id}/delete/", {"post": "yes"}, follow=True)

    assert "cannot be deleted: revoke its keys instead" in text_of(answer)
    assert ApiKey.objects.count() == 1
    assert LogEntry.objects.count() == 0


def test_deleting_an_unused_key_deletes_it(admin_client, team_id):
    issued = keys.issue_key(team_id=team_id, name="ci")
    before = principals.get_revision()

    admin_client.post(f"/admin/billing/apikey/{issued.id}/delete/", {"post": "yes"})

    assert (ApiKey.objects.count(), principals.get_revision()) == (0, before + 1)


def test_organisations_and_teams_are_written_through_the_door(admin_client):
    admin_client.post("/admin/billing/organisation/add/", {"name": "acme"})
    organisation = Organisation.objects.get()
    team = {"organisation": str(organisation.id), "name": "search", "weight": "4"}
    admin_client.post("/admin/billing/team/add/", team)

    assert (Team.objects.get().organisation, Team.objects.get().weight) == (organisation, 4)
    assert principals.get_revision() == 2


def budget_form(**changes):
    blank = {"organisation": "", "team": "", "key": ""}
    values = {"limit_nanousd": "12.5", "window": "month", "timezone": "UTC", "is_hard": "on"}
    return {**blank, **values, **changes}


def test_budget_limit_is_entered_in_usd_exactly(admin_client, team_id):
    form = budget_form(team=str(team_id), limit_nanousd="0.000000001", timezone="Europe/Berlin")

    admin_client.post("/admin/billing/budget/add/", form)

    budget = Budget.objects.get()
    assert (budget.limit_nanousd, budget.timezone, budget.is_hard) == (1, "Europe/Berlin", True)
    page = text_of(admin_client.get(f"/admin/billing/budget/{budget.id}/change/"))
    assert 'name="limit_nanousd" value="0.000000001"' in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Choose exactly one owner"),
        ({"limit_nanousd": "1,5"}, "not an amount"),
        ({"limit_nanousd": "-1"}, "not between"),
        ({"limit_nanousd": "0.0000000001"}, "more than 9 decimals"),
        ({"limit_nanousd": ""}, "This field is required."),
        ({"timezone": "Mars"}, "This is no time zone"),
        ({"window": "year"}, "Select a valid choice"),
    ],
)
def test_budget_form_refuses(admin_client, team_id, changes, message):
    owner = {"team": str(team_id)} if changes else {}

    answer = admin_client.post("/admin/billing/budget/add/", budget_form(**owner, **changes))

    assert answer.status_code == 200
    assert message in text_of(answer)
    assert Budget.objects.count() == 0


def test_budget_list_shows_what_its_window_has_spent(admin_client, team_id):
    budget_id = budgets.put_budget(team_id=team_id, limit_nanousd=10 * 10**9, window="month", is_hard=True)
    span = window_of(window="month", timezone="UTC", now=now())
    BudgetWindow.objects.create(
        id=f"{budget_id}:{span.key}",
        budget_id=budget_id,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        spent_nanousd=7 * 10**9,
        held_nanousd=1_500_000_000,
    )

    page = text_of(admin_client.get("/admin/billing/budget/"))

    for text in ("team search", "$10.00", "$7.00", "$1.50", '<span class="badge badge-warn">85.0%</span>'):
        assert text in page


def price_form(**changes):
    rates = {
        "input_microusd_per_mtok": "0.15",
        "output_microusd_per_mtok": "0.6",
        "cache_read_microusd_per_mtok": "0.01875",
        "cache_write_5m_microusd_per_mtok": "",
        "cache_write_1h_microusd_per_mtok": "",
        "reasoning_microusd_per_mtok": "",
    }
    moment = moment_fields("effective_at", datetime(2026, 1, 1, tzinfo=UTC))
    return {"model": "gpt", "cluster_name": "", "source": "manual", **moment, **rates, **changes}


def test_price_is_entered_in_usd_per_million_tokens(admin_client):
    answer = admin_client.post("/admin/billing/price/add/", price_form())

    price = Price.objects.get()
    assert answer.status_code == 302
    assert (
        price.input_microusd_per_mtok,
        price.output_microusd_per_mtok,
        price.cache_read_microusd_per_mtok,
        price.reasoning_microusd_per_mtok,
    ) == (150_000, 600_000, 18_750, None)
    assert LogEntry.objects.get().object_id == str(price.id)
    assert principals.get_revision() == 1


def test_same_price_again_is_refused_and_a_new_one_follows(admin_client):
    admin_client.post("/admin/billing/price/add/", price_form())
    later = moment_fields("effective_at", datetime(2026, 2, 1, tzinfo=UTC))

    same = admin_client.post("/admin/billing/price/add/", price_form(**later), follow=True)
    admin_client.post("/admin/billing/price/add/", price_form(**later, input_microusd_per_mtok="0.2"))
    page = text_of(admin_client.get("/admin/billing/price/"))

    assert "in force at that moment already: nothing was added" in text_of(same)
    assert Price.objects.count() == 2
    for text in ('badge-ok">in force<', 'badge-muted">replaced<', "$0.15", "$0.20", "$0.01875"):
        assert text in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_microusd_per_mtok": "0.0000001"}, "more than 6 decimals"),
        ({"output_microusd_per_mtok": "free"}, "not an amount"),
        ({"input_microusd_per_mtok": "10000000"}, "not between"),
        ({"model": ""}, "This field is required."),
    ],
)
def test_price_form_refuses(admin_client, changes, message):
    answer = admin_client.post("/admin/billing/price/add/", price_form(**changes))

    assert answer.status_code == 200
    assert message in text_of(answer)
    assert Price.objects.count() == 0


def test_effective_price_stays_and_a_scheduled_one_can_be_withdrawn(admin_client):
    rates = {"input_microusd_per_mtok": 1, "output_microusd_per_mtok": 1}
    put_price(model="old", effective_at=now() - timedelta(days=1), **rates)
    put_price(model="new", effective_at=now() + timedelta(days=1), **rates)
    old, new = (Price.objects.get(model=name) for name in ("old", "new"))

    change = admin_client.post(f"/admin/billing/price/{old.id}/change/", price_form())
    kept = admin_client.post(f"/admin/billing/price/{old.id}/delete/", {"post": "yes"})
    withdrawn = admin_client.post(f"/admin/billing/price/{new.id}/delete/", {"post": "yes"})

    assert [answer.status_code for answer in (change, kept, withdrawn)] == [403, 403, 302]
    assert list(Price.objects.all()) == [old]


@pytest.mark.parametrize("model", ["organisation", "team", "apikey", "budget", "price"])
def test_lists_ask_as_many_queries_for_3_rows_as_for_1(admin_client, model):
    counts = []
    for number in range(3):
        organisation_id = keys.put_organisation(name=f"o{number}")
        team_id = keys.put_team(organisation_id=organisation_id, name=f"t{number}")
        issued = keys.issue_key(team_id=team_id, name=f"k{number}")
        budgets.put_budget(key_id=issued.id, limit_nanousd=1, window="day", is_hard=True)
        put_price(
            model=f"m{number}",
            input_microusd_per_mtok=1,
            output_microusd_per_mtok=1,
            effective_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        with CaptureQueriesContext(connection) as queries:
            answer = admin_client.get(f"/admin/billing/{model}/")
        assert answer.status_code == 200
        counts.append(len(queries))

    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("model", ["organisation", "team", "apikey", "budget", "price"])
def test_search_and_forms_open(admin_client, model):
    search = admin_client.get(f"/admin/billing/{model}/?q=search")
    form = admin_client.get(f"/admin/billing/{model}/add/")

    assert (search.status_code, form.status_code) == (200, 200)
