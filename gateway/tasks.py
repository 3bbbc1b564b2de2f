"""Celery's tasks that join the two halves: capacity for the accounts, warnings, guards."""

import logging
from datetime import datetime

from celery import shared_task
from django.utils import timezone

from billing import capacity, capacity_samples
from billing.capacity_samples import CapacitySample, Changes
from clusters import hourly_costs
from clusters.snapshots import ClusterView, load_inventory
from gateway import experiment_guard, notifications
from routing.cost import TOKENS_PER_S_ASSUMED
from routing.types import WAKING

logger = logging.getLogger(__name__)

OWN = "own"
COMMITTED = "committed"
AUTOSCALED = "autoscaled"
DISABLED = "disabled"
UNHEALTHY = "unhealthy"


@shared_task(name="gateway.tasks.sample_capacity", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def sample_capacity() -> None:
    """Sample the own clusters, then close the hours that are over."""
    take_samples(now=timezone.now())


@shared_task(name="gateway.tasks.warn_of_budgets", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def warn_of_budgets() -> None:
    notifications.send_due(now=timezone.now(), clock=timezone.now)


@shared_task(name="gateway.tasks.guard_experiments", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def guard_experiments() -> None:
    """Stop what does worse than its control."""
    experiment_guard.check_experiments(now=timezone.now())


def take_samples(*, now: datetime) -> None:
    """Sample, then close: in this order.

    After an outage the samples bring the hours that were missed up to date, at the prices of then; closing
    knows only the last one.
    """
    # A minute costs what was in force when it began, whenever in it the sample is taken.
    minute = now.replace(second=0, microsecond=0)
    changes = _changes(from_at=capacity_samples.unpriced_from(now=now), to_at=minute)
    inventory = load_inventory(now=minute)
    overhead_permille = inventory.settings.overhead_permille
    samples = [
        _sample(view, changes=changes.get(view.name, ()), overhead_permille=overhead_permille)
        for view in inventory.clusters
        if _is_paid_hourly(view)
    ]
    sampled = capacity_samples.record_samples(samples=samples, now=now)
    closed = capacity.close_hours(now=now)
    logger.debug("capacity_sampled clusters=%s closed=%s", sampled, closed)


def _changes(*, from_at: datetime, to_at: datetime) -> dict[str, Changes]:
    found = hourly_costs.load_changes(from_at=from_at, to_at=to_at)
    return {
        name: tuple((change.effective_at, change.cost_per_hour_nanousd) for change in changes)
        for name, changes in found.items()
    }


def _is_paid_hourly(view: ClusterView) -> bool:
    return view.kind == OWN and view.billing in (COMMITTED, AUTOSCALED)


def _sample(view: ClusterView, *, changes: Changes, overhead_permille: int) -> CapacitySample:
    is_waking = view.temperature == WAKING
    return CapacitySample(
        cluster=view.name,
        is_committed=view.billing == COMMITTED,
        # Nobody keeps replicas for a cluster that is sent nothing; one that is waking is paid already.
        is_up=view.state != DISABLED and (view.health != UNHEALTHY or is_waking),
        is_serving=not is_waking,
        cost_per_hour_nanousd=view.cost_per_hour_nanousd,
        tokens_per_s=view.rated_tokens_per_s or view.measured_tokens_per_s or TOKENS_PER_S_ASSUMED,
        overhead_permille=overhead_permille,
        replica_count=view.running_replica_count,
        changes=changes,
    )
