"""The limits of keys, teams and models, as they are written and as gateways load them."""

from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from billing import keys, limits
from billing.limits import LimitView
from billing.models import ApiKey, ModelLimit, Team
from billing.principals import load_principals
from billing.records import RecordError
from billing.revision import get_revision

pytestmark = pytest.mark.django_db


@pytest.fixture
def team_id():
    return keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="search")


@pytest.fixture
def key(team_id):
    return keys.issue_key(team_id=team_id, name="ci", rpm_max=60, concurrent_max=3)


def view(scope, label, **values):
    return LimitView(
        **{"scope": scope, "label": label, "rpm_max": None, "tpm_max": None, "concurrent_max": None, **values}
    )


def principal_of(issued):
    return load_principals()[keys.digest_key(issued.key.encode())]


def test_principal_has_the_limits_of_its_key_and_its_team(team_id, key):
    team = Team.objects.get(id=team_id)
    team.tpm_max = 1000
    keys.save_record(record=team)

    assert principal_of(key).limits == (
        view(f"key:{key.id}", f"API key {key.prefix}…", rpm_max=60, concurrent_max=3),
        view(f"team:{team_id}", 'team "search"', tpm_max=1000),
    )


def test_principal_has_every_limit_of_a_model_that_binds_it(team_id, key):
    limits.put_model_limit(model="m", rpm_max=10)
    limits.put_model_limit(model="m", team_id=team_id, tpm_max=20)
    limits.put_model_limit(model="m", key_id=key.id, concurrent_max=30)
    limits.put_model_limit(model="other", key_id=key.id, rpm_max=40)
    stranger = keys.issue_key(team_id=team_id, name="stranger")

    everybody = view("model:m", "model `m` for everybody", rpm_max=10)
    team = view(f"model:m:{team_id}", 'model `m` for team "search"', tpm_max=20)
    assert principal_of(key).model_limits == {
        "m": (view(f"model:m:{key.id}", "model `m` for this key", concurrent_max=30), team, everybody),
        "other": (view(f"model:other:{key.id}", "model `other` for this key", rpm_max=40),),
    }
    assert principal_of(stranger).model_limits == {"m": (team, everybody)}


def test_model_limit_that_is_put_again_replaces_the_first(key):
    first = limits.put_model_limit(model="m", key_id=key.id, rpm_max=10)
    revision = get_revision()
    again = limits.put_model_limit(model="m", key_id=key.id, tpm_max=20)

    assert again == first
    assert ModelLimit.objects.values_list("rpm_max", "tpm_max").get() == (None, 20)
    assert get_revision() > revision


def test_model_limit_that_is_deleted_binds_nobody(key):
    limits.put_model_limit(model="m", rpm_max=10)
    limits.delete_model_limit(record=ModelLimit.objects.get())

    assert principal_of(key).model_limits == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give at least one limit"),
        ({"rpm_max": 0}, "a limit of 0 requests per minute lets nothing through"),
        ({"concurrent_max": 0}, "a limit of 0 requests at once lets nothing through"),
        ({"rpm_max": 1, "team_id": uuid4(), "key_id": uuid4()}, "a key's, a team's"),
    ],
)
def test_model_limit_that_cannot_be_is_refused(values, message):
    with pytest.raises(RecordError, match=message):
        limits.put_model_limit(model="m", **values)


def test_database_keeps_one_limit_of_a_model_for_everybody():
    ModelLimit.objects.create(model="m", rpm_max=1)

    with pytest.raises(IntegrityError), transaction.atomic():
        ModelLimit.objects.create(model="m", rpm_max=2)


@pytest.mark.parametrize("model_count", [1, 3])
def test_load_principals_asks_as_many_queries_however_many_limits(
    key, model_count, django_assert_num_queries
):
    for number in range(model_count):
        limits.put_model_limit(model=f"m{number}", rpm_max=10)
        limits.put_model_limit(model=f"m{number}", key_id=key.id, rpm_max=10)

    with django_assert_num_queries(3):
        load_principals()
    assert ApiKey.objects.count() == 1


def test_admin_shows_and_saves_a_model_s_limits(admin_client, team_id):
    form = {
        "model": "m",
        "team": str(team_id),
        "key": "",
        "rpm_max": "5",
        "tpm_max": "",
        "concurrent_max": "",
    }

    added = admin_client.post("/admin/billing/modellimit/add/", form)
    empty = admin_client.post(
        "/admin/billing/modellimit/add/", {**form, "team": "", "rpm_max": ""}, follow=True
    )
    page = admin_client.get("/admin/billing/modellimit/").content.decode()

    assert added.status_code == 302
    assert "Give at least one limit" in empty.content.decode()
    assert "team search" in page
    assert "5 requests/min" in page
