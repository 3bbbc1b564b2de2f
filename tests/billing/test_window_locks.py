"""Locks on budget windows between two connections of PostgreSQL: nobody overshoots, nobody deadlocks."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings as django_settings
from django.db import connections

from billing import holds as hold_writer
from billing import ledger
from billing.entries import Batch, BudgetExceededError, Hold
from billing.models import BudgetWindow
from billing.reconciliation import reconcile
from billing.settlements import write_settlements
from tests.billing.holds import new_claim, new_hold, new_settlement

IS_POSTGRESQL = django_settings.DATABASES[django_settings.LEDGER_DATABASE]["ENGINE"].endswith("postgresql")
pytestmark = [
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.skipif(not IS_POSTGRESQL, reason="on SQLite one file lock stands before every write"),
]
WAIT_S = 20


def in_two_threads(first, second):
    """Both at once, each with a connection of its own; gives back what they return."""

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(closing(first)), threads.submit(closing(second))]
        return [future.result(WAIT_S) for future in futures]


def closing(work):
    """The same; the thread's connections are closed after it."""

    def run():
        try:
            return work()
        finally:
            connections.close_all()

    return run


def is_blocked(*, count=1):
    """Whether so many backends wait for a lock; asked until it is so, or for long."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(1_000):
        with connections[django_settings.LEDGER_DATABASE].cursor() as cursor:
            # Inside a transaction the view is as it was when it was first looked at.
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(sql)
            if cursor.fetchone()[0] >= count:
                return True
        threading.Event().wait(0.01)
    return False


def test_clamped_hold_reads_the_room_that_it_then_takes():
    """Between reading a window and adding to it no other transaction may take from it: it waits."""
    claim = new_claim(limit_nanousd=1_000)
    ledger.commit(Batch(holds=[new_hold(held_nanousd=100, claims=[claim])]))
    has_read, may_end = threading.Event(), threading.Event()

    def slow():
        connection = connections[django_settings.LEDGER_DATABASE]
        batch = Batch(holds=[new_hold(held_nanousd=900, claims=[claim])])
        with ledger.ledger_transaction(), connection.cursor() as cursor:
            hold_writer.lock_windows(cursor, connection, batch)
            before = BudgetWindow.objects.values_list("spent_nanousd", "held_nanousd").get()
            has_read.set()
            may_end.wait(WAIT_S)
            after = BudgetWindow.objects.values_list("spent_nanousd", "held_nanousd").get()
            return before, after, hold_writer.write_holds(cursor, connection, batch.holds)

    def quick():
        has_read.wait(WAIT_S)
        waiter = threading.Thread(target=lambda: (is_blocked(), may_end.set(), connections.close_all()))
        waiter.start()
        hold = new_hold(held_nanousd=900, claims=[claim])
        verdicts = ledger.commit(Batch(holds=[hold]))
        waiter.join(WAIT_S)
        return [type(verdict) for verdict in verdicts.values()]

    (before, after, verdicts), others = in_two_threads(slow, quick)

    assert before == after == (0, 100)
    assert (verdicts, others) == ({}, [BudgetExceededError])
    assert BudgetWindow.objects.values_list("spent_nanousd", "held_nanousd").get() == (0, 1_000)
    assert reconcile().drift == ()


def test_windows_named_in_opposite_order_are_locked_in_one():
    """Each ends holds of one window and holds in the other: locked as they come they would cross."""
    first, second = (new_claim(limit_nanousd=10**9, budget=number) for number in (1, 2))
    old = [new_hold(claims=[first]), new_hold(claims=[second])]
    ledger.commit(Batch(holds=old))
    barrier = threading.Barrier(2)

    def work(*, ended: Hold, claims):
        def run():
            connection = connections[django_settings.LEDGER_DATABASE]
            batch = Batch(
                settlements=[new_settlement(ended, input_tokens=1)], holds=[new_hold(claims=claims)]
            )
            with ledger.ledger_transaction(), connection.cursor() as cursor:
                barrier.wait(WAIT_S)
                hold_writer.lock_windows(cursor, connection, batch)
                write_settlements(cursor, connection, batch.settlements)
                # Both are past their settlements now, or one waits for the other's locks.
                threading.Event().wait(0.2)
                return hold_writer.write_holds(cursor, connection, batch.holds)

        return run

    found = in_two_threads(work(ended=old[0], claims=[second]), work(ended=old[1], claims=[first]))

    assert found == [{}, {}]
    sums = BudgetWindow.objects.order_by("id").values_list("spent_nanousd", "held_nanousd")
    assert list(sums) == [(1_000, 1_000), (1_000, 1_000)]
    assert reconcile().drift == ()


def test_holds_lock_windows_in_the_order_in_which_settlements_do():
    """Settlements alone lock no windows ahead: whoever went the other way round would meet them half-way."""
    first, middle, last = (new_claim(limit_nanousd=10**9, budget=number) for number in (1, 2, 3))
    old = new_hold(claims=[first, last])
    ledger.commit(Batch(holds=[old, new_hold(claims=[middle])]))
    is_locked = threading.Event()

    def hold():
        is_locked.wait(WAIT_S)
        return ledger.commit(Batch(holds=[new_hold(claims=[last, middle, first])]))

    def settle():
        is_locked.wait(WAIT_S)
        # The hold waits for the middle window by now, with all that it locks before it.
        is_blocked()
        return ledger.commit(Batch(settlements=[new_settlement(old, input_tokens=1)]))

    def stand_between():
        with ledger.ledger_transaction():
            BudgetWindow.objects.select_for_update().get(id=middle.window_id)
            is_locked.set()
            assert is_blocked(count=2)

    with ThreadPoolExecutor(1) as threads:
        between = threads.submit(closing(stand_between))
        found = in_two_threads(hold, settle)
        between.result(WAIT_S)

    assert found == [{}, {}]
    assert reconcile().drift == ()
