"""Pruning takes whole months and days, leaves every sum proven, and stops where something is wrong."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connections, transaction
from django.db.models import F

from billing import ledger, pruning, rollups
from billing.entries import Batch
from billing.models import BudgetWindow, ClosingBalance, PrunedPeriod, Reservation, SpendRollup, UsageRecord
from billing.pruning import Pruned, PruningRefusedError, deleting_allowed, prunable, prune
from billing.reconciliation import reconcile
from billing.tasks import prune_ledger
from gateway.identifiers import new_attempt_id
from tests.billing.holds import new_claim, new_hold, new_settlement
from tests.billing.rows import make_capacity

pytestmark = pytest.mark.django_db(databases="__all__")

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
JULY, AUGUST, OCTOBER = (datetime(2026, month, 10, 9, 20, tzinfo=UTC) for month in (7, 8, 10))
CLAIM = new_claim(limit_nanousd=10**9)


@pytest.fixture(autouse=True)
def _kept_60_days(settings):
    settings.USAGE_KEPT_DAYS = settings.ROLLUP_HOURS_KEPT_DAYS = 60


def hold_at(moment):
    attempt_id = new_attempt_id(now_ms=int(moment.timestamp() * 1000))
    hold = new_hold(held_nanousd=50_000, claims=[CLAIM], attempt_id=attempt_id, at=moment)
    ledger.commit(Batch(holds=[hold]))
    return hold


def settled(moment, *, input_tokens=10, after=timedelta(seconds=5)):
    hold = hold_at(moment)
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=input_tokens, at=moment + after)]))
    return hold


def pruned(now=NOW, **options):
    return prune(now=now, pause=lambda _seconds: None, **options)


def test_old_months_go_and_every_sum_stays_proven():
    for moment in (JULY, JULY, AUGUST):
        settled(moment)
    young = settled(OCTOBER)
    rollups.fold_days(now=NOW)

    found = pruned()

    assert found == Pruned(attempts=3, cost_nanousd=30_000, hour_rows=2)
    assert list(Reservation.objects.values_list("attempt_id", flat=True)) == [young.attempt_id]
    assert list(UsageRecord.objects.values_list("attempt_id", flat=True)) == [young.attempt_id]
    assert BudgetWindow.objects.get().spent_nanousd == 40_000
    assert ClosingBalance.objects.get(kind="window").sums == {"spent_nanousd": 30_000}
    periods = PrunedPeriod.objects.order_by("begun_before").values_list("begun_before", "attempts")
    assert list(periods) == [
        (datetime(2026, 8, 1, tzinfo=UTC), 2),
        (datetime(2026, 9, 1, tzinfo=UTC), 1),
    ]
    days = SpendRollup.objects.filter(period="day").order_by("starts_at")
    assert [(row.starts_at.month, row.requests) for row in days] == [(7, 2), (8, 1), (10, 1)]
    assert reconcile().drift == ()


def test_pruning_again_changes_nothing():
    settled(JULY)
    pruned()
    before = list(ClosingBalance.objects.values())

    assert pruned() == Pruned()
    assert list(ClosingBalance.objects.values()) == before


def test_month_that_is_not_wholly_old_enough_stays():
    settled(datetime(2026, 9, 1, tzinfo=UTC))

    # 60 days before is the 24th of September: only August is wholly older.
    assert pruned() == Pruned()
    assert UsageRecord.objects.count() == 1


def test_open_attempt_keeps_its_month_and_all_after_it():
    settled(JULY)
    settled(AUGUST)
    still_open = hold_at(AUGUST)

    first = pruned()
    ledger.commit(Batch(settlements=[new_settlement(still_open, input_tokens=1, at=NOW)]))
    second = pruned()

    assert (first.attempts, second.attempts) == (1, 2)
    assert reconcile().drift == ()


def test_row_that_was_settled_late_counts_in_its_own_hour():
    settled(AUGUST, after=timedelta(days=60))

    assert pruned().attempts == 1
    # Settled on the 9th of October, within what is kept: the hour stays, its balance with it.
    assert ClosingBalance.objects.get(kind="hour").sums["requests"] == 1
    assert reconcile().drift == ()


def test_stopped_run_is_taken_up_where_it_ended(monkeypatch):
    monkeypatch.setattr(pruning, "BATCH_ROWS", 2)
    for _ in range(5):
        settled(JULY)

    first = pruned(batches_max=1)

    assert (first.attempts, first.is_done) == (2, False)
    assert reconcile().drift == ()
    assert pruned().attempts == 3
    assert PrunedPeriod.objects.get().attempts == 5
    assert reconcile().drift == ()


def test_drift_stops_pruning_before_it_is_hidden():
    hold = settled(JULY)
    with deleting_allowed():
        UsageRecord.objects.all().delete()

    with pytest.raises(PruningRefusedError, match="begun before 2026-08-01 have not each one row"):
        pruned()
    assert Reservation.objects.get().attempt_id == hold.attempt_id


@pytest.mark.parametrize("kind", ["window", "hour"])
def test_balance_that_is_off_is_drift(kind, settings):
    settings.ROLLUP_HOURS_KEPT_DAYS = 0
    settled(JULY)
    pruned()
    balance = ClosingBalance.objects.get(kind=kind)
    name = {"window": "spent_nanousd", "hour": "cost_nanousd"}[kind]
    balance.sums[name] += 1
    balance.save()

    drift = reconcile().drift

    assert [(one.id, one.found - one.expected) for one in drift] == [(balance.row_id, -1)]


def test_hours_stay_while_their_rows_do(settings):
    settings.USAGE_KEPT_DAYS = 0
    settled(JULY)

    assert pruned() == Pruned()
    assert SpendRollup.objects.filter(period="hour").count() == 1


def test_zero_keeps_for_ever(settings):
    settings.USAGE_KEPT_DAYS = settings.ROLLUP_HOURS_KEPT_DAYS = 0
    settled(JULY)

    assert (prunable(now=NOW).attempts, pruned()) == (0, Pruned())


def test_day_whose_hours_are_gone_is_never_folded_to_less():
    settled(JULY)
    settled(JULY)
    rollups.fold_days(now=NOW)
    SpendRollup.objects.filter(period="hour").update(requests=F("requests") - 1)

    assert rollups.fold_days(now=NOW, again_from=JULY) == 0
    assert SpendRollup.objects.get(period="day").requests == 2


def test_owned_capacity_stays_proven_by_days_when_its_hours_are_gone():
    settled(JULY)
    hour = SpendRollup.objects.get(period="hour")
    make_capacity(cluster=hour.cluster, starts_at=hour.starts_at)
    SpendRollup.objects.update(amortised_nanousd=200)
    rollups.fold_days(now=NOW)

    pruned()

    assert reconcile().drift == ()
    SpendRollup.objects.update(amortised_nanousd=201)
    assert [(one.what, one.expected, one.found) for one in reconcile().drift] == [
        ("used of a cluster's day", 200, 201)
    ]


def test_command_says_what_would_go_and_what_went(capsys):
    settled(JULY)

    call_command("prune", dry_run=True)
    assert UsageRecord.objects.count() == 1
    call_command("prune")

    out = capsys.readouterr().out.splitlines()
    assert out == [
        "1 attempts (10000 nano-USD) and 0 hourly rows would go.",
        "1 attempts and 1 hourly rows are gone.",
    ]


def test_command_names_the_drift(capsys):
    settled(JULY)
    with deleting_allowed():
        UsageRecord.objects.all().delete()

    with pytest.raises(CommandError, match=r"see `manage\.py reconcile_ledger`"):
        call_command("prune")


def test_task_prunes():
    old = datetime(2020, 1, 5, tzinfo=UTC)
    settled(old)

    prune_ledger()

    assert (Reservation.objects.count(), UsageRecord.objects.count()) == (0, 0)


# --- Append-only


def test_usage_row_cannot_be_changed():
    settled(JULY)

    with (
        pytest.raises(IntegrityError, match="append-only"),
        transaction.atomic(using=django_settings.LEDGER_DATABASE),
    ):
        UsageRecord.objects.update(cost_nanousd=1)
    assert UsageRecord.objects.get().cost_nanousd == 10_000


def test_usage_row_cannot_be_deleted_on_postgresql_but_by_pruning():
    if connections[django_settings.LEDGER_DATABASE].vendor != "postgresql":
        pytest.skip("SQLite has no roles or settings to tell pruning by")
    settled(JULY)

    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        UsageRecord.objects.all().delete()
    with deleting_allowed():
        pass
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        UsageRecord.objects.all().delete()
    assert UsageRecord.objects.count() == 1
