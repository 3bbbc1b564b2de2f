"""The proof of the sums finds each kind of drift, and attempts in doubt can be ended."""

import json

import pytest
from django.core.management import call_command
from django.db.models import F

from billing import ledger
from billing.entries import Batch, Checkpoint
from billing.models import BudgetWindow, Reservation, SpendRollup, UsageRecord
from billing.pruning import deleting_allowed
from billing.reconciliation import DoubtfulAttempt, Drift, Reconciliation, reconcile, settle_in_doubt
from tests.billing.holds import NOW, RATE, new_claim, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__")


def settled(*, input_tokens=10):
    hold = new_hold(held_nanousd=50_000, claims=[new_claim(limit_nanousd=10**9)])
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=input_tokens)]))
    return hold


def test_whole_ledger_has_no_drift():
    settled()
    settled(input_tokens=3)
    ledger.commit(Batch(holds=[new_hold(held_nanousd=7, claims=[new_claim(limit_nanousd=10**9)])]))

    assert reconcile() == Reconciliation(attempts=3, drift=(), in_doubt=())


def test_lost_row_is_drift():
    hold = settled()
    with deleting_allowed():
        UsageRecord.objects.all().delete()

    found = reconcile()

    window, hour = BudgetWindow.objects.get(), SpendRollup.objects.get()
    assert found.drift[:2] == (
        Drift(what="rows of a closed attempt", id=str(hold.attempt_id), expected=1, found=0),
        Drift(what="spent of a budget window", id=window.id, expected=0, found=10_000),
    )
    assert {(d.what, d.id, d.expected, d.found) for d in found.drift[2:]} == {
        ("requests of an hour", hour.id, 0, 1),
        ("input_tokens of an hour", hour.id, 0, 10),
        ("cost_nanousd of an hour", hour.id, 0, 10_000),
    }


def test_row_without_reservation_is_drift():
    hold = settled()
    Reservation.objects.all().delete()

    assert reconcile().drift[0] == Drift(
        what="reservations of a row", id=str(hold.attempt_id), expected=1, found=0
    )


def test_row_of_an_open_attempt_is_drift():
    hold = settled()
    Reservation.objects.update(state="held")

    assert reconcile().drift[0] == Drift(
        what="rows of an open attempt", id=str(hold.attempt_id), expected=0, found=1
    )


@pytest.mark.parametrize("column", ["spent_nanousd", "held_nanousd"])
def test_window_that_is_off_by_one_is_drift(column):
    settled()
    BudgetWindow.objects.update(**{column: F(column) + 1})

    found = reconcile()

    assert [(d.what, d.found - d.expected) for d in found.drift] == [
        (f"{column.removesuffix('_nanousd')} of a budget window", 1)
    ]


def test_lost_hour_is_drift():
    settled()
    SpendRollup.objects.all().delete()

    assert [(d.what, d.expected, d.found) for d in reconcile().drift] == [("requests of an hour", 1, 0)]


def in_doubt():
    rate = {name: getattr(RATE, name) for name in RATE.__slots__}
    claim = new_claim(limit_nanousd=10**9)
    hold = new_hold(held_nanousd=50_000, claims=[claim], rate=rate, prompt_tokens_estimate=4)
    ledger.commit(Batch(holds=[hold]))
    note = Checkpoint(attempt_id=hold.attempt_id, output_tokens=6, at=NOW)
    ledger.commit(Batch(checkpoints=[note]))
    ledger.mark_in_doubt(now=NOW)
    return hold


def test_attempt_in_doubt_is_listed_and_still_held():
    hold = in_doubt()

    assert reconcile() == Reconciliation(
        attempts=1,
        drift=(),
        in_doubt=(
            DoubtfulAttempt(
                attempt_id=str(hold.attempt_id),
                request_id="req_1",
                cluster="aws",
                held_nanousd=50_000,
                output_tokens_checkpoint=6,
                started_at=NOW.isoformat(),
            ),
        ),
    )


def test_attempt_in_doubt_is_charged_its_prompt_and_checkpoint_once():
    in_doubt()

    counts = (settle_in_doubt(now=NOW), settle_in_doubt(now=NOW))

    record, window = UsageRecord.objects.get(), BudgetWindow.objects.get()
    assert counts == (1, 0)
    assert (record.outcome, record.is_estimate, record.cost_nanousd) == ("in_doubt", True, 16_000)
    assert (window.spent_nanousd, window.held_nanousd) == (16_000, 0)
    assert reconcile() == Reconciliation(attempts=1, drift=(), in_doubt=())


def test_command_prints_its_document(capsys):
    settled()

    call_command("reconcile_ledger", json=True)

    assert json.loads(capsys.readouterr().out) == {"ok": True, "attempts": 1, "drift": [], "in_doubt": []}


def test_command_exits_1_on_drift(capsys):
    settled()
    BudgetWindow.objects.update(spent_nanousd=1)

    with pytest.raises(SystemExit) as ended:
        call_command("reconcile_ledger")

    assert ended.value.code == 1
    assert capsys.readouterr().out.endswith("1 attempts, 0 in doubt: 1 sums do not hold.\n")


def test_command_settles_what_is_in_doubt(capsys):
    in_doubt()

    call_command("reconcile_ledger", settle_in_doubt=True)

    assert capsys.readouterr().out == "1 attempts, 0 in doubt: every sum holds.\n"
