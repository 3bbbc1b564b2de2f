"""Whether an autoscaled cluster is cold, waking or warm: by its probes, its replicas, what was asked for."""

import logging
from datetime import datetime, timedelta

from clusters.health import Observation, settled_temperature
from clusters.models import Cluster, Waking
from routing.waking import learnt_warm_up_s, patience_s, warm_up_s

logger = logging.getLogger(__name__)

MS_PER_S = 1000
ERROR_CHARACTERS_MAX = 200


def expected_warm_up_s(cluster: Cluster, waking: Waking | None) -> float:
    """How long its next replica takes, by what is entered and what was measured."""
    learnt_ms = None if waking is None else waking.warm_up_ms
    return warm_up_s(
        given_s=cluster.warm_up_s,
        learnt_s=None if learnt_ms is None else learnt_ms / MS_PER_S,
        learnt_count=0 if waking is None else waking.warm_up_count,
    )


def is_awaited(waking: Waking | None, *, now: datetime) -> bool:
    """Whether a replica was asked for and is still waited for."""
    return waking is not None and waking.awaited_until is not None and now < waking.awaited_until


def follow_probe(*, cluster: Cluster, observation: Observation, now: datetime) -> None:
    """Set the temperature after a probe, whose health was folded in already; the caller saves the cluster.

    Assumes the cluster's row is locked. Learns the warm-up of one that became warm, and gives up on one that
    was waited for too long.
    """
    if cluster.billing != Cluster.Billing.AUTOSCALED:
        cluster.temperature = ""
        return
    waking = Waking.objects.filter(cluster_id=cluster.id).first()
    before = cluster.temperature
    cluster.temperature = settled_temperature(
        before=before,
        health=cluster.health,
        observation=observation,
        has_hook=bool(cluster.wake_url),
        replica_count=cluster.replica_count,
        is_awaited=is_awaited(waking, now=now),
    )
    if waking is None or before == cluster.temperature or before != Cluster.Temperature.WAKING:
        return
    if cluster.temperature == Cluster.Temperature.WARM:
        _learn(waking, now=now)
    else:
        _give_up(waking, cluster=cluster)


def follow_replicas(*, cluster: Cluster, before_count: int, now: datetime) -> None:
    """Set the temperature after somebody said how many replicas run; as `follow_probe`."""
    temperature = Cluster.Temperature
    waking = Waking.objects.filter(cluster_id=cluster.id).first()
    if cluster.replica_count == 0 and not is_awaited(waking, now=now):
        cluster.temperature = temperature.COLD
    elif cluster.replica_count and not before_count and cluster.temperature in {"", temperature.COLD}:
        await_replica(cluster=cluster, waking=waking, now=now)


def await_replica(*, cluster: Cluster, waking: Waking | None, now: datetime) -> None:
    """A replica was asked for or started: from now on it is waited for. Sets the cluster, saves the rest."""
    expected_s = expected_warm_up_s(cluster, waking)
    is_warm = cluster.temperature == Cluster.Temperature.WARM
    if not is_warm:
        cluster.temperature = Cluster.Temperature.WAKING
    Waking.objects.update_or_create(
        cluster_id=cluster.id,
        defaults={
            "accepted_at": now,
            "expected_at": now + timedelta(seconds=expected_s),
            # Of one more for a warm cluster nobody sees when it is there: it is taken to be as expected.
            "awaited_until": now + timedelta(seconds=expected_s if is_warm else patience_s(expected_s)),
        },
    )


def _learn(waking: Waking, *, now: datetime) -> None:
    fields = ["expected_at", "awaited_until", "failure_count", "error"]
    if waking.accepted_at is not None:
        measured_s = max((now - waking.accepted_at).total_seconds(), 0.0)
        before_s = None if waking.warm_up_ms is None else waking.warm_up_ms / MS_PER_S
        waking.warm_up_ms = round(learnt_warm_up_s(before_s=before_s, measured_s=measured_s) * MS_PER_S)
        waking.warm_up_count += 1
        fields += ["warm_up_ms", "warm_up_count"]
    waking.expected_at = waking.awaited_until = None
    waking.failure_count, waking.error = 0, ""
    waking.save(update_fields=fields)


def _give_up(waking: Waking, *, cluster: Cluster) -> None:
    asked_at = f" at {waking.accepted_at:%Y-%m-%d %H:%M:%S} UTC" if waking.accepted_at else ""
    error = f"a replica was asked for{asked_at} and did not come: {cluster.health_reason}"
    waking.expected_at = waking.awaited_until = None
    waking.failure_count += 1
    waking.error = error[:ERROR_CHARACTERS_MAX]
    waking.save(update_fields=["expected_at", "awaited_until", "failure_count", "error"])
    logger.warning("cluster_did_not_wake name=%s error=%s", cluster.name, waking.error)
