"""Budgets through their door: limits, overrides that end by themselves, clamping, and what is refused."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from billing import budgets, keys, principals
from billing.budgets import BudgetView, limit_at, override_at
from billing.models import Budget
from billing.records import RecordError

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=6)


@pytest.fixture
def team_id():
    return keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="red")


@pytest.fixture
def budget_id(team_id):
    return budgets.put_budget(team_id=team_id, limit_nanousd=1_000, window="month", is_hard=True)


def loaded(team_id):
    (view,) = budgets.load_budgets()[team_id]
    return view


def test_budget_loads_as_it_was_put(team_id, budget_id):
    assert loaded(team_id) == BudgetView(
        id=str(budget_id),
        owner='team "red"',
        limit_nanousd=1_000,
        window="month",
        timezone="UTC",
        is_hard=True,
        is_clamped=False,
        is_crossed=False,
        override_limit_nanousd=None,
        override_until=None,
    )


def test_budget_put_again_changes_what_is_given_and_keeps_the_rest(team_id, budget_id):
    owner = {"team_id": team_id, "window": "month", "is_hard": True}
    Budget.objects.update(warning_emails=["ops@example.org"])

    again = budgets.put_budget(**owner, limit_nanousd=1_000, is_clamped=True)
    budgets.override_budget(budget_id=budget_id, limit_nanousd=9, until=LATER, reason="launch", now=NOW)
    revision = principals.get_revision()
    budgets.put_budget(**owner, limit_nanousd=1_000)
    same = principals.get_revision()
    budgets.put_budget(**owner, limit_nanousd=2_000)

    view = loaded(team_id)
    assert (again, same, principals.get_revision()) == (budget_id, revision, revision + 1)
    assert (view.limit_nanousd, view.is_clamped, view.override_limit_nanousd) == (2_000, True, 9)
    assert Budget.objects.get().warning_emails == ["ops@example.org"]


@pytest.mark.parametrize("limit_nanousd", [0, 10, 10**12])
def test_override_counts_up_to_its_end_and_then_no_more(team_id, budget_id, limit_nanousd):
    before = principals.get_revision()

    budgets.override_budget(
        budget_id=budget_id, limit_nanousd=limit_nanousd, until=LATER, reason=" launch ", now=NOW
    )

    view, row = loaded(team_id), Budget.objects.get()
    moments = [NOW, LATER - timedelta(microseconds=1), LATER, LATER + timedelta(days=1)]
    for budget in (view, row):
        assert [limit_at(budget, now=at) for at in moments] == [limit_nanousd, limit_nanousd, 1_000, 1_000]
        assert [override_at(budget, now=at) for at in moments] == [LATER, LATER, None, None]
    assert (row.override_reason, principals.get_revision()) == ("launch", before + 1)


def test_override_replaces_the_one_before_and_can_be_ended(team_id, budget_id):
    for limit in (5_000, 7_000):
        budgets.override_budget(
            budget_id=budget_id, limit_nanousd=limit, until=LATER, reason="launch", now=NOW
        )
    during = limit_at(loaded(team_id), now=NOW)
    before = principals.get_revision()

    for _ in range(2):
        budgets.end_override(budget_id=budget_id)

    row = Budget.objects.get()
    assert during == 7_000
    assert limit_at(loaded(team_id), now=NOW) == 1_000
    assert (row.override_limit_nanousd, row.override_until, row.override_reason) == (None, None, "")
    assert principals.get_revision() == before + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"until": NOW}, "an override ends in the future; 2030-01-02T12:00:00\\+00:00 is over"),
        ({"until": NOW - timedelta(days=1)}, "is over"),
        ({"until": datetime(2031, 1, 1)}, "needs a time zone"),  # noqa: DTZ001 -- what is refused
        ({"reason": " "}, "needs a reason: say why"),
        ({"reason": "x" * 201}, "override_reason: Ensure this value has at most 200 characters"),
        ({"limit_nanousd": -1}, "a limit of -1 nano-USD is not between"),
        ({"limit_nanousd": 2**63}, "is not between"),
        ({"budget_id": UUID(int=7)}, f"there is no budget {UUID(int=7)}"),
    ],
)
def test_override_refuses(budget_id, changes, message):
    given = {"budget_id": budget_id, "limit_nanousd": 5, "until": LATER, "reason": "launch", "now": NOW}

    with pytest.raises(RecordError, match=message):
        budgets.override_budget(**{**given, **changes})

    assert Budget.objects.get().override_until is None


def test_end_of_an_override_of_no_budget_is_refused():
    with pytest.raises(RecordError, match="there is no budget"):
        budgets.end_override(budget_id=UUID(int=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_clamped": True, "is_hard": False}, "only a hard budget shortens answers"),
        ({"is_crossed": True, "is_hard": False}, "only a hard budget that is not clamped may be crossed"),
        ({"is_crossed": True, "is_clamped": True}, "may be crossed: choose one of the two"),
        ({"timezone": "Mars"}, "unknown time zone 'Mars'"),
        ({"limit_nanousd": -1}, "is not between"),
        ({"window": "year"}, "window"),
        ({"team_id": None}, "exactly one organisation, team or key"),
        ({"key_id": UUID(int=1)}, "exactly one organisation, team or key"),
    ],
)
def test_put_budget_refuses(team_id, changes, message):
    given = {"team_id": team_id, "limit_nanousd": 5, "window": "day", "is_hard": True}

    with pytest.raises(RecordError, match=message):
        budgets.put_budget(**{**given, **changes})

    assert Budget.objects.count() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"override_limit_nanousd": 5}, "give both or neither"),
        ({"override_until": LATER}, "give both or neither"),
        ({"warning_percents": [0]}, "whole percents of the limit, 1 to 1000"),
        ({"warning_percents": [1_001]}, "whole percents"),
        ({"warning_percents": ["80"]}, "whole percents"),
        ({"warning_percents": [True]}, "whole percents"),
        ({"warning_percents": 80}, "whole percents"),
        ({"warning_percents": list(range(1, 12))}, "at 10 percents at most"),
        ({"warning_emails": ["ops"]}, "'ops' is not an e-mail address"),
        ({"warning_emails": [5]}, "5 is not an e-mail address"),
        ({"warning_emails": "ops@example.org"}, "a list of e-mail addresses"),
        ({"warning_emails": ["ops@example.org"] * 21}, "20 at most"),
        ({"warning_webhook": "ftp://example.org/"}, "is not a URL that begins with http"),
        ({"warning_webhook": "example"}, "is not a URL"),
    ],
)
def test_record_of_a_budget_is_checked(budget_id, changes, message):
    record = Budget.objects.get()
    for name, value in changes.items():
        setattr(record, name, value)

    with pytest.raises(RecordError, match=message):
        keys.save_record(record=record)
