"""Folding hours into days."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from billing import rollups, tasks
from billing.models import SpendRollup
from billing.rollups import FOLDED_SUMS, fold_days
from tests.billing.rows import KEY_ID, NOW, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

DAY = datetime(2026, 11, 20, tzinfo=UTC)


def days():
    rows = SpendRollup.objects.filter(period="day").order_by("starts_at", "cluster", "key_name")
    return [(row.starts_at, row.cluster, row.requests, row.cost_nanousd) for row in rows]


def test_fold_days_sums_the_hours_of_each_group():
    other_key = uuid4()
    make_rollup(starts_at=DAY, cost_nanousd=5, failures=1, estimates=1, amortised_nanousd=3)
    make_rollup(starts_at=DAY + timedelta(hours=23), cost_nanousd=7, key_name="renamed", cluster_kind="own")
    make_rollup(starts_at=DAY, cluster="openai", cost_nanousd=11)
    make_rollup(starts_at=DAY, key_id=other_key, cost_nanousd=13)
    make_rollup(starts_at=DAY - timedelta(hours=1), cost_nanousd=17)

    row_count = fold_days(now=NOW)

    folded = SpendRollup.objects.get(period="day", starts_at=DAY, cluster="gpu-a", key_id=KEY_ID)
    sums = {name: getattr(folded, name) for name in FOLDED_SUMS}
    assert row_count == 4
    assert sums == {
        "requests": 2,
        "failures": 1,
        "estimates": 1,
        "input_tokens": 20,
        "cache_read_tokens": 8,
        "output_tokens": 10,
        "cost_nanousd": 12,
        "reported_cost_nanousd": 0,
        "compared_cost_nanousd": 0,
        "amortised_nanousd": 3,
    }
    assert (folded.key_name, folded.cluster_kind, folded.updated_at) == ("renamed", "own", NOW)
    assert sum(cost for _, _, _, cost in days()) == 5 + 7 + 11 + 13 + 17


def test_fold_days_twice_changes_nothing_and_follows_late_rows():
    hour = make_rollup(starts_at=DAY - timedelta(days=2))
    fold_days(now=NOW)
    first = days()
    fold_days(now=NOW)
    second = days()
    SpendRollup.objects.filter(id=hour.id).update(requests=3, cost_nanousd=9)
    fold_days(now=NOW)

    assert first == second == [(DAY - timedelta(days=2), "gpu-a", 1, 1_000)]
    assert days() == [(DAY - timedelta(days=2), "gpu-a", 3, 9)]


def test_fold_days_catches_up_after_a_pause_in_bounded_runs(monkeypatch):
    monkeypatch.setattr(rollups, "DAYS_PER_RUN_MAX", 2)
    ages = (300, 150, 149, 10, 1)
    for age in ages:
        make_rollup(starts_at=DAY - timedelta(days=age))

    known = []
    for _ in range(4):
        fold_days(now=NOW)
        known.append(len(days()))

    # Each run begins with the day that the run before ended with: its hours may have grown.
    assert known == [2, 3, 4, 5]
    assert [moment for moment, *_ in days()] == [DAY - timedelta(days=age) for age in ages]


def test_fold_days_leaves_alone_what_was_folded_long_ago():
    make_rollup(period="day", starts_at=DAY - timedelta(days=200), cost_nanousd=99)
    make_rollup(period="day", starts_at=DAY - timedelta(days=10), cost_nanousd=98)

    row_count = fold_days(now=NOW)

    assert row_count == 0
    assert [cost for *_, cost in days()] == [99, 98]


def test_fold_days_looks_at_old_days_again_when_asked():
    make_rollup(starts_at=DAY - timedelta(days=50), cost_nanousd=7)
    make_rollup(starts_at=DAY)
    fold_days(now=NOW)
    SpendRollup.objects.filter(period="hour", cost_nanousd=7).update(amortised_nanousd=2)

    row_count = fold_days(now=NOW, again_from=DAY - timedelta(days=50))

    folded = SpendRollup.objects.get(period="day", cost_nanousd=7)
    assert (row_count, folded.amortised_nanousd) == (2, 2)


def test_fold_days_without_usage_writes_nothing():
    assert fold_days(now=NOW) == 0


def test_fold_rollups_task_folds():
    assert tasks.fold_rollups.name == "billing.tasks.fold_rollups"

    tasks.fold_rollups()

    assert days() == []
