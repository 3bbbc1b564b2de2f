"""The one door for writes to the inventory: checks each change, makes it, and counts it as a revision."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4

from django.db import models, transaction
from django.db.models import F

from clusters import signing, sigv4, temperature, vault
from clusters.health import Condition, Observation, folded, settled_latency_ms
from clusters.models import (
    Cluster,
    ClusterSecret,
    Deployment,
    Experiment,
    HealthCheck,
    Revision,
    Route,
    RouterSettings,
)
from clusters.record_checks import REPLICAS_MAX, SINGLE_ROW_ID, name_problem
from clusters.record_checks import InventoryError as InventoryError  # noqa: PLC0414 -- part of this door
from clusters.record_checks import check_record as check_record  # noqa: PLC0414 -- part of this door
from clusters.record_checks import check_values as check_values  # noqa: PLC0414 -- part of this door
from clusters.verifying import signatures

logger = logging.getLogger(__name__)

SECRET_CHARACTERS_MAX = 64 * 1024
SECRETS_LIVE_MAX = signatures.SECRETS_MAX
LABEL_CHARACTERS_MAX = 64
DISCOVERED_MODELS_MAX = 200
CONTEXT_WINDOW_ASSUMED = 8192
REASON_CHARACTERS_MAX = 200

# What the prober writes; saving a cluster never writes it back with what a form read a minute ago.
_HEALTH_FIELDS = frozenset(
    {
        "health",
        "health_reason",
        "temperature",
        "health_checked_at",
        "failure_count",
        "queue_depth",
        "running_count",
        "measured_tokens_per_s",
        "latency_ms",
        "clock_skew_s",
        "certificate_expires_at",
        "quick_look_count",
        "address_count",
        "healthy_address_count",
    }
)
# And what gateways write.
_SEEN_FIELDS = _HEALTH_FIELDS | {"traffic_failed_at", "traffic_avoided_until"}
PEM_PURPOSES = frozenset(
    {
        ClusterSecret.Purpose.CLIENT_CERTIFICATE,
        ClusterSecret.Purpose.CLIENT_KEY,
        ClusterSecret.Purpose.CA,
    }
)
# A change of these makes what the prober knew worthless: it looks again at once.
_PROBED_FIELDS = (
    "endpoint",
    "expands_addresses",
    "backend",
    "auth_type",
    "allow_private_network",
    "state",
    "discovery",
)
_ROUTED_FIELDS = (
    *("health", "temperature", "queue_depth", "running_count", "measured_tokens_per_s", "latency_ms"),
)
# Seldom changes, and is shown by metrics, which gateways make of their snapshot.
_SHOWN_FIELDS = ("certificate_expires_at",)


def save_record(*, record: models.Model, left_alone: Collection[str] = ()) -> None:
    """Check and save a Cluster, Deployment, Route, Experiment or RouterSettings.

    Of a cluster that exists already, what the prober saw is left as it is in the table, and so are the
    fields `left_alone`: others may have written them since the record was read.
    """
    with transaction.atomic():
        check_record(record=record)
        if isinstance(record, Cluster) and not record._state.adding:  # noqa: SLF001 -- Django's documented name
            _save_changed_cluster(record, left_alone=left_alone)
        else:
            record.save()
        bump_revision()


def delete_records(*, records: Iterable[models.Model]) -> None:
    """Delete clusters (with their deployments, secrets and checks), deployments or routes."""
    records = list(records)
    with transaction.atomic():
        # Gateways and workers add rows of a cluster at any time: none may come once its rows were gathered.
        ids = [record.pk for record in records if isinstance(record, Cluster)]
        list(Cluster.objects.select_for_update().filter(id__in=ids).order_by("name").values_list("id"))
        for record in records:
            if not isinstance(record, Cluster | Deployment | Route | Experiment | ClusterSecret):
                raise InventoryError(f"a {type(record).__name__} cannot be deleted")
            record.delete()
        bump_revision()


def set_cluster_state(*, cluster_id: UUID, state: str) -> None:
    """Activate, drain or disable a cluster; an activated one is probed at once."""
    if state not in Cluster.State.values:
        raise InventoryError(f"state {state!r} is unknown: use one of {', '.join(Cluster.State.values)}")
    with transaction.atomic():
        changes = {"health_checked_at": None} if state == Cluster.State.ACTIVE else {}
        _one(Cluster.objects.filter(id=cluster_id).update(state=state, **changes), f"cluster {cluster_id}")
        bump_revision()


def set_replica_count(*, cluster_name: str, replica_count: int, now: datetime) -> bool:
    """Note how many replicas an autoscaled cluster runs; for whoever scales it. True if that changed.

    With none it is cold, with the first it is waking until a probe finds it warm.
    """
    if not 0 <= replica_count <= REPLICAS_MAX:
        raise InventoryError(f"{replica_count} replicas: write a number from 0 to {REPLICAS_MAX}")
    with transaction.atomic():
        # Its key stays: gateways may insert the row of its waking meanwhile, and must not wait for us.
        cluster = Cluster.objects.select_for_update(no_key=True).filter(name=cluster_name).first()
        if cluster is None:
            raise InventoryError(f"there is no cluster {cluster_name!r}: see the names in check_clusters")
        if cluster.billing != Cluster.Billing.AUTOSCALED:
            raise InventoryError(
                f"{cluster_name!r} is {cluster.billing}, and its replicas are not counted: set its billing "
                f"to autoscaled first"
            )
        if cluster.replica_count == replica_count:
            return False
        before_count, cluster.replica_count = cluster.replica_count, replica_count
        temperature.follow_replicas(cluster=cluster, before_count=before_count, now=now)
        cluster.save(update_fields=["replica_count", "temperature", "updated_at"])
        bump_revision()
    return True


def check_secret(*, purpose: str, plaintext: str) -> str:
    """The secret as it is kept (without surrounding space); `InventoryError` says why it cannot be one."""
    text = plaintext.strip()
    if purpose not in ClusterSecret.Purpose.values:
        raise InventoryError(
            f"purpose {purpose!r} is unknown: use one of {', '.join(ClusterSecret.Purpose.values)}"
        )
    if not text or len(text) > SECRET_CHARACTERS_MAX:
        raise InventoryError(
            f"the {purpose} secret is empty or longer than {SECRET_CHARACTERS_MAX} characters"
        )
    if purpose in {ClusterSecret.Purpose.BEARER, ClusterSecret.Purpose.WAKE} and not (
        text.isascii() and text.isprintable() and " " not in text
    ):
        raise InventoryError(
            "the token has characters that no header may carry: copy it again, without spaces"
        )
    if purpose == ClusterSecret.Purpose.HMAC and not text.isprintable():
        raise InventoryError("the HMAC secret has line breaks or control characters: copy it again")
    if purpose == ClusterSecret.Purpose.SIGV4:
        if problem := sigv4.key_problem(text):
            raise InventoryError(f"this is no AWS access key: {problem}")
    elif purpose in PEM_PURPOSES:
        try:
            signing.check_pem(purpose=purpose, plaintext=text)
        except signing.SigningError as error:
            raise InventoryError(f"{purpose}: {error}") from error
    return text


def store_secret(
    *, cluster_id: UUID, purpose: str, plaintext: str, label: str = "", is_staged: bool = False
) -> UUID:
    """Seal a new secret, live beside the older ones of its purpose, and return its id.

    The newest signs, unless `is_staged`: then it waits for `activate_secret`. The older ones are retired by
    hand once the cluster knows the new one.
    """
    text = check_secret(purpose=purpose, plaintext=plaintext)
    if len(label) > LABEL_CHARACTERS_MAX or not label.isprintable():
        raise InventoryError(f"the label must be one line of at most {LABEL_CHARACTERS_MAX} characters")
    with transaction.atomic():
        if purpose != ClusterSecret.Purpose.WAKE:
            _forget_latest_probe(cluster_id)
        live = ClusterSecret.objects.filter(cluster_id=cluster_id, purpose=purpose, is_active=True).count()
        if live >= SECRETS_LIVE_MAX:
            raise InventoryError(f"{live} {purpose} secrets are live already: retire one first")
        secret_id = uuid4()
        sealed = _sealed(plaintext=text, record_id=secret_id)
        ClusterSecret.objects.create(
            id=secret_id,
            cluster_id=cluster_id,
            purpose=purpose,
            label=label,
            ciphertext=sealed.ciphertext,
            encryption_key_id=sealed.key_id,
            is_staged=is_staged,
        )
        bump_revision()
    return secret_id


def activate_secret(*, secret_id: UUID, now: datetime) -> None:
    """From now on the one that waited signs: it becomes the newest of its purpose."""
    with transaction.atomic():
        waiting = ClusterSecret.objects.filter(id=secret_id, is_active=True, is_staged=True)
        _one(waiting.update(is_staged=False, created_at=now), f"secret {secret_id} that waits")
        bump_revision()


def limit_secret(*, secret_id: UUID, rpm_max: int | None, tpm_max: int | None) -> None:
    """Set a key's own limits per minute; None: it has none that we know."""
    with transaction.atomic():
        changed = ClusterSecret.objects.filter(id=secret_id, is_active=True)
        _one(changed.update(rpm_max=rpm_max, tpm_max=tpm_max), f"live secret {secret_id}")
        bump_revision()


