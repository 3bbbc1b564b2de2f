"""What clusters cost over time: written once, followed, never changed."""

from datetime import datetime, timedelta

import pytest

from clusters.hourly_costs import (
    CostChange,
    load_changes,
    put_hourly_cost,
    put_hourly_costs,
    withdraw_hourly_cost,
)
from clusters.inventory import InventoryError, delete_records
from clusters.models import HourlyCost
from clusters.snapshots import get_revision, load_inventory
from tests.clusters.rows import NOW, add_cluster

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def put(hours, cost, *, name="metal"):
    return put_hourly_cost(cluster_name=name, effective_at=NOW + hours * HOUR, cost_per_hour_nanousd=cost)


def change(hours, cost):
    return CostChange(effective_at=NOW + hours * HOUR, cost_per_hour_nanousd=cost)


def test_cost_in_force_goes_before_the_clusters_own_until_the_next_one():
    add_cluster(cost_per_hour_nanousd=5)
    put(0, 70)
    put(2, 80)

    seen = []
    for hours in (-1, 0, 1, 2):
        (view,) = load_inventory(now=NOW + hours * HOUR).clusters
        seen.append((view.cost_per_hour_nanousd, view.cost_changes_at))

    assert seen == [(5, NOW), (70, NOW + 2 * HOUR), (70, NOW + 2 * HOUR), (80, None)]


def test_writing_twice_changes_nothing():
    add_cluster()
    first = put(1, 70)
    revision = get_revision()
    second = put(1, 70)

    assert (first, second) == (True, False)
    assert (HourlyCost.objects.count(), get_revision()) == (1, revision)


def test_row_that_repeats_the_one_before_is_kept():
    """Another one may come in between: the latest first is how price lists are written."""
    add_cluster()
    for hours, cost in ((0, 70), (4, 70), (2, 90)):
        put(hours, cost)

    costs = [load_inventory(now=NOW + hours * HOUR).clusters[0].cost_per_hour_nanousd for hours in (1, 3, 5)]
    assert costs == [70, 90, 70]


@pytest.mark.parametrize("hours", [-1, 1])
def test_cost_of_a_moment_is_never_changed(hours):
    add_cluster()
    put(hours, 70)

    with pytest.raises(InventoryError, match="exists already and differs: costs are never changed"):
        put(hours, 71)

    assert HourlyCost.objects.get().cost_per_hour_nanousd == 70


def test_scheduled_cost_may_be_withdrawn_and_one_in_force_stays():
    add_cluster()
    put(0, 70)
    put(1, 80)
    in_force, scheduled = HourlyCost.objects.order_by("effective_at")
    revision = get_revision()

    withdraw_hourly_cost(hourly_cost_id=scheduled.id, now=NOW)
    with pytest.raises(InventoryError, match="is in force or was: it stays"):
        withdraw_hourly_cost(hourly_cost_id=in_force.id, now=NOW)

    assert [row.id for row in HourlyCost.objects.all()] == [in_force.id]
    assert get_revision() == revision + 1


@pytest.mark.parametrize(
    ("name", "moment", "cost", "message"),
    [
        ("nobody", NOW, 1, "there is no cluster 'nobody'"),
        ("metal", datetime(2030, 1, 1), 1, "needs a time zone"),  # noqa: DTZ001
        ("metal", NOW, -1, "is not between 0 and 1,000,000 USD"),
        ("metal", NOW, 10**15 + 1, "is not between 0 and 1,000,000 USD"),
    ],
)
def test_costs_that_cannot_be_are_refused_all_together(name, moment, cost, message):
    add_cluster()
    wrong = CostChange(effective_at=moment, cost_per_hour_nanousd=cost)

    with pytest.raises(InventoryError, match=message):
        put_hourly_costs(changes={"metal": [change(5, 1)], name: [change(6, 1), wrong]}, source="file")

    assert HourlyCost.objects.count() == 0


@pytest.mark.parametrize("source", ["", "x" * 101, "a\nb"])
def test_source_is_one_line(source):
    with pytest.raises(InventoryError, match="the source must be one line"):
        put_hourly_costs(changes={}, source=source)


def test_changes_of_a_span_begin_with_what_was_in_force():
    add_cluster()
    add_cluster(name="other")
    for hours, cost in ((-9, 1), (-4, 2), (-1, 3), (0, 4), (1, 5)):
        put(hours, cost)
    put(-1, 7, name="other")

    found = load_changes(from_at=NOW - 3 * HOUR, to_at=NOW)

    assert found == {
        "metal": (change(-4, 2), change(-1, 3), change(0, 4)),
        "other": (change(-1, 7),),
    }


def test_costs_go_with_their_cluster():
    cluster = add_cluster()
    put(0, 70)

    delete_records(records=[cluster])

    assert HourlyCost.objects.count() == 0


def test_inventory_asks_as_many_queries_however_many_costs_there_are(django_assert_num_queries):
    for number in range(3):
        add_cluster(name=f"metal-{number}")
        for hours in range(number):
            put(hours, 1, name=f"metal-{number}")

    with django_assert_num_queries(7):
        load_inventory(now=NOW)
