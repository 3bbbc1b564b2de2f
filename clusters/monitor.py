"""Probes the clusters that are due, all at once, and writes down what was seen."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from clusters import inventory
from clusters.health import Condition, Observation, is_probe_due
from clusters.models import Cluster, HealthCheck, RouterSettings
from clusters.probes import open_client, probe
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
            condition=Condition(
                health=cluster.health,
                failure_count=cluster.failure_count,
                is_waking=cluster.temperature == Cluster.Temperature.WAKING,
            ),
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
        _add_discovered(view=view, observation=result.observation)
    return results


def probe_cluster(*, cluster_id: UUID, now: datetime) -> ProbeResult | None:
    """Probe one cluster now; None if there is none of this id."""
    results = probe_clusters(cluster_ids=[cluster_id], now=now)
    return results[0] if results else None


def look_at(*, view: ClusterView, now: datetime) -> Observation:
    """Probe as `view` says, and write nothing down."""
    return asyncio.run(_probe_one(view, now_s=int(now.timestamp())))


def prune_health_checks(*, now: datetime, kept_days: int) -> int:
    """Delete the checks that are older; returns how many."""
    old = HealthCheck.objects.filter(checked_at__lt=now - timedelta(days=kept_days))
    return old.delete()[0]


async def _probe_all(views: Sequence[ClusterView], *, now_s: int) -> list[Observation]:
    slots = asyncio.Semaphore(PROBES_AT_ONCE_MAX)

    async def probe_in_slot(view: ClusterView) -> Observation:
        async with slots:
            return await _probe_one(view, now_s=now_s)

    return await asyncio.gather(*(probe_in_slot(view) for view in views))


async def _probe_one(view: ClusterView, *, now_s: int) -> Observation:
    nonce = secrets.token_hex(NONCE_BYTES)
    try:
        async with open_client(cluster=view) as client:
            return await probe(cluster=view, client=client, now_s=now_s, nonce=nonce)
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


def _add_discovered(*, view: ClusterView, observation: Observation) -> None:
    """Deployments of a cluster that has none: a provider's default model, or what an own cluster lists."""
    if view.deployments:
        return
    windows = dict(observation.context_windows)
    if view.default_model:
        names: tuple[str, ...] = (view.default_model,)
    elif view.kind == Cluster.Kind.OWN:
        names = observation.models or ()
    else:
        # A provider lists hundreds; which of them we pay for is for its administrator to say.
        names = ()
    if names:
        inventory.add_deployments(cluster_id=UUID(view.id), model_names=names, context_windows=windows)
