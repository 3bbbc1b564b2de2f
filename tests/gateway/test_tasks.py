"""The carrier of capacity samples between the inventory and the accounts."""

import pytest
from django.conf import settings

from billing.models import CapacityHour
from clusters.models import Cluster
from gateway import tasks
from tests.clusters.rows import add_cluster

pytestmark = pytest.mark.django_db(databases="__all__")


def test_task_samples_the_clusters_that_are_paid_by_the_hour():
    add_cluster(name="idle", state="disabled", tokens_per_s=7)
    add_cluster(name="full", tokens_per_s=7)
    add_cluster(name="unrated")
    add_cluster(name="down", billing="autoscaled")
    add_cluster(name="bought", kind="provider", billing="metered")
    add_cluster(name="own-by-token", billing="metered")
    Cluster.objects.filter(name="down").update(health="unhealthy")

    tasks.sample_capacity()
    tasks.sample_capacity()

    rows = CapacityHour.objects.order_by("cluster")
    # A run may meet the turn of a minute: then the second one counts too.
    seen = [(row.cluster, row.cost_nanousd, row.capacity_tokens // row.sample_count) for row in rows]
    assert seen == [
        ("down", 0, 0),
        ("full", 92_800_000, 420),
        ("idle", 92_800_000, 0),
        ("unrated", 92_800_000, 600),
    ]


def test_task_has_the_name_that_beat_calls():
    scheduled = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}

    assert tasks.sample_capacity.name in scheduled
