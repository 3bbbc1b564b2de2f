"""Budgets of LiteLLM's key management: the request that crosses the limit is the last one."""

import pytest

from billing import ledger
from billing.entries import Batch
from billing.models import BudgetWindow
from billing.reconciliation import reconcile
from tests.billing.holds import new_claim, new_hold, new_settlement
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


def crossing(*, limit_nanousd):
    return replace(new_claim(limit_nanousd=limit_nanousd), is_crossed=True)


def refused(*holds):
    found = ledger.commit(Batch(holds=list(holds)))
    return [
        (error.claim.limit_nanousd, error.spent_nanousd + error.held_nanousd)
        for error in (found.get(h.attempt_id) for h in holds)
        if error
    ]


def test_request_that_crosses_is_the_last():
    claim = crossing(limit_nanousd=1)
    first, second = (new_hold(held_nanousd=1_000_000, claims=[claim]) for _ in range(2))

    assert refused(first) == []
    assert refused(second) == [(1, 1_000_000)]
    ledger.commit(Batch(settlements=[new_settlement(first, input_tokens=700)]))
    assert refused(second) == [(1, 700_000)]
    assert BudgetWindow.objects.values_list("spent_nanousd", "held_nanousd").get() == (700_000, 0)
    assert reconcile().drift == ()


@pytest.mark.parametrize("held_nanousd", [0, 1, 1_000])
def test_limit_of_nothing_lets_nothing_through(held_nanousd):
    hold = new_hold(held_nanousd=held_nanousd, claims=[crossing(limit_nanousd=0)])

    assert refused(hold) == [(0, 0)]


@pytest.mark.parametrize(
    ("limit_nanousd", "let_in"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1_000, 5)]
)
def test_holds_of_one_batch_are_counted_one_after_the_other(limit_nanousd, let_in):
    claim = crossing(limit_nanousd=limit_nanousd)
    holds = [new_hold(held_nanousd=10, claims=[claim]) for _ in range(5)]

    assert len(refused(*holds)) == 5 - let_in
    assert BudgetWindow.objects.get().held_nanousd == 10 * let_in


def test_holds_of_different_size_in_one_batch():
    claim = crossing(limit_nanousd=100)
    large, small = new_hold(held_nanousd=100, claims=[claim]), new_hold(held_nanousd=1, claims=[claim])

    assert refused(small, large) == []
    assert refused(new_hold(held_nanousd=1, claims=[claim])) == [(100, 101)]


def test_hard_budget_beside_it_still_holds():
    hard = new_claim(limit_nanousd=999, budget=2)
    hold = new_hold(held_nanousd=1_000, claims=[crossing(limit_nanousd=10**9), hard])

    assert refused(hold) == [(999, 0)]
