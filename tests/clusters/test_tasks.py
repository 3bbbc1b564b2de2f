from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from clusters import tasks
from clusters.models import Cluster, HealthCheck
from tests.clusters.rows import add_cluster

pytestmark = pytest.mark.django_db


def test_task_probes_what_is_due():
    add_cluster()

    tasks.probe_due_clusters()

    assert Cluster.objects.get().health == "unhealthy"


def test_task_prunes_old_checks():
    cluster = add_cluster()
    now = timezone.now()  # noqa: TID251 -- the task reads the clock itself
    for days in (1, settings.HEALTH_CHECKS_KEPT_DAYS + 1):
        HealthCheck.objects.create(
            cluster=cluster, checked_at=now - timedelta(days=days), is_healthy=True, duration_ms=1
        )

    tasks.prune_health_checks()

    assert HealthCheck.objects.count() == 1


def test_tasks_have_the_names_that_beat_calls():
    names = {tasks.probe_due_clusters.name, tasks.prune_health_checks.name}

    scheduled = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert names <= scheduled
