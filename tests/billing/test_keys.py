"""Keys, teams, organisations and budgets: what is written, refused and loaded."""

import string
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from hypothesis import given
from hypothesis import strategies as st

from billing import budgets, keys, principals
from billing.limits import LimitView
from billing.models import ApiKey, Budget, Organisation, Team
from billing.records import RecordError
from tests.billing.rows import make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def organisation_id():
    return keys.put_organisation(name="acme")


@pytest.fixture
def team_id(organisation_id):
    return keys.put_team(organisation_id=organisation_id, name="search")


def test_issued_key_is_well_formed_and_stored_as_digest_only(team_id):
    issued = keys.issue_key(team_id=team_id, name="ci")

    record = ApiKey.objects.get(id=issued.id)
    assert keys.is_well_formed(issued.key)
    assert issued.key.startswith(f"{issued.prefix}_")
    assert (record.prefix, record.digest) == (issued.prefix, keys.digest_key(issued.key.encode()).hex())
    assert issued.key not in repr(issued)
    assert issued.key not in repr(record.__dict__)


def test_issued_keys_differ(team_id):
    issued = {keys.issue_key(team_id=team_id, name="ci").key for _ in range(20)}

    assert len(issued) == 20


@given(position=st.integers(0, 49), character=st.sampled_from(string.ascii_letters + string.digits + "_-é"))
def test_well_formed_refuses_any_changed_character(position, character):
    key = keys._random_key()
    changed = key[:position] + character + key[position + 1 :]

    assert keys.is_well_formed(changed) == (changed == key)


@pytest.mark.parametrize("text", ["", "tg_", "sk-1234", "tg_" + "a" * 47, "x" * 50, "tg_ä" + "a" * 46])
def test_well_formed_refuses_other_texts(text):
    assert not keys.is_well_formed(text)


def test_issue_key_refuses_what_cannot_work(team_id):
    for given_values, message in [
        ({"team_id": uuid4(), "name": "x"}, "there is no team"),
        ({"team_id": team_id, "name": ""}, "name: This field cannot be blank."),
        ({"team_id": team_id, "name": "x", "allowed_models": [""]}, "allowed models are a list of names"),
        ({"team_id": team_id, "name": "x", "rpm_max": 0}, "lets nothing through"),
        ({"team_id": team_id, "name": "x", "expires_at": datetime(2027, 1, 1)}, "needs a time zone"),  # noqa: DTZ001
    ]:
        with pytest.raises(RecordError, match=message):
            keys.issue_key(**given_values)

    assert ApiKey.objects.count() == 0


def test_revoke_key_keeps_the_first_moment(team_id):
    issued = keys.issue_key(team_id=team_id, name="ci")

    keys.revoke_key(key_id=issued.id, now=NOW)
    keys.revoke_key(key_id=issued.id, now=NOW + timedelta(hours=1))

    assert ApiKey.objects.get(id=issued.id).revoked_at == NOW


def test_revoke_key_refuses_an_unknown_key():
    with pytest.raises(RecordError, match="there is no key"):
        keys.revoke_key(key_id=uuid4(), now=NOW)


def test_put_organisation_and_team_find_what_is_there(organisation_id, team_id):
    again = keys.put_organisation(name="acme")
    team_again = keys.put_team(organisation_id=again, name="search")

    assert (again, team_again) == (organisation_id, team_id)
    assert keys.find_team(name="search") == (team_id, organisation_id)
    assert keys.find_team(name="nobody") is None


def test_put_team_refuses_a_name_of_another_organisation(team_id):
    other_id = keys.put_organisation(name="umbrella")

    with pytest.raises(RecordError, match="belongs to the organisation 'acme'"):
        keys.put_team(organisation_id=other_id, name="search")


def test_put_budget_changes_the_owners_budget_of_that_window(team_id):
    first = budgets.put_budget(team_id=team_id, limit_nanousd=5, window="month", is_hard=True)
    same = budgets.put_budget(
        team_id=team_id, limit_nanousd=7, window="month", is_hard=True, timezone="Europe/Berlin"
    )
    soft = budgets.put_budget(team_id=team_id, limit_nanousd=5, window="month", is_hard=False)

    assert (same, soft == first) == (first, False)
    found = Budget.objects.filter(id=first).values_list("limit_nanousd", "timezone").get()
    assert found == (7, "Europe/Berlin")


def test_put_budget_refuses_what_cannot_work(team_id, organisation_id):
    good = {"team_id": team_id, "limit_nanousd": 5, "window": "month", "is_hard": True}
    for change, message in [
        ({"organisation_id": organisation_id}, "exactly one"),
        ({"team_id": None}, "exactly one"),
        ({"team_id": uuid4()}, "team: "),
        ({"window": "year"}, "window: "),
        ({"timezone": "Mars/Base"}, "unknown time zone"),
        ({"timezone": "../etc/passwd"}, "unknown time zone"),
        ({"limit_nanousd": -1}, "not between"),
        ({"limit_nanousd": 2**63}, "not between"),
    ]:
        with pytest.raises(RecordError, match=message):
            budgets.put_budget(**{**good, **change})

    assert Budget.objects.count() == 0


