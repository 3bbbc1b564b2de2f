"""Exchanges a cluster's HMAC secret in steps, so that no request is refused: stage, activate, retire.

1. `stage` seals a new secret that signs nothing yet; its plaintext is handed over this once.
2. The cluster's operators put it beside the old one: their verifier accepts both.
3. `activate` asks the cluster with it, and lets gateways sign with it where the cluster accepts it.
4. Gateways sign with the new one within a second. The old one leaves the verifier, and `retire` wipes it
   here, once the cluster accepts the new one still.
"""

import secrets
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from clusters import inventory
from clusters.inventory import InventoryError
from clusters.models import Cluster, ClusterSecret
from clusters.monitor import look_at
from clusters.snapshots import load_clusters

SECRET_BYTES = 32
HMAC = ClusterSecret.Purpose.HMAC


def stage(*, cluster_name: str, label: str = "") -> str:
    """Seal a new secret that waits, and return it; one that waited until now was never used, and ends."""
    plaintext = secrets.token_urlsafe(SECRET_BYTES)
    with transaction.atomic():
        cluster = _cluster(cluster_name)
        for waiting in _live(cluster).filter(is_staged=True):
            inventory.retire_secret(secret_id=waiting.id)
        inventory.store_secret(
            cluster_id=cluster.id, purpose=HMAC, plaintext=plaintext, label=label, is_staged=True
        )
    return plaintext


def activate(*, cluster_name: str, is_forced: bool, now: datetime) -> None:
    """Let gateways sign with the secret that waits, once a probe signed with it was accepted.

    `is_forced` leaves the probe out, for a cluster that is down. Raises `InventoryError` where the cluster
    does not accept it, or none waits; nothing is changed then.
    """
    cluster = _cluster(cluster_name)
    waiting = _live(cluster).filter(is_staged=True).first()
    if waiting is None:
        raise InventoryError(f"no new secret of {cluster_name} waits: begin with --generate")
    if not is_forced:
        _try(cluster, now=now, is_staged_signing=True, advice="Add it to the cluster's verifier first")
    inventory.activate_secret(secret_id=waiting.id, now=now)


def retire(*, cluster_name: str, is_forced: bool, now: datetime) -> int:
    """Wipe all but the secret that signs, and one that waits; returns how many.

    Raises `InventoryError` where the cluster does not accept what signs: the older ones are the way back.
    """
    cluster = _cluster(cluster_name)
    if not is_forced:
        _try(cluster, now=now, is_staged_signing=False, advice="Correct the cluster's verifier first")
    with transaction.atomic():
        used = list(_live(cluster).filter(is_staged=False).order_by("-created_at", "-id"))
        for secret in used[1:]:
            inventory.retire_secret(secret_id=secret.id)
    return len(used[1:])


def _cluster(name: str) -> Cluster:
    cluster = Cluster.objects.filter(name=name).first()
    if cluster is None:
        raise InventoryError(f"there is no cluster {name!r}: see the names in check_clusters")
    if cluster.auth_type != Cluster.Auth.HMAC:
        raise InventoryError(f"{name!r} asks for {cluster.auth_type}, not for HMAC signatures")
    return cluster


def _try(cluster: Cluster, *, now: datetime, is_staged_signing: bool, advice: str) -> None:
    """Ask the cluster for its models with that secret; `InventoryError` where it is refused or down."""
    (view,) = load_clusters(cluster_ids=[cluster.id], now=now, is_staged_signing=is_staged_signing)
    seen = look_at(view=view, now=now)
    # Where each address is a server of its own, one that refuses is enough.
    if not seen.is_healthy or seen.healthy_address_count != seen.address_count:
        raise InventoryError(
            f"nothing was changed: asked with the new secret, {cluster.name} says: {seen.reason}. "
            f"{advice}, or use --force where the cluster is down"
        )


def _live(cluster: Cluster) -> QuerySet[ClusterSecret]:
    return ClusterSecret.objects.filter(cluster=cluster, purpose=HMAC, is_active=True)
