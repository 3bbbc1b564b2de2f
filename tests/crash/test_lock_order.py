"""Two processes that write the same budgets' windows in opposite order: neither waits for the other."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from billing import ledger
from billing.entries import Batch
from billing.models import BudgetWindow
from tests.billing.holds import new_claim, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)

BATCHES = 150
WRITERS = 3


def test_batches_that_cross_do_not_deadlock():
    claims = [(new_claim(limit_nanousd=10**12, budget=number),) for number in range(6)] + [()]

    def write(seed):
        """Each batch ends the holds of the one before, and holds for others: as a gateway's batches do."""
        draw = random.Random(seed)
        held = []
        try:
            for _ in range(BATCHES):
                settlements = [new_settlement(hold) for hold in held]
                held = [new_hold(held_nanousd=1_000, claims=draw.choice(claims)) for _ in range(2)]
                assert ledger.commit(Batch(settlements=settlements, holds=held)) == {}
            ledger.commit(Batch(settlements=[new_settlement(hold) for hold in held]))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(WRITERS)))

    assert set(BudgetWindow.objects.values_list("held_nanousd", flat=True)) == {0}