def test_every_write_bumps_the_revision_and_no_repetition_does(organisation_id, team_id):
    counts = [principals.get_revision()]
    issued = keys.issue_key(team_id=team_id, name="ci")
    counts.append(principals.get_revision())
    for _ in range(2):
        keys.revoke_key(key_id=issued.id, now=NOW)
        counts.append(principals.get_revision())
    for _ in range(2):
        budgets.put_budget(team_id=team_id, limit_nanousd=5, window="day", is_hard=True)
        counts.append(principals.get_revision())
    keys.put_team(organisation_id=organisation_id, name="search")
    counts.append(principals.get_revision())
    keys.delete_records(records=list(Budget.objects.all()))
    counts.append(principals.get_revision())

    assert counts == [2, 3, 4, 4, 5, 5, 5, 6]


def test_revision_is_zero_before_the_first_write(django_assert_num_queries):
    with django_assert_num_queries(1):
        number = principals.get_revision()

    assert number == 0


def test_delete_records_keeps_what_the_ledger_knows(team_id, organisation_id):
    issued = keys.issue_key(team_id=team_id, name="ci")
    make_usage(key_id=issued.id)

    for record in (ApiKey.objects.get(), Team.objects.get(), Organisation.objects.get()):
        with pytest.raises(RecordError, match="revoke its keys instead"):
            keys.delete_records(records=[record])

    assert (ApiKey.objects.count(), Team.objects.count()) == (1, 1)


def test_delete_records_deletes_what_was_never_used(team_id):
    keys.issue_key(team_id=team_id, name="ci")

    with pytest.raises(RecordError, match="still owns teams or keys"):
        keys.delete_records(records=[Team.objects.get()])
    keys.delete_records(records=[ApiKey.objects.get()])
    keys.delete_records(records=[Team.objects.get()])

    assert (ApiKey.objects.count(), Team.objects.count()) == (0, 0)


def test_load_principals_gives_the_whole_caller(organisation_id, team_id):
    issued = keys.issue_key(
        team_id=team_id, name="ci", allowed_models=["a", "b"], expires_at=NOW, rpm_max=60, tpm_max=1000
    )
    budget_ids = [
        budgets.put_budget(**owner, limit_nanousd=limit, window="month", is_hard=True)
        for owner, limit in [
            ({"key_id": issued.id}, 1),
            ({"team_id": team_id}, 2),
            ({"organisation_id": organisation_id}, 3),
        ]
    ]

    loaded = principals.load_principals()

    def view(index, owner, limit):
        return budgets.BudgetView(
            id=str(budget_ids[index]),
            owner=owner,
            limit_nanousd=limit,
            window="month",
            timezone="UTC",
            is_hard=True,
        )

    assert loaded == {
        keys.digest_key(issued.key.encode()): principals.Principal(
            key_id=str(issued.id),
            key_name="ci",
            prefix=issued.prefix,
            team="search",
            organisation="acme",
            allowed_models=frozenset({"a", "b"}),
            expires_at=NOW,
            revoked_at=None,
            limits=(
                LimitView(
                    scope=f"key:{issued.id}",
                    label=f"API key {issued.prefix}…",
                    rpm_max=60,
                    tpm_max=1000,
                    concurrent_max=None,
                ),
            ),
            model_limits={},
            budgets=(
                view(2, 'organisation "acme"', 3),
                view(1, 'team "search"', 2),
                view(0, 'key "ci"', 1),
            ),
        )
    }


def test_load_principals_keeps_keys_revoked_lately_only(team_id):
    lately, long_ago = (keys.issue_key(team_id=team_id, name=name) for name in ("lately", "long ago"))
    ApiKey.objects.filter(id=lately.id).update(revoked_at=Now() - timedelta(days=29))
    ApiKey.objects.filter(id=long_ago.id).update(revoked_at=Now() - timedelta(days=31))

    loaded = principals.load_principals()

    assert {principal.key_name for principal in loaded.values()} == {"lately"}


@pytest.mark.parametrize("key_count", [1, 3])
def test_load_principals_asks_three_queries(team_id, key_count, django_assert_num_queries):
    for number in range(key_count):
        issued = keys.issue_key(team_id=team_id, name=f"key {number}")
        budgets.put_budget(key_id=issued.id, limit_nanousd=1, window="day", is_hard=True)

    with django_assert_num_queries(3):
        loaded = principals.load_principals()

    assert len(loaded) == key_count