def put_secret(*, cluster_id: UUID, purpose: str, plaintext: str, label: str = "") -> bool:
    """Store a secret unless this very one is live already; True if it was stored."""
    text = check_secret(purpose=purpose, plaintext=plaintext)
    with transaction.atomic():
        live = ClusterSecret.objects.select_for_update().filter(
            cluster_id=cluster_id, purpose=purpose, is_active=True
        )
        is_stored = any(
            vault.is_same(
                plaintext=text,
                ciphertext=bytes(secret.ciphertext),
                key_id=secret.encryption_key_id,
                record_id=secret.id,
            )
            for secret in live
        )
        if not is_stored:
            store_secret(cluster_id=cluster_id, purpose=purpose, plaintext=text, label=label)
    return not is_stored


def retire_secret(*, secret_id: UUID) -> None:
    """End a secret for good: its row stays as a record, what was sealed in it is wiped."""
    with transaction.atomic():
        secret = ClusterSecret.objects.filter(id=secret_id).first()
        if secret is None:
            raise InventoryError(f"there is no secret {secret_id}: it may have been deleted meanwhile")
        if secret.purpose != ClusterSecret.Purpose.WAKE:
            _forget_latest_probe(secret.cluster_id)
        secret.is_active = False
        secret.is_staged = False
        secret.ciphertext = b""
        secret.encryption_key_id = ""
        secret.save(update_fields=["is_active", "is_staged", "ciphertext", "encryption_key_id"])
        bump_revision()


