"""Months of the ledger on PostgreSQL: made ahead, filled from the default partition, dropped whole."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connections

from billing import ledger, partitions
from billing.attempt_months import begun_at, first_attempt_id, month_of, next_month
from billing.entries import Batch
from billing.models import Reservation, UsageRecord
from billing.pruning import Pruned, prune
from billing.reconciliation import reconcile
from gateway.identifiers import new_attempt_id
from tests.billing.holds import new_claim, new_hold, new_settlement

IS_POSTGRESQL = django_settings.DATABASES[django_settings.LEDGER_DATABASE]["ENGINE"].endswith("postgresql")
on_postgresql = pytest.mark.skipif(not IS_POSTGRESQL, reason="SQLite has no partitions")
# Far from any clock: no partition holds it yet.
MARCH = datetime(2031, 3, 1, tzinfo=UTC)
MARCH_LATER = datetime(2032, 3, 1, tzinfo=UTC)  # of the test whose tables stay


def no_pause(_seconds):
    pass


def settled(moment):
    attempt_id = new_attempt_id(now_ms=int(moment.timestamp() * 1000))
    hold = new_hold(
        held_nanousd=50_000, claims=[new_claim(limit_nanousd=10**9)], attempt_id=attempt_id, at=moment
    )
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10, at=moment)]))
    return hold


def tables_of(attempt_id):
    found = []
    with connections[django_settings.LEDGER_DATABASE].cursor() as cursor:
        for table in partitions.TABLES:
            cursor.execute(
                f"SELECT tableoid::regclass::text FROM {table} WHERE attempt_id = %s", [attempt_id]
            )
            found += [row[0] for row in cursor.fetchall()]
    return found


def test_month_begins_with_its_least_id():
    moment = datetime(2026, 11, 23, 12, 30, 15, 123_000, tzinfo=UTC)
    attempt_id = new_attempt_id(now_ms=int(moment.timestamp() * 1000))

    assert begun_at(attempt_id) == moment
    assert month_of(moment) == datetime(2026, 11, 1, tzinfo=UTC)
    assert next_month(month_of(moment)) == datetime(2026, 12, 1, tzinfo=UTC)
    assert first_attempt_id(month=datetime(2026, 11, 1, tzinfo=UTC)) < attempt_id
    assert attempt_id < first_attempt_id(month=datetime(2026, 12, 1, tzinfo=UTC))


@on_postgresql
@pytest.mark.django_db
def test_months_are_made_ahead_once():
    assert partitions.make_months(now=MARCH, pause=no_pause) == 3
    assert partitions.make_months(now=MARCH, pause=no_pause) == 0

    hold = settled(MARCH + timedelta(days=40))

    assert tables_of(hold.attempt_id) == ["billing_reservation_2031_04", "billing_usagerecord_2031_04"]


@on_postgresql
@pytest.mark.django_db
def test_month_made_late_takes_its_rows_from_the_default_partition():
    hold = settled(MARCH + timedelta(days=3))
    assert tables_of(hold.attempt_id) == ["billing_reservation_default", "billing_usagerecord_default"]

    partitions.make_months(now=MARCH, pause=no_pause)

    assert tables_of(hold.attempt_id) == ["billing_reservation_2031_03", "billing_usagerecord_2031_03"]
    assert reconcile().drift == ()


@on_postgresql
@pytest.mark.django_db
def test_new_month_keeps_its_rows_append_only():
    partitions.make_months(now=MARCH, pause=no_pause)
    hold = settled(MARCH)

    with pytest.raises(Exception, match="append-only"):
        UsageRecord.objects.filter(attempt_id=hold.attempt_id).delete()


@on_postgresql
@pytest.mark.django_db
def test_hold_is_taken_once_in_a_partition_too():
    partitions.make_months(now=MARCH, pause=no_pause)
    attempt_id = new_attempt_id(now_ms=int(MARCH.timestamp() * 1000))
    hold = new_hold(held_nanousd=7, attempt_id=attempt_id, at=MARCH)

    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(holds=[hold]))

    assert Reservation.objects.count() == 1


@on_postgresql
@pytest.mark.django_db
def test_old_month_is_dropped_whole(settings):
    settings.USAGE_KEPT_DAYS = settings.ROLLUP_HOURS_KEPT_DAYS = 60
    partitions.make_months(now=MARCH, pause=no_pause)
    for day in (0, 1, 33):
        settled(MARCH + timedelta(days=day))

    found = prune(now=datetime(2031, 6, 15, tzinfo=UTC), pause=no_pause)

    assert (found.attempts, found.cost_nanousd, found.is_done) == (2, 20_000, True)
    with connections[django_settings.LEDGER_DATABASE].cursor() as cursor:
        names = [f"billing_usagerecord_2031_{month}" for month in ("03", "04")]
        cursor.execute("SELECT to_regclass(%s)::text, to_regclass(%s)::text", names)
        assert cursor.fetchone() == (None, names[1])
    assert reconcile().drift == ()


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_month_stays_while_a_long_query_reads_it(settings):
    settings.USAGE_KEPT_DAYS = 60
    partitions.make_months(now=MARCH_LATER, pause=no_pause)
    settled(MARCH_LATER)
    parameters = connections[django_settings.LEDGER_DATABASE].get_connection_params()
    reader = psycopg.connect(
        **{name: parameters[name] for name in ("dbname", "user", "password", "host", "port")}
    )
    now = datetime(2032, 6, 15, tzinfo=UTC)

    with reader:
        reader.execute("SELECT COUNT(*) FROM billing_usagerecord")
        settings.ROLLUP_HOURS_KEPT_DAYS = 0
        waits = []
        busy = prune(now=now, pause=waits.append)
        reader.rollback()

    assert busy == Pruned(is_done=False)
    assert len(waits) == partitions.LOCK_TRIES
    assert reconcile().drift == ()
    assert prune(now=now, pause=no_pause).attempts == 1
    assert reconcile().drift == ()
