import stat
from datetime import UTC, datetime

import pytest
from django.contrib.auth import authenticate, get_user_model

from billing import keys, principals
from gateway import first_run
from gateway.first_run import FirstRun

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)

pytestmark = pytest.mark.django_db(databases="__all__")


def prepared(data_dir, admin_password=""):
    return first_run.prepare(data_dir=data_dir, admin_password=admin_password, now=NOW)


def test_first_start_makes_an_administrator_and_a_key(tmp_path):
    made = prepared(tmp_path)

    assert authenticate(username="admin", password=made.admin_password).is_superuser
    principal = principals.load_principals()[keys.digest_key(made.api_key.encode())]
    assert (principal.organisation, principal.team, principal.key_name) == ("Demo", "demo", "first key")


def test_what_was_made_up_is_kept_for_its_owner_alone(tmp_path):
    made = prepared(tmp_path)

    path = first_run.first_run_path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines() == [
        "# Made on 2030-01-02 03:04 UTC by the first start. Change or delete it as you like.",
        "admin: admin",
        f"password: {made.admin_password}",
        f"key: {made.api_key}",
    ]


def test_second_start_makes_nothing_twice(tmp_path):
    prepared(tmp_path)
    notes = first_run.first_run_path(tmp_path).read_text()

    again = prepared(tmp_path)

    assert again == FirstRun(admin_username="admin", admin_password=None, api_key=None)
    assert get_user_model().objects.count() == 1
    assert len(principals.load_principals()) == 1
    assert first_run.first_run_path(tmp_path).read_text() == notes


def test_given_password_is_used_and_neither_shown_nor_kept(tmp_path):
    made = prepared(tmp_path, admin_password="correct horse battery")

    assert made.admin_password is None
    assert authenticate(username="admin", password="correct horse battery").is_superuser
    assert "battery" not in first_run.first_run_path(tmp_path).read_text()


def test_administrator_under_another_name_is_enough(tmp_path):
    get_user_model().objects.create_superuser(username="grace", email="", password="x")

    made = prepared(tmp_path)

    assert made.admin_password is None
    assert list(get_user_model().objects.values_list("username", flat=True)) == ["grace"]


def test_secrets_are_not_in_the_representation(tmp_path):
    made = prepared(tmp_path)

    assert repr(made) == "FirstRun(admin_username='admin')"


def test_made_up_passwords_differ_and_can_be_typed():
    passwords = {first_run._readable_password() for _ in range(100)}

    assert len(passwords) == 100
    assert {len(password) for password in passwords} == {23}
    assert set("".join(passwords)) <= set(first_run.PASSWORD_ALPHABET + "-")