def reseal_secrets() -> int:
    """Seal all live secrets anew under the newest key, all or none; returns how many.

    Raises `vault.VaultError` where one cannot be opened; nothing is changed then.
    """
    with transaction.atomic():
        secrets = list(ClusterSecret.objects.select_for_update().filter(is_active=True))
        for secret in secrets:
            sealed = vault.reencrypt(
                ciphertext=bytes(secret.ciphertext), key_id=secret.encryption_key_id, record_id=secret.id
            )
            secret.ciphertext = sealed.ciphertext
            secret.encryption_key_id = sealed.key_id
        ClusterSecret.objects.bulk_update(secrets, ["ciphertext", "encryption_key_id"], batch_size=100)
        bump_revision()
    return len(secrets)


def claim_probe(*, cluster_id: UUID, checked_at: datetime | None, now: datetime) -> bool:
    """Whether this caller may probe: of several that saw the same `checked_at`, exactly one may."""
    unclaimed = Cluster.objects.filter(id=cluster_id, health_checked_at=checked_at)
    return unclaimed.update(health_checked_at=now) == 1


def record_health(*, cluster_id: UUID, observation: Observation, now: datetime) -> None:
    """Add a health check and fold it into the cluster; a revision only where routing would see it.

    A cluster deleted meanwhile is skipped. One that a quicker probe looked at later is left as that one saw
    it: the check is noted alone.
    """
    with transaction.atomic():
        # Two workers' probes of one cluster may end together: the row lock orders them.
        cluster = Cluster.objects.select_for_update().filter(id=cluster_id).first()
        if cluster is None:
            return
        told_before = [getattr(cluster, name) for name in (*_ROUTED_FIELDS, *_SHOWN_FIELDS)]
        health_before = cluster.health
        if not HealthCheck.objects.filter(cluster=cluster, checked_at__gt=now).exists():
            _fold_into(cluster=cluster, observation=observation, now=now)
            cluster.save(update_fields=list(_HEALTH_FIELDS))
        HealthCheck.objects.create(
            cluster=cluster,
            checked_at=now,
            is_healthy=observation.is_healthy,
            reason=observation.reason[:REASON_CHARACTERS_MAX],
            duration_ms=observation.duration_ms,
            queue_depth=observation.queue_depth,
            running_count=observation.running_count,
            tokens_per_s=observation.tokens_per_s,
            ttft_ms=observation.ttft_ms,
        )
        if told_before != [getattr(cluster, name) for name in (*_ROUTED_FIELDS, *_SHOWN_FIELDS)]:
            bump_revision()
    if cluster.health != health_before:
        logger.warning(
            "cluster_health_changed name=%s from=%s to=%s reason=%s",
            cluster.name,
            health_before,
            cluster.health,
            observation.reason,
        )


