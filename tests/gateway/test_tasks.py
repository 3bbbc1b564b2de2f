"""The carrier of capacity samples between the inventory and the accounts."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings

from billing.models import CapacityHour
from clusters.hourly_costs import put_hourly_cost
from clusters.inventory import set_replica_count
from clusters.models import Cluster, RouterSettings
from gateway import tasks
from tests.clusters.rows import add_cluster

pytestmark = pytest.mark.django_db(databases="__all__")

NINE = datetime(2026, 11, 20, 9, tzinfo=UTC)


def test_task_samples_the_clusters_that_are_paid_by_the_hour():
    add_cluster(name="idle", state="disabled", tokens_per_s=7)
    add_cluster(name="full", tokens_per_s=7)
    add_cluster(name="unrated")
    add_cluster(name="down", billing="autoscaled")
    add_cluster(name="bought", kind="provider", billing="metered")
    Cluster.objects.filter(name="down").update(health="unhealthy")

    for second in (0, 30):
        tasks.take_samples(now=NINE + timedelta(minutes=59, seconds=second))

    rows = CapacityHour.objects.order_by("cluster")
    seen = [(row.cluster, row.cost_nanousd, row.capacity_tokens, row.sample_count) for row in rows]
    assert seen == [
        ("down", 0, 0, 1),
        ("full", 92_800_000, 420, 1),
        ("idle", 92_800_000, 0, 1),
        ("unrated", 92_800_000, 600, 1),
    ]


def test_samples_carry_replicas_and_the_price_of_the_minute():
    add_cluster(name="spot", billing="autoscaled", tokens_per_s=2, cost_per_hour_nanousd=1)
    set_replica_count(cluster_name="spot", replica_count=3, now=NINE)
    for second, cost in ((0, 6_000), (61, 12_000)):
        put_hourly_cost(
            cluster_name="spot", effective_at=NINE + timedelta(seconds=second), cost_per_hour_nanousd=cost
        )
    for minute in range(3):
        tasks.take_samples(now=NINE + timedelta(minutes=minute, seconds=50))

    row = CapacityHour.objects.get()
    assert (row.cost_nanousd, row.capacity_tokens, row.replica_samples) == (300 + 300 + 600, 9 * 120, 9)


def test_hours_keep_the_overhead_factor_of_their_time():
    add_cluster(name="full")
    tasks.take_samples(now=NINE)
    RouterSettings.objects.update_or_create(defaults={"overhead_permille": 1_300})
    tasks.take_samples(now=NINE + timedelta(hours=2, minutes=1))
    tasks.take_samples(now=NINE + timedelta(hours=2, minutes=2))

    rows = CapacityHour.objects.order_by("starts_at").values_list("starts_at", "overhead_permille")
    hours = [NINE + timedelta(hours=number) for number in range(3)]
    assert list(rows) == list(zip(hours, (1_100, 1_300, 1_300), strict=True))


def test_outage_is_filled_with_the_prices_of_then():
    add_cluster(name="spot", cost_per_hour_nanousd=6_000)
    tasks.take_samples(now=NINE)
    for hours, cost in ((1, 12_000), (1.5, 24_000), (2, 60)):
        put_hourly_cost(
            cluster_name="spot", effective_at=NINE + timedelta(hours=hours), cost_per_hour_nanousd=cost
        )
    tasks.take_samples(now=NINE + timedelta(hours=3, minutes=10))
    tasks.take_samples(now=NINE + timedelta(hours=4, minutes=10))

    costs = CapacityHour.objects.filter(is_closed=True).order_by("starts_at")
    assert list(costs.values_list("cost_nanousd", flat=True)) == [6_000, 18_000, 60, 60]


def test_task_runs_now():
    add_cluster(name="full")

    tasks.sample_capacity()

    assert CapacityHour.objects.get().sample_count == 1


def test_task_has_the_name_that_beat_calls():
    scheduled = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}

    assert tasks.sample_capacity.name in scheduled


def test_a_waking_cluster_is_paid_and_has_no_capacity_yet():
    add_cluster(
        name="spot",
        billing="autoscaled",
        tokens_per_s=2,
        cost_per_hour_nanousd=6_000,
        replica_count=2,
        replicas_max=2,
    )
    for minute, (temperature, health) in enumerate(
        [("cold", "unhealthy"), ("waking", "unhealthy"), ("waking", "unhealthy"), ("warm", "healthy")]
    ):
        Cluster.objects.update(temperature=temperature, health=health)
        tasks.take_samples(now=NINE + timedelta(minutes=minute))

    row = CapacityHour.objects.get()
    # Two replicas for three minutes, of which they serve one.
    assert (row.cost_nanousd, row.capacity_tokens, row.replica_samples) == (600, 240, 6)
