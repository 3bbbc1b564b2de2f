"""Usage from files: all of it or nothing, each line once, and the ledger's proofs hold."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.db import connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger, usage_import
from billing.amounts import plain_usd_text
from billing.cells import csv_texts
from billing.entries import Batch
from billing.models import BudgetWindow, PrunedPeriod, Reservation, SpendRollup, UsageRecord
from billing.reconciliation import reconcile
from billing.reports import spend_report
from billing.usage_files import COLUMNS, usage_lines
from billing.usage_import import UsageFileError, UsageImport, import_usage
from tests.billing.holds import NOW, new_claim, new_hold, new_settlement
from tests.billing.rows import make_capacity

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)

MINIMAL = "settled_at,model,cost_usd\n"
LATER = NOW + timedelta(days=1)


@pytest.fixture
def csv_file(tmp_path):
    def write(text):
        path = tmp_path / "usage.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def take(path, *, is_dry_run=False):
    return import_usage(path=path, now=LATER, is_dry_run=is_dry_run)


def all_rows():
    return list(UsageRecord.objects.order_by("attempt_id").values())


def exported_text():
    return "".join(csv_texts(usage_lines(from_at=NOW - timedelta(days=9), to_at=LATER)))


def forget_everything():
    """Another installation: the same tables, empty."""
    with ledger.ledger_transaction():
        connection = connections[django_settings.LEDGER_DATABASE]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL tollgate.pruning = 'on'")
        for model in (UsageRecord, Reservation, SpendRollup, BudgetWindow):
            model.objects.all().delete()


def make_attempts():
    """A settled one, one that cost more than was held, a void one and an open one."""
    claim = new_claim(limit_nanousd=10**9)
    holds = [
        new_hold(held_nanousd=50_000, claims=[claim]),
        new_hold(held_nanousd=10, model="=odd", claims=[claim]),
    ]
    void, still_open = new_hold(claims=[claim]), new_hold(claims=[claim])
    ledger.commit(Batch(holds=[*holds, void, still_open]))
    ended = [
        new_settlement(holds[0], input_tokens=1_000, output_tokens=3, is_estimate=True),
        new_settlement(holds[1], input_tokens=5_000),
        new_settlement(void, is_void=True, outcome="failed"),
    ]
    ledger.commit(Batch(settlements=ended))


# --- What comes in


def test_least_line_is_an_attempt_of_its_own(csv_file):
    path = csv_file(MINIMAL + "2026-11-20T09:00:00Z,gpt-4o-mini,0.000000123\n")

    done = take(path)

    (row,) = UsageRecord.objects.values(
        *("organisation", "team", "key_name", "model", "served_model", "cluster", "cluster_kind"),
        *("outcome", "cost_nanousd", "held_nanousd", "variance_nanousd", "attempt_number", "rate"),
    )
    assert done == UsageImport(line_count=1, added_count=1, cost_nanousd=123)
    assert row == {
        **dict.fromkeys(("organisation", "team", "key_name", "cluster"), "imported"),
        **dict.fromkeys(("model", "served_model"), "gpt-4o-mini"),
        "cluster_kind": "provider",
        "outcome": "ok",
        "cost_nanousd": 123,
        "held_nanousd": 123,
        "variance_nanousd": 0,
        "attempt_number": 1,
        "rate": {"source": "imported"},
    }
    assert reconcile().drift == ()


def test_what_was_exported_comes_back_as_it_was(csv_file):
    make_attempts()
    before, text = all_rows(), exported_text()
    forget_everything()

    done = take(csv_file(text))

    for row in before:
        # Why it went where it went is not in the file.
        row["decision"] = {"policy": "imported"}
    assert done == UsageImport(
        line_count=3, added_count=3, cost_nanousd=sum(r["cost_nanousd"] for r in before)
    )
    assert all_rows() == before
    assert exported_text() == text
    assert reconcile().drift == ()


def test_own_export_adds_nothing_to_its_ledger(csv_file):
    make_attempts()
    before = all_rows()

    done = take(csv_file(exported_text()))

    assert (done.line_count, done.added_count) == (3, 0)
    assert all_rows() == before
    assert reconcile().drift == ()


def test_twice_is_once_and_equal_lines_are_two(csv_file):
    line = "2026-11-20T09:00:00Z,gpt-4o-mini,0.5\n"
    path = csv_file(MINIMAL + line + line)

    added = [take(path).added_count for _ in range(3)]

    assert added == [2, 0, 0]
    assert UsageRecord.objects.count() == 2
    assert reconcile().drift == ()


def test_budgets_are_left_as_they_are(csv_file):
    make_attempts()
    before = list(BudgetWindow.objects.values())

    take(csv_file(MINIMAL + "2026-11-20T09:00:00Z,gpt-4o-mini,1000\n"))

    assert list(BudgetWindow.objects.values()) == before


def test_lines_of_old_days_are_in_the_reports(csv_file):
    take(csv_file(MINIMAL + "2026-11-22T09:00:00Z,new,1\n"))
    take(csv_file(MINIMAL + "2026-01-05T09:00:00Z,old,2\n2026-08-05T09:00:00Z,old,4\n"))

    report = spend_report(group="model", from_at=LATER - timedelta(days=365), to_at=LATER)

    assert {row.name: row.metered_nanousd for row in report.rows} == {"new": 10**9, "old": 6 * 10**9}


def test_lines_of_an_own_cluster_close_its_hour_anew(csv_file):
    hour = NOW.replace(minute=0) - timedelta(days=5)
    make_capacity(cluster="gpu-a", starts_at=hour, used_tokens=0, used_nanousd=0, idle_nanousd=1_000)
    header = "settled_at,model,cost_usd,cluster,cluster_kind,output_text_tokens\n"

    take(csv_file(f"{header}{hour:%Y-%m-%dT%H:10:00Z},llama,0.1,gpu-a,own,18000\n"))

    (row,) = spend_report(group="cluster", from_at=hour, to_at=LATER).rows
    assert (row.amortised_nanousd, row.idle_nanousd) == (500, 500)
    assert reconcile().drift == ()


def test_dry_run_checks_and_writes_nothing(csv_file):
    path = csv_file(MINIMAL + "2026-11-20T09:00:00Z,gpt-4o-mini,0.5\n")

    done = take(path, is_dry_run=True)

    assert done == UsageImport(line_count=1, added_count=1, cost_nanousd=500_000_000)
    assert (UsageRecord.objects.count(), Reservation.objects.count(), SpendRollup.objects.count()) == (
        0,
        0,
        0,
    )


def test_empty_file_with_a_header_adds_nothing(csv_file):
    assert take(csv_file(MINIMAL + "\n\n")) == UsageImport(line_count=0, added_count=0, cost_nanousd=0)


# --- What is refused, and then nothing is written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the column settled_at is missing; settled_at, model, cost_usd must be there"),
        ("settled_at,model,cost_usd,model\n", "line 1: the column model is there twice"),
        (
            "settled_at,model,cost_usd,price\n",
            "line 1: unknown column 'price': leave it out, or name it one of "
            + ", ".join(column.name for column in COLUMNS),
        ),
    ],
)
def test_bad_header_is_refused(csv_file, text, message):
    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(text))

    assert str(refusal.value) == message


GOOD = "2026-11-20T09:00:00Z,gpt-4o-mini,0.5\n"


def test_bad_lines_are_named_and_refuse_the_good_ones(csv_file):
    lines = [GOOD, "soon,llama,1\n", "2026-11-20T09:00:00Z,,1\n", "2026-11-20T09:00:00Z,llama\n", GOOD]

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(MINIMAL + "".join(lines)))

    assert str(refusal.value).splitlines() == [
        "line 3: settled_at: 'soon' is no moment: write it as 2026-11-03T12:00:00Z",
        "line 4: model is empty",
        "line 5: it has 2 cells, the header 3",
        "Nothing was imported: correct these lines and try again.",
    ]
    assert UsageRecord.objects.count() == 0


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("settled_at", "2026-11-25T09:00:00Z", "settled_at: 2026-11-25T09:00:00+00:00 is not over yet"),
        ("started_at", "2026-11-20T09:00:01Z", "started_at is later than settled_at"),
        (
            "held_usd",
            "0.4",
            "cost_usd is above held_usd: an attempt is never charged more than was held for it",
        ),
        (
            "held_usd,variance_usd",
            "0.6,0.1",
            "variance_usd is what cost more than held_usd: there cost_usd equals held_usd",
        ),
        (
            "held_usd,variance_usd",
            "0.5,4611686018",
            "cost_usd and variance_usd are more than the ledger can count",
        ),
        ("team", "'", "team is empty"),
    ],
)
def test_line_that_cannot_be_true_is_refused(csv_file, columns, cells, message):
    given = {"settled_at": "2026-11-20T09:00:00Z", "model": "llama", "cost_usd": "0.5"}
    given.update(zip(columns.split(","), cells.split(","), strict=True))

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(f"{','.join(given)}\n{','.join(given.values())}\n"))

    assert str(refusal.value).splitlines()[0] == f"line 2: {message}"
    assert UsageRecord.objects.count() == 0


def test_line_of_a_pruned_time_is_refused(csv_file):
    PrunedPeriod.objects.create(
        begun_before=NOW - timedelta(days=1), attempts=1, cost_nanousd=1, pruned_at=NOW
    )

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(MINIMAL + GOOD + GOOD.replace("2026-11-20", "2026-11-23")))

    assert str(refusal.value) == (
        "line 2: it began before 2026-11-22T12:30:00+00:00, and what began before that was pruned: nobody "
        "can tell whether it was counted; leave it out\n"
        "Nothing was imported: correct these lines and try again."
    )


def test_attempt_that_is_still_open_is_refused(csv_file):
    hold = new_hold(claims=[new_claim(limit_nanousd=10**9)])
    ledger.commit(Batch(holds=[hold]))
    text = f"attempt_id,{MINIMAL}{uuid4()},{GOOD}{hold.attempt_id},{GOOD}"

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(text))

    assert str(refusal.value) == (
        f"line 3: the attempt {hold.attempt_id} is still open here. Nothing was imported."
    )
    assert list(Reservation.objects.values_list("state", flat=True)) == ["held"]
    assert UsageRecord.objects.count() == 0


def test_attempt_that_says_something_else_is_refused(csv_file):
    attempt_id = uuid4()
    take(csv_file(f"attempt_id,{MINIMAL}{attempt_id},{GOOD}"))
    before = all_rows()

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(f"attempt_id,{MINIMAL},{GOOD}{attempt_id},{GOOD.replace('0.5', '0.4')}"))

    assert str(refusal.value) == (
        f"line 3: the ledger has the attempt {attempt_id} with another cost, model, key or moment; rows are "
        f"never changed: leave the line out. Nothing was imported."
    )
    assert all_rows() == before


def test_same_attempt_id_twice_is_refused(csv_file):
    attempt_id = uuid4()

    with pytest.raises(UsageFileError) as refusal:
        take(csv_file(f"attempt_id,{MINIMAL}{attempt_id},{GOOD}{attempt_id},{GOOD}"))

    assert str(refusal.value).splitlines()[0] == "line 3: attempt_id: line 2 has the same"


def test_refusal_after_the_first_piece_takes_it_back(csv_file, monkeypatch):
    monkeypatch.setattr(usage_import, "LINES_AT_ONCE", 1)
    hold = new_hold()
    ledger.commit(Batch(holds=[hold]))

    with pytest.raises(UsageFileError):
        take(csv_file(f"attempt_id,{MINIMAL},{GOOD}{hold.attempt_id},{GOOD}"))

    assert UsageRecord.objects.count() == 0
    assert reconcile().drift == ()


def test_file_that_is_too_long_is_refused(csv_file, monkeypatch):
    monkeypatch.setattr(usage_import, "LINES_MAX", 2)

    with pytest.raises(UsageFileError, match="the file has more than 2 lines: split it"):
        take(csv_file(MINIMAL + GOOD * 3))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "usage.csv"
    path.write_bytes(MINIMAL.encode() + b"2026-11-20T09:00:00Z,\xff,1\n")

    with pytest.raises(UsageFileError, match="is no CSV in UTF-8"):
        take(path)


# --- Whatever the file


AMOUNTS = st.integers(min_value=0, max_value=10**12)
TOKENS = st.integers(min_value=0, max_value=10**9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.tuples(AMOUNTS, TOKENS, st.sampled_from(["a", "=b"])), max_size=5), repeat=st.booleans()
)
def test_imported_sum_is_the_files_sum(csv_file, lines, repeat):
    forget_everything()
    text = "".join(
        f"2026-11-20T09:00:00Z,{model},{plain_usd_text(amount)},{tokens}\n" for amount, tokens, model in lines
    )
    path = csv_file(f"settled_at,model,cost_usd,output_text_tokens\n{text}")

    for _ in range(1 + repeat):
        done = take(path)

    total = sum(amount for amount, _, _ in lines)
    report = spend_report(group="day", from_at=NOW - timedelta(days=9), to_at=LATER)
    assert done.cost_nanousd == report.totals.metered_nanousd == total
    assert report.totals.output_tokens == sum(tokens for _, tokens, _ in lines)
    assert reconcile().drift == ()
