"""Celery's tasks that join the two halves: carries capacity samples from the inventory to the accounts."""

import logging

from celery import shared_task
from django.utils import timezone

from billing import capacity
from billing.capacity import CapacitySample
from clusters.snapshots import ClusterView, load_inventory
from routing.cost import TOKENS_PER_S_ASSUMED

logger = logging.getLogger(__name__)

OWN = "own"
COMMITTED = "committed"
AUTOSCALED = "autoscaled"
DISABLED = "disabled"
UNHEALTHY = "unhealthy"


@shared_task(name="gateway.tasks.sample_capacity", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def sample_capacity() -> None:
    """Sample the own clusters, then close the hours that are over; in this order.

    After an outage the samples fill the hours that were missed at the last known cost, which an hour
    tells only while it is open.
    """
    now = timezone.now()
    samples = [sample for view in load_inventory().clusters if (sample := _sample(view)) is not None]
    sampled = capacity.record_samples(samples=samples, now=now)
    closed = capacity.close_hours(now=now)
    logger.debug("capacity_sampled clusters=%s closed=%s", sampled, closed)


def _sample(view: ClusterView) -> CapacitySample | None:
    """None where the cluster is paid by the token."""
    if view.kind != OWN or view.billing not in (COMMITTED, AUTOSCALED):
        return None
    speed = view.rated_tokens_per_s or view.measured_tokens_per_s or TOKENS_PER_S_ASSUMED
    return CapacitySample(
        cluster=view.name,
        is_committed=view.billing == COMMITTED,
        # Nobody keeps replicas for a cluster that is sent nothing.
        is_up=view.state != DISABLED and view.health != UNHEALTHY,
        cost_per_hour_nanousd=view.cost_per_hour_nanousd,
        tokens_per_s=speed,
    )