def add_deployments(
    *, cluster_id: UUID, model_names: Sequence[str], context_windows: Mapping[str, int]
) -> int:
    """Add what a cluster was seen to serve, if it has no deployment yet; returns how many were added.

    Names that are no model name are skipped and logged; at most `DISCOVERED_MODELS_MAX` are taken.
    """
    with transaction.atomic():
        # Locked, so that two workers do not both find it empty.
        cluster = Cluster.objects.select_for_update().filter(id=cluster_id).first()
        if cluster is None or Deployment.objects.filter(cluster=cluster).exists():
            return 0
        names = [name for name in dict.fromkeys(model_names) if name_problem(name) == ""]
        if len(names) < len(model_names) or len(names) > DISCOVERED_MODELS_MAX:
            logger.warning("discovered_models_skipped cluster=%s seen=%s", cluster.name, len(model_names))
        deployments = [
            Deployment(
                cluster=cluster,
                model=name,
                context_window=max(1, context_windows.get(name, CONTEXT_WINDOW_ASSUMED)),
            )
            for name in names[:DISCOVERED_MODELS_MAX]
        ]
        Deployment.objects.bulk_create(deployments)
        bump_revision()
    logger.info("deployments_discovered cluster=%s count=%s", cluster.name, len(deployments))
    return len(deployments)


def get_router_settings() -> RouterSettings:
    """The one row, made with its defaults where there is none."""
    settings = RouterSettings.objects.filter(id=SINGLE_ROW_ID).first()
    if settings is not None:
        return settings
    with transaction.atomic():
        # Two first callers may race for the row: both then read the one that won.
        RouterSettings.objects.bulk_create([RouterSettings(id=SINGLE_ROW_ID)], ignore_conflicts=True)
        bump_revision()
    return RouterSettings.objects.get(id=SINGLE_ROW_ID)


def bump_revision() -> None:
    """Count a change, inside its transaction: every gateway reads the inventory anew."""
    if Revision.objects.filter(id=SINGLE_ROW_ID).update(number=F("number") + 1) == 0:
        # Two first writers may race for the row: whoever comes second finds it and adds.
        Revision.objects.bulk_create([Revision(id=SINGLE_ROW_ID)], ignore_conflicts=True)
        Revision.objects.filter(id=SINGLE_ROW_ID).update(number=F("number") + 1)


def _save_changed_cluster(cluster: Cluster, *, left_alone: Collection[str]) -> None:
    before = Cluster.objects.filter(pk=cluster.pk).values(*_PROBED_FIELDS).first()
    if before is None:
        raise InventoryError(f"cluster {cluster.name} was deleted meanwhile: add it anew")
    names = {field.name for field in cluster._meta.concrete_fields if not field.primary_key}
    cluster.save(update_fields=sorted(names - _SEEN_FIELDS - set(left_alone)))
    if cluster.discovery != Cluster.Discovery.ALWAYS:
        # Nobody looks after these marks any more.
        Deployment.objects.filter(cluster=cluster, vanished_at__isnull=False).update(vanished_at=None)
    if any(before[name] != getattr(cluster, name) for name in _PROBED_FIELDS):
        _forget_latest_probe(cluster.pk)


def _fold_into(*, cluster: Cluster, observation: Observation, now: datetime) -> None:
    condition = folded(
        condition=Condition(
            health=cluster.health,
            failure_count=cluster.failure_count,
            quick_look_count=cluster.quick_look_count,
        ),
        observation=observation,
    )
    cluster.health = condition.health
    cluster.quick_look_count = condition.quick_look_count
    cluster.failure_count = condition.failure_count
    cluster.health_reason = observation.reason[:REASON_CHARACTERS_MAX]
    cluster.health_checked_at = now
    cluster.queue_depth = observation.queue_depth
    cluster.running_count = observation.running_count
    cluster.clock_skew_s = observation.clock_skew_s
    if observation.certificate_expires_at is not None:
        cluster.certificate_expires_at = observation.certificate_expires_at
    cluster.address_count = observation.address_count
    cluster.healthy_address_count = observation.healthy_address_count
    if observation.tokens_per_s is not None:
        cluster.measured_tokens_per_s = observation.tokens_per_s
    cluster.latency_ms = settled_latency_ms(before_ms=cluster.latency_ms, observation=observation)
    temperature.follow_probe(cluster=cluster, observation=observation, now=now)


def _sealed(*, plaintext: str, record_id: UUID) -> vault.Sealed:
    try:
        return vault.encrypt(plaintext=plaintext, record_id=record_id)
    except vault.VaultError as error:
        raise InventoryError(f"the secret was not stored: {error}") from error


def _forget_latest_probe(cluster_id: UUID) -> None:
    _one(
        Cluster.objects.filter(id=cluster_id).update(health_checked_at=None, failure_count=0),
        f"cluster {cluster_id}",
    )


def _one(changed_count: int, what: str) -> None:
    if changed_count != 1:
        raise InventoryError(f"there is no {what}: it may have been deleted meanwhile")
