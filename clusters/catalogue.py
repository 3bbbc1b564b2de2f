"""Puts clusters, deployments, routes and settings by name, writing only what differs, and lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import models, transaction

from clusters import inventory, record_checks, route_weights, vault
from clusters.models import Cluster, ClusterSecret, Deployment, Experiment, Route, RouterSettings

BACKENDS = tuple(Cluster.Backend.values)
AUTH_TYPES = tuple(Cluster.Auth.values)
BILLINGS = tuple(Cluster.Billing.values)
STATES = tuple(Cluster.State.values)
DISCOVERIES = tuple(Cluster.Discovery.values)
WAKE_AUTHS = tuple(Cluster.WakeAuth.values)
WAKE_PURPOSE = ClusterSecret.Purpose.WAKE.value
WHILE_WAKING = tuple(Route.WhileWaking.values)
CAPABILITIES = record_checks.CAPABILITIES
POLICIES = record_checks.POLICIES
REPLICAS_MAX = record_checks.REPLICAS_MAX
WEIGHT_MAX = route_weights.WEIGHT_MAX

CLUSTER_FIELDS = (
    "kind",
    "provider",
    "region",
    "endpoint",
    "backend",
    "auth_type",
    "allow_private_network",
    "expands_addresses",
    "billing",
    "cost_per_hour_nanousd",
    "replica_count",
    "replicas_max",
    "wake_url",
    "wake_auth",
    "warm_up_s",
    "billed_s_min",
    "scale_down_s",
    "tokens_per_s",
    "in_flight_max",
    "default_model",
    "discovery",
    "rpm_max",
    "tpm_max",
    "burst_percent",
    "state",
    "tags",
)
DEPLOYMENT_FIELDS = ("upstream_name", "context_window", "output_tokens_max", "capabilities", "is_enabled")
ROUTE_FIELDS = (
    "candidates",
    "fallbacks",
    "context_fallbacks",
    "content_filter_fallbacks",
    "policy",
    "weights",
    "queue_places_max",
    "queue_wait_ms_max",
    "while_waking",
    "is_enabled",
)
EXPERIMENT_FIELDS = (
    "arms",
    "ramp_s",
    "ramp_steps",
    "error_increase_permille",
    "latency_increase_percent",
    "samples_min",
)
SETTINGS_FIELDS = (
    "policy",
    "ttft_objective_ms",
    "ttft_objective_us_per_prompt_token",
    "tpot_objective_ms",
    "miss_input_microusd_per_mtok",
    "miss_output_microusd_per_mtok",
    "queue_places_max",
    "queue_wait_ms_max",
    "stickiness_window_s",
    "health_check_interval_s",
    "latency_ms_max",
    "queue_depth_max",
    "overhead_permille",
    "cluster_cost_threshold_nanousd",
    "is_external_fallback_enabled",
    "server_port",
    "read_timeout_s",
    "write_timeout_s",
    "idle_timeout_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field of a record; `old` is None where the record is new."""

    name: str
    old: object
    new: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a put did to one record: created it, changed fields of it, or nothing."""

    name: str
    is_new: bool
    fields: tuple[FieldChange, ...]

    @property
    def is_change(self) -> bool:
        return self.is_new or bool(self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentEntry:
    """A model on a cluster: its values by the names in DEPLOYMENT_FIELDS."""

    model: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A live secret: what it is for, what it is called, and a provider key's own limits per minute."""

    purpose: str
    label: str
    rpm_max: int | None
    tpm_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEntry:
    """A cluster: its values by the names in CLUSTER_FIELDS, and what it has of live secrets."""

    id: UUID
    name: str
    values: Mapping[str, Any]
    secrets: tuple[KeyEntry, ...]
    deployments: tuple[DeploymentEntry, ...]

    @property
    def secret_purposes(self) -> frozenset[str]:
        """For which purposes it has a live secret."""
        return frozenset(secret.purpose for secret in self.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    """A public model name: its values by the names in ROUTE_FIELDS."""

    model: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentEntry:
    """A route's experiment: the one that runs, else its latest; values by the names in EXPERIMENT_FIELDS."""

    name: str
    route: str
    state: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that an administrator entered but the secrets, each list in the order of its names."""

    settings: Mapping[str, Any]
    clusters: tuple[ClusterEntry, ...]
    routes: tuple[RouteEntry, ...]
    experiments: tuple[ExperimentEntry, ...] = ()


def put_cluster(*, name: str, values: Mapping[str, object]) -> Change:
    """Create the cluster of this name or change it; fields left out stay, or get their defaults.

    Raises InventoryError, as the other puts do, where the values cannot be kept.
    """
    with transaction.atomic():
        # Locked, because the prober writes what it saw to the same row.
        found = Cluster.objects.select_for_update().filter(name=name).first()
        return _put(found, new=Cluster(name=name), name=name, values=values, known=CLUSTER_FIELDS)


def put_deployment(*, cluster_name: str, model: str, values: Mapping[str, object]) -> Change:
    """Create or change a model on a cluster, which must exist."""
    with transaction.atomic():
        cluster = _get_cluster(name=cluster_name)
        found = Deployment.objects.select_for_update().filter(cluster=cluster, model=model).first()
        new = Deployment(cluster=cluster, model=model)
        return _put(found, new=new, name=model, values=values, known=DEPLOYMENT_FIELDS)


def put_route(*, model: str, values: Mapping[str, object]) -> Change:
    """Create or change the route of a public model name."""
    with transaction.atomic():
        found = Route.objects.select_for_update().filter(model=model).first()
        return _put(found, new=Route(model=model), name=model, values=values, known=ROUTE_FIELDS)


def put_experiment(*, name: str, route: str, values: Mapping[str, object]) -> Change:
    """Create an experiment on a route, which must exist, as a draft, or change it."""
    with transaction.atomic():
        found = Experiment.objects.select_for_update().filter(name=name).first()
        on_route = Route.objects.filter(model=route).first()
        if on_route is None:
            raise inventory.InventoryError(f"there is no route {route!r}: create it first")
        if found is not None and found.route_id != on_route.id:
            raise inventory.InventoryError(
                f"the experiment {name!r} is of another route: each has a name of its own"
            )
        new = Experiment(name=name, route=on_route)
        return _put(found, new=new, name=name, values=values, known=EXPERIMENT_FIELDS)


def put_router_settings(*, values: Mapping[str, object]) -> Change:
    """Change the one row of settings; while there is none, the defaults count as the old values."""
    with transaction.atomic():
        found = RouterSettings.objects.select_for_update().first() or RouterSettings()
        return _put(found, new=found, name="", values=values, known=SETTINGS_FIELDS)


def put_secret(
    *,
    cluster_name: str,
    purpose: str,
    plaintext: str,
    label: str,
    rpm_max: int | None = None,
    tpm_max: int | None = None,
) -> bool:
    """Make this the cluster's one secret of its purpose and label; True if that changed anything.

    Older secrets under the same label are retired; those under other labels (entered by hand, say)
    stay live beside it. Nothing is stored where this very secret is live already.
    """
    with transaction.atomic():
        cluster = _get_cluster(name=cluster_name)
        try:
            is_stored = inventory.put_secret(
                cluster_id=cluster.id, purpose=purpose, plaintext=plaintext, label=label
            )
        except vault.VaultError as error:
            raise inventory.InventoryError(str(error)) from error
        live = ClusterSecret.objects.filter(cluster=cluster, purpose=purpose, label=label, is_active=True)
        stale_ids = [
            secret.id
            for secret in live
            if not vault.is_same(
                plaintext=plaintext.strip(),
                ciphertext=bytes(secret.ciphertext),
                key_id=secret.encryption_key_id,
                record_id=secret.id,
            )
        ]
        for secret_id in stale_ids:
            inventory.retire_secret(secret_id=secret_id)
        other = live.exclude(id__in=stale_ids).exclude(rpm_max=rpm_max, tpm_max=tpm_max).first()
        if other is not None:
            inventory.limit_secret(secret_id=other.id, rpm_max=rpm_max, tpm_max=tpm_max)
    return is_stored or bool(stale_ids) or other is not None


def load_catalogue() -> Catalogue:
    """Everything, in six queries, disabled things included.

    Sorted here: databases differ in how they order text.
    """
    secrets: dict[UUID, list[KeyEntry]] = {}
    for secret in ClusterSecret.objects.filter(is_active=True).order_by("created_at", "id"):
        key = KeyEntry(
            purpose=secret.purpose, label=secret.label, rpm_max=secret.rpm_max, tpm_max=secret.tpm_max
        )
        secrets.setdefault(secret.cluster_id, []).append(key)
    deployments: dict[UUID, list[DeploymentEntry]] = {}
    for deployment in sorted(Deployment.objects.all(), key=lambda each: each.model):
        entry = DeploymentEntry(model=deployment.model, values=_values(deployment, DEPLOYMENT_FIELDS))
        deployments.setdefault(deployment.cluster_id, []).append(entry)
    return Catalogue(
        settings=_values(RouterSettings.objects.first() or RouterSettings(), SETTINGS_FIELDS),
        clusters=tuple(
            ClusterEntry(
                id=cluster.id,
                name=cluster.name,
                values=_values(cluster, CLUSTER_FIELDS),
                secrets=tuple(secrets.get(cluster.id, ())),
                deployments=tuple(deployments.get(cluster.id, ())),
            )
            for cluster in sorted(Cluster.objects.all(), key=lambda each: each.name)
        ),
        routes=tuple(
            RouteEntry(model=route.model, values=_values(route, ROUTE_FIELDS))
            for route in sorted(Route.objects.all(), key=lambda each: each.model)
        ),
        experiments=_load_experiments(),
    )


def _load_experiments() -> tuple[ExperimentEntry, ...]:
    state = Experiment.State
    ranks: dict[str, int] = {state.RUNNING: 2, state.DRAFT: 1, state.STOPPED: 0}
    rows = sorted(
        Experiment.objects.select_related("route"), key=lambda row: (ranks[row.state], row.created_at)
    )
    shown = {row.route.model: row for row in rows}
    return tuple(
        ExperimentEntry(name=row.name, route=route, state=row.state, values=_values(row, EXPERIMENT_FIELDS))
        for route, row in sorted(shown.items())
    )


def _get_cluster(*, name: str) -> Cluster:
    cluster = Cluster.objects.filter(name=name).first()
    if cluster is None:
        raise inventory.InventoryError(f"there is no cluster {name!r}: create it first")
    return cluster


def _put(
    found: models.Model | None,
    *,
    new: models.Model,
    name: str,
    values: Mapping[str, object],
    known: tuple[str, ...],
) -> Change:
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise inventory.InventoryError(f"unknown fields {', '.join(unknown)}: use {', '.join(known)}")
    record = found if found is not None else new
    is_new = found is None
    changes = tuple(
        FieldChange(name=field, old=None if is_new else getattr(record, field), new=value)
        for field, value in values.items()
        if is_new or getattr(record, field) != value
    )
    change = Change(name=name, is_new=is_new, fields=changes)
    if change.is_change:
        for each in changes:
            setattr(record, each.name, each.new)
        inventory.save_record(record=record)
    return change


def _values(record: models.Model, fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: getattr(record, field) for field in fields}
