"""Celery's tasks of the inventory: probes and wake hooks that are due, and the pruning of old checks."""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from clusters import monitor, waking


@shared_task(name="clusters.tasks.probe_due_clusters", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def probe_due_clusters() -> None:
    """Runs every few seconds; safe to run twice at once, as each probe is claimed."""
    monitor.probe_due_clusters(now=timezone.now())


@shared_task(name="clusters.tasks.wake_due_clusters", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def wake_due_clusters() -> None:
    """Runs every few seconds; safe to run twice at once, as each call is claimed."""
    waking.wake_due_clusters(now=timezone.now(), clock=timezone.now)


@shared_task(name="clusters.tasks.prune_health_checks", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def prune_health_checks() -> None:
    """Runs hourly."""
    monitor.prune_health_checks(now=timezone.now(), kept_days=settings.HEALTH_CHECKS_KEPT_DAYS)
