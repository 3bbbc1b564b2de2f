"""What a key's holder sees of its budgets: its own in full, of shared ones what is left."""

from datetime import timedelta

import pytest

from billing import budgets, keys, ledger
from billing.balances import BudgetBalance, Override, budget_balances
from billing.entries import Batch
from billing.models import Reservation
from billing.principals import load_principals
from gateway.accounting import WindowCalendar
from tests.billing.holds import NOW, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__")

UNTIL = NOW + timedelta(hours=1)


@pytest.fixture
def principal():
    team_id = keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="red")
    key = keys.issue_key(team_id=team_id, name="ci")
    budgets.put_budget(team_id=team_id, limit_nanousd=5_000, window="month", is_hard=True)
    own = budgets.put_budget(key_id=key.id, limit_nanousd=4_000, window="total", is_hard=True)
    budgets.override_budget(budget_id=own, limit_nanousd=9_000, until=UNTIL, reason="launch", now=NOW)
    (found,) = load_principals().values()
    return found


def spend(principal):
    """One settled, one running, and one whose process died."""
    claims = WindowCalendar().claims_of(principal, now=NOW)
    settled, running, lost = (new_hold(held_nanousd=amount, claims=claims) for amount in (1_000, 300, 70))
    ledger.commit(Batch(holds=[settled, running, lost]))
    ledger.commit(Batch(settlements=[new_settlement(settled, input_tokens=1)]))
    Reservation.objects.filter(attempt_id=lost.attempt_id).update(state="in_doubt")


def test_balances_of_a_key(principal):
    spend(principal)

    team, own = budget_balances(principal=principal, now=NOW)

    assert (team.owner_kind, team.owner_name, team.remaining_nanousd) == ("team", "red", 5_000 - 1_370)
    assert (team.limit_nanousd, team.spent_nanousd, team.held_nanousd, team.in_doubt_nanousd) == (None,) * 4
    assert own == BudgetBalance(
        owner_kind="key",
        owner_name="ci",
        window="total",
        is_hard=True,
        is_clamped=False,
        starts_at=own.starts_at,
        resets_at=None,
        remaining_nanousd=9_000 - 1_370,
        limit_nanousd=9_000,
        spent_nanousd=1_000,
        held_nanousd=370,
        in_doubt_nanousd=70,
        override=Override(limit_nanousd=9_000, until=UNTIL, reason="launch"),
    )


def test_balances_after_the_override(principal):
    spend(principal)

    _, own = budget_balances(principal=principal, now=UNTIL)

    assert (own.limit_nanousd, own.remaining_nanousd, own.override) == (4_000, 4_000 - 1_370, None)
