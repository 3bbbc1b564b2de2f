"""The command that overrides a budget, and the flag that clamps one."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from billing import budgets, keys
from billing.budgets import limit_at
from billing.models import Budget

pytestmark = pytest.mark.django_db(databases="__all__")

FAR = datetime(2200, 1, 31, tzinfo=UTC)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def budget_id():
    team_id = keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="red")
    return str(budgets.put_budget(team_id=team_id, limit_nanousd=5, window="day", is_hard=True))


def test_override_budget_counts_until_its_end_and_can_be_ended(budget_id):
    given = ("--limit-usd", "2.50", "--until", "2200-01-31T00:00Z", "--reason", "launch week")

    run("override_budget", budget_id, *given)
    record = Budget.objects.get()
    limits = [limit_at(record, now=at) for at in (FAR - timedelta(seconds=1), FAR)]
    run("override_budget", budget_id, "--end")

    assert (limits, record.override_reason) == ([2_500_000_000, 5], "launch week")
    assert Budget.objects.get().override_until is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --limit-usd, --until and --reason, or --end alone"),
        (("--limit-usd", "1"), "give --limit-usd, --until and --reason"),
        (("--end", "--reason", "x"), "or --end alone"),
        (("--limit-usd", "one", "--until", "2200-01-01T00:00Z", "--reason", "x"), "one is not an amount"),
        (("--limit-usd", "1", "--until", "soon", "--reason", "x"), "'soon' is no moment"),
        (("--limit-usd", "1", "--until", "2020-01-01", "--reason", "x"), "is over"),
        (("--limit-usd", "1", "--until", "2200-01-01", "--reason", ""), "needs a reason"),
    ],
)
def test_override_budget_refuses(budget_id, arguments, message):
    with pytest.raises(CommandError, match=message):
        run("override_budget", budget_id, *arguments)

    assert Budget.objects.get().override_until is None


def test_override_budget_of_none_is_refused():
    with pytest.raises(CommandError, match="there is no budget"):
        run("override_budget", str(UUID(int=7)), "--end")


def test_create_api_key_clamps_its_hard_budget():
    budget = ("--budget-usd", "1", "--hard", "--clamp")

    answer = json.loads(run("create_api_key", "--team", "red", "--name", "ci", *budget, "--json"))

    record = Budget.objects.get()
    assert (str(record.key_id), record.is_hard, record.is_clamped) == (answer["id"], True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clamp",), "--clamp describes a budget: give --budget-usd too"),
        (("--budget-usd", "1", "--clamp"), "only a hard budget shortens answers"),
    ],
)
def test_create_api_key_refuses_to_clamp_what_is_not_hard(arguments, message):
    with pytest.raises(CommandError, match=message):
        run("create_api_key", "--team", "red", "--name", "ci", *arguments)

    assert Budget.objects.count() == 0
