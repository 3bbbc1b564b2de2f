"""What in the books asks for attention: close budgets, attempts in doubt."""

from contextlib import ExitStack
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing import budgets, keys
from billing.models import BudgetWindow, Reservation
from billing.overview import BudgetUse, count_in_doubt, load_close_budgets
from billing.windows import window_of
from tests.billing.rows import NOW

pytestmark = pytest.mark.django_db(databases="__all__")


def add_budget(*, spent=0, held=0, limit=1_000, at=NOW, **owner):
    budget_id = budgets.put_budget(limit_nanousd=limit, window="month", is_hard=True, **owner)
    span = window_of(window="month", timezone="UTC", now=at)
    BudgetWindow.objects.create(
        id=f"{budget_id}:{span.key}",
        budget_id=budget_id,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        spent_nanousd=spent,
        held_nanousd=held,
    )
    return budget_id


def add_reservation(state):
    Reservation.objects.create(
        attempt_id=uuid4(),
        request_id="req-1",
        owner=UUID(int=1),
        state=state,
        held_nanousd=5,
        created_at=NOW,
        updated_at=NOW,
    )


def test_load_close_budgets_tells_those_nearly_spent_fullest_first():
    acme = keys.put_organisation(name="acme")
    search, support = (keys.put_team(organisation_id=acme, name=name) for name in ("search", "support"))
    close = add_budget(organisation_id=acme, spent=790, held=10)
    full = add_budget(team_id=search, spent=1_001)
    add_budget(team_id=support, spent=799)

    found = load_close_budgets(now=NOW)

    shared = {"window": "month", "is_hard": True, "limit_nanousd": 1_000}
    assert found == (
        BudgetUse(id=str(full), owner="team search", spent_nanousd=1_001, held_nanousd=0, **shared),
        BudgetUse(id=str(close), owner="organisation acme", spent_nanousd=790, held_nanousd=10, **shared),
    )
    assert [use.is_full for use in found] == [True, False]


def test_load_close_budgets_forgets_the_window_before():
    acme = keys.put_organisation(name="acme")
    add_budget(organisation_id=acme, spent=1_000, at=NOW - timedelta(days=31))

    assert load_close_budgets(now=NOW) == ()


def test_load_close_budgets_asks_twice_however_many_there_are():
    def count_queries():
        aliases = {"default", settings.LEDGER_DATABASE}
        with ExitStack() as stack:
            captured = [stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in aliases]
            load_close_budgets(now=NOW)
        return sum(map(len, captured))

    acme = keys.put_organisation(name="acme")
    add_budget(organisation_id=acme, spent=900)
    with_one = count_queries()
    for name in ("search", "support"):
        add_budget(team_id=keys.put_team(organisation_id=acme, name=name), spent=900)

    assert (with_one, count_queries()) == (2, 2)


def test_count_in_doubt_counts_neither_held_nor_closed():
    for state in ("in_doubt", "held", "settled", "void", "in_doubt"):
        add_reservation(state)

    assert count_in_doubt() == 2
