"""Probes the clusters that are due, all at once, and writes down what was seen."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from clusters import inventory
from clusters.discovery import follow_models
from clusters.health import Condition, Observation, is_probe_due
from clusters.models import Cluster, HealthCheck, RouterSettings
from clusters.probes import joined, open_client, probe, resolve_addresses
from clusters.probes.exchange import ProbeError
from clusters.snapshots import ClusterView, load_clusters

logger = logging.getLogger(__name__)

PROBES_AT_ONCE_MAX = 50
NONCE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One cluster and what its probe saw."""

    cluster_id: UUID
    name: str
    observation: Observation


def probe_due_clusters(*, now: datetime) -> list[ProbeResult]:
    """Probe what is due and not claimed by another worker; disabled clusters never are.

    1. pick by the time of the latest probe, the interval of the settings and the back-off;
    2. claim each by one conditional UPDATE, so that no two workers probe it;
    3. probe all claimed at once, outside any transaction;
    4. write each result, and the deployments discovered.
    """
    interval_s = (
        RouterSettings.objects.values_list("health_check_interval_s", flat=True).first()
        or RouterSettings().health_check_interval_s
    )
    claimed = [
        cluster.id
        for cluster in Cluster.objects.exclude(state=Cluster.State.DISABLED)
        if is_probe_due(
            condition=_condition(cluster),
            checked_at=cluster.health_checked_at,
            interval_s=interval_s,
            cluster_id=str(cluster.id),
            now=now,
        )
        and inventory.claim_probe(cluster_id=cluster.id, checked_at=cluster.health_checked_at, now=now)
    ]
    return probe_clusters(cluster_ids=claimed, now=now)


def probe_clusters(*, cluster_ids: Sequence[UUID], now: datetime) -> list[ProbeResult]:
    """Probe these clusters now, due or not, and write down what was seen; in the order of their names."""
    if not cluster_ids:
        return []
    views = load_clusters(cluster_ids=cluster_ids, now=now)
    observations = asyncio.run(_probe_all(views, now_s=int(now.timestamp())))
    results = [
        ProbeResult(cluster_id=UUID(view.id), name=view.name, observation=observation)
        for view, observation in zip(views, observations, strict=True)
    ]
    for view, result in zip(views, results, strict=True):
        inventory.record_health(cluster_id=result.cluster_id, observation=result.observation, now=now)
        follow_models(view=view, observation=result.observation, now=now)
    return results


def probe_cluster(*, cluster_id: UUID, now: datetime) -> ProbeResult | None:
    """Probe one cluster now; None if there is none of this id."""
    results = probe_clusters(cluster_ids=[cluster_id], now=now)
    return results[0] if results else None


def look_at(*, view: ClusterView, now: datetime) -> Observation:
    """Probe as `view` says, and write nothing down."""
    (seen,) = asyncio.run(_probe_all([view], now_s=int(now.timestamp())))
    return seen


def prune_health_checks(*, now: datetime, kept_days: int) -> int:
    """Delete the checks that are older; returns how many."""
    old = HealthCheck.objects.filter(checked_at__lt=now - timedelta(days=kept_days))
    return old.delete()[0]


def _condition(cluster: Cluster) -> Condition:
    failed_at, checked_at = cluster.traffic_failed_at, cluster.health_checked_at
    has_failed_since = failed_at is not None and checked_at is not None and failed_at > checked_at
    # A provider that is left alone has mostly said so itself: it is not asked more often for that.
    is_news = cluster.kind == Cluster.Kind.OWN and cluster.health != Cluster.Health.UNHEALTHY
    return Condition(
        health=cluster.health,
        failure_count=cluster.failure_count,
        is_waking=cluster.temperature == Cluster.Temperature.WAKING,
        is_suspected=is_news and has_failed_since,
        quick_look_count=cluster.quick_look_count,
    )


async def _probe_all(views: Sequence[ClusterView], *, now_s: int) -> list[Observation]:
    slots = asyncio.Semaphore(PROBES_AT_ONCE_MAX)

    async def look(view: ClusterView, address: str | None = None) -> Observation:
        async with slots, open_client(cluster=view, address=address) as client:
            nonce = secrets.token_hex(NONCE_BYTES)
            return await probe(cluster=view, client=client, now_s=now_s, nonce=nonce)

    async def look_at_each(view: ClusterView) -> Observation:
        addresses = await resolve_addresses(cluster=view)
        seen = await asyncio.gather(*(_told(view, look(view, address)) for address in addresses))
        return joined(dict(zip(addresses, seen, strict=True)))

    looks = (look_at_each(view) if view.expands_addresses else look(view) for view in views)
    return await asyncio.gather(*(_told(view, each) for view, each in zip(views, looks, strict=True)))


async def _told(view: ClusterView, look: Awaitable[Observation]) -> Observation:
    """What was seen; what went wrong is seen too."""
    try:
        return await look
    except ProbeError as error:
        return Observation(
            is_healthy=False,
            reason=error.reason,
            is_conclusive=error.is_conclusive,
            is_absent=error.is_absent,
        )
    except Exception as error:
        # The edge of one probe: a fault of ours with one cluster must not hide all the others.
        logger.exception("probe_failed name=%s", view.name)
        return Observation(is_healthy=False, reason=f"the probe itself failed ({type(error).__name__})")
