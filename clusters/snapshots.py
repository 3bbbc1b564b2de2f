"""Freezes the inventory into values that gateways route by: the read side, a handful of queries."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from clusters.experiments import ExperimentView, load_experiments
from clusters.models import (
    Cluster,
    ClusterSecret,
    Deployment,
    HourlyCost,
    Revision,
    Route,
    RouterSettings,
    Waking,
)
from clusters.signing import (
    Key,
    NoneSigner,
    Signer,
    SigningError,
    TlsIdentity,
    build_signer,
    build_tls_identity,
)
from clusters.temperature import expected_warm_up_s
from clusters.vault import VaultError, opened
from routing.types import ASLEEP, COLD, WAKING

# Providers that take their API key in a header of their own instead of Authorization.
TOKEN_HEADERS = {
    Cluster.Backend.CLAUDE.value: "x-api-key",
    Cluster.Backend.GEMINI.value: "x-goog-api-key",
    Cluster.Backend.AZURE.value: "api-key",
}
# Kinds of authentication of which a provider may have several keys, all in use.
KEYED_AUTH_TYPES = frozenset({Cluster.Auth.BEARER.value, Cluster.Auth.SIGV4.value})
SINGLE_ROW_ID = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """A model on a cluster; `upstream_name` is never empty."""

    id: str
    model: str
    upstream_name: str
    context_window: int
    output_tokens_max: int | None
    capabilities: frozenset[str]
    is_vanished: bool = False  # its cluster does not list it any more


@dataclass(frozen=True, slots=True, kw_only=True)
class WakingView:
    """How an autoscaled cluster gets replicas, and what came of the latest asking."""

    has_hook: bool
    warm_up_s: float
    is_warm_up_known: bool
    window_s: int
    replicas_max: int
    expected_at: datetime | None = None  # when the replica that was asked for should be there
    failure_count: int = 0
    error: str = ""
    woken_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """A cluster with what was last seen of it and what reaches it; `None` means unknown, never zero.

    `secret_problem` says why its secrets cannot be used: such a cluster is shown, never routed to.
    The cost per hour is the one in force when the view was made, of an autoscaled cluster for a replica.
    """

    id: str
    name: str
    kind: str
    provider: str
    region: str
    endpoint: str
    backend: str
    auth_type: str
    billing: str
    state: str
    cost_per_hour_nanousd: int
    rated_tokens_per_s: int | None
    in_flight_max: int
    default_model: str
    rpm_max: int | None
    tpm_max: int | None
    burst_percent: int
    health: str
    health_reason: str
    health_checked_at: datetime | None
    queue_depth: int | None
    running_count: int | None
    measured_tokens_per_s: int | None
    latency_ms: int | None
    allow_private_network: bool
    signer: Signer
    tls: TlsIdentity | None
    secret_problem: str
    deployments: tuple[DeploymentView, ...]
    replica_count: int = 1
    cost_changes_at: datetime | None = None  # when the next cost per hour comes into force
    tags: frozenset[str] = frozenset()
    temperature: str = ""  # cold, waking or warm; empty: not autoscaled, or not known
    waking: WakingView | None = None  # None: not autoscaled
    keys: tuple[Key, ...] = ()  # of a provider: all are in use, the newest first
    clock_skew_s: int | None = None
    certificate_expires_at: datetime | None = None  # the server's, as seen by the latest probe over TLS
    discovery: str = "empty"  # never | empty | always
    expands_addresses: bool = False  # each address of its name is a server of its own
    address_count: int | None = None
    healthy_address_count: int | None = None

    @property
    def certificate_ends(self) -> tuple[tuple[str, datetime], ...]:
        """(client, server or authority; when it expires), of those certificates that are known."""
        tls = self.tls or TlsIdentity()
        ends = {
            "client": tls.expires_at,
            "server": self.certificate_expires_at,
            "authority": tls.ca_expires_at,
        }
        return tuple((kind, at) for kind, at in ends.items() if at is not None)

    def as_unknown(self) -> "ClusterView":
        """As it is known once its latest probe is too old to say anything.

        One that is to be probed at once, since something of it was changed, sleeps on meanwhile.
        """
        temperature = self.temperature if self.health_checked_at is None and self.is_asleep else ""
        return replace(
            self,
            health="unknown",
            queue_depth=None,
            running_count=None,
            latency_ms=None,
            temperature=temperature,
        )

    @property
    def is_usable(self) -> bool:
        """Whether requests may go there; of an unknown health they may, and who sleeps can be woken."""
        is_there = self.health != "unhealthy" or self.is_wakeable
        return self.state == "active" and is_there and not self.secret_problem

    @property
    def is_asleep(self) -> bool:
        """Whether nothing of it runs, or not yet."""
        return self.temperature in ASLEEP

    @property
    def is_wakeable(self) -> bool:
        """Whether it is asleep and will not be so once somebody asks for it."""
        is_coming = self.temperature == WAKING or (self.waking is not None and self.waking.has_hook)
        return self.is_asleep and is_coming

    @property
    def running_replica_count(self) -> int:
        """How many replicas run or start, as far as anybody said; a committed cluster is one."""
        if self.waking is None or not self.temperature:
            return self.replica_count
        return 0 if self.temperature == COLD else max(self.replica_count, 1)

    @property
    def can_grow(self) -> bool:
        """Whether its hook may be asked for one replica more."""
        if self.waking is None or self.state != "active":
            return False
        return self.waking.has_hook and self.running_replica_count < self.waking.replicas_max


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """A public model name, the models that may answer it, and those tried when none of them can."""

    model: str
    candidates: tuple[str, ...]
    fallbacks: tuple[str, ...]
    policy: str
    context_fallbacks: tuple[str, ...] = ()
    content_filter_fallbacks: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    queue_places_max: int | None = None
    queue_wait_ms_max: int | None = None
    while_waking: str = "spill"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettingsView:
    """The installation's routing and server settings."""

    policy: str
    ttft_objective_ms: int
    ttft_objective_us_per_prompt_token: int
    tpot_objective_ms: int
    miss_input_microusd_per_mtok: int
    miss_output_microusd_per_mtok: int
    queue_places_max: int
    queue_wait_ms_max: int
    stickiness_window_s: int
    health_check_interval_s: int
    latency_ms_max: int
    queue_depth_max: int
    overhead_permille: int
    cluster_cost_threshold_nanousd: int
    is_external_fallback_enabled: bool
    server_port: int | None
    read_timeout_s: int
    write_timeout_s: int
    idle_timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InventorySnapshot:
    """The whole inventory as of a revision, or a little newer: never older."""

    revision: int
    clusters: tuple[ClusterView, ...]
    routes: tuple[RouteView, ...]
    settings: RouterSettingsView
    experiments: tuple[ExperimentView, ...] = ()  # those that run


def get_revision() -> int:
    """How many changes the inventory has seen; one query."""
    return Revision.objects.filter(id=SINGLE_ROW_ID).values_list("number", flat=True).first() or 0


def load_inventory(*, now: datetime) -> InventorySnapshot:
    """The inventory, with the hourly costs in force at `now`: seven queries, however much it holds.

    The revision is read before the rows: a change in between shows as a newer revision at the next look.
    """
    revision = get_revision()
    clusters = load_clusters(now=now)
    routes = Route.objects.filter(is_enabled=True).order_by("model")
    settings = RouterSettings.objects.filter(id=SINGLE_ROW_ID).first() or RouterSettings()
    return InventorySnapshot(
        revision=revision,
        clusters=clusters,
        routes=tuple(_route_view(route) for route in routes),
        settings=_settings_view(settings),
        experiments=load_experiments(state="running"),
    )


def load_clusters(
    *, now: datetime, cluster_ids: Sequence[UUID] | None = None, is_staged_signing: bool = False
) -> tuple[ClusterView, ...]:
    """All clusters by name, or those with these ids; three queries.

    With `is_staged_signing` a secret that waits is used as if it were active, to try it.
    """
    chosen = Cluster.objects.all() if cluster_ids is None else Cluster.objects.filter(id__in=cluster_ids)
    # The wake hook's is for whoever calls it: clusters.wake_hook.
    secrets = ClusterSecret.objects.filter(is_active=True).exclude(purpose=ClusterSecret.Purpose.WAKE)
    if not is_staged_signing:
        secrets = secrets.filter(is_staged=False)
    deployments = Deployment.objects.filter(is_enabled=True)
    if cluster_ids is not None:
        secrets = secrets.filter(cluster_id__in=cluster_ids)
        deployments = deployments.filter(cluster_id__in=cluster_ids)
    secrets_of: dict[UUID, list[ClusterSecret]] = defaultdict(list)
    for secret in secrets.order_by("-is_staged", "-created_at", "-id"):
        secrets_of[secret.cluster_id].append(secret)
    deployments_of: dict[UUID, list[Deployment]] = defaultdict(list)
    for deployment in deployments.order_by("model"):
        deployments_of[deployment.cluster_id].append(deployment)
    return tuple(
        _cluster_view(cluster, secrets_of[cluster.id], deployments_of[cluster.id], now=now)
        for cluster in with_cost_in_force(chosen, now=now).select_related("waking").order_by("name")
    )


def with_cost_in_force(clusters: QuerySet[Cluster], *, now: datetime) -> QuerySet[Any]:
    """The clusters with `cost_in_force`, the cluster's own where no HourlyCost is, and `cost_changes_at`."""
    costs = HourlyCost.objects.filter(cluster=OuterRef("pk"))
    in_force = costs.filter(effective_at__lte=now).order_by("-effective_at").values("cost_per_hour_nanousd")
    upcoming = costs.filter(effective_at__gt=now).order_by("effective_at").values("effective_at")
    return clusters.annotate(
        cost_in_force=Coalesce(Subquery(in_force[:1]), "cost_per_hour_nanousd"),
        cost_changes_at=Subquery(upcoming[:1]),
    )


def _cluster_view(
    cluster: Any, secrets: Sequence[ClusterSecret], deployments: Sequence[Deployment], *, now: datetime
) -> ClusterView:
    """Of a cluster with its annotations, see `with_cost_in_force`."""
    signer, tls, keys, secret_problem = _identity(cluster, secrets, now=now)
    return ClusterView(
        id=str(cluster.id),
        name=cluster.name,
        kind=cluster.kind,
        provider=cluster.provider,
        region=cluster.region,
        endpoint=cluster.endpoint,
        backend=cluster.backend,
        auth_type=cluster.auth_type,
        billing=cluster.billing,
        state=cluster.state,
        cost_per_hour_nanousd=cluster.cost_in_force,
        rated_tokens_per_s=cluster.tokens_per_s,
        in_flight_max=cluster.in_flight_max,
        default_model=cluster.default_model,
        rpm_max=cluster.rpm_max,
        tpm_max=cluster.tpm_max,
        burst_percent=cluster.burst_percent,
        health=cluster.health,
        health_reason=cluster.health_reason,
        health_checked_at=cluster.health_checked_at,
        queue_depth=cluster.queue_depth,
        running_count=cluster.running_count,
        measured_tokens_per_s=cluster.measured_tokens_per_s,
        latency_ms=cluster.latency_ms,
        allow_private_network=cluster.allow_private_network,
        signer=signer,
        tls=tls,
        secret_problem=secret_problem,
        deployments=tuple(_deployment_view(deployment) for deployment in deployments),
        replica_count=cluster.replica_count,
        cost_changes_at=cluster.cost_changes_at,
        tags=frozenset(cluster.tags),
        keys=keys,
        clock_skew_s=cluster.clock_skew_s,
        certificate_expires_at=cluster.certificate_expires_at,
        discovery=cluster.discovery,
        expands_addresses=cluster.expands_addresses,
        address_count=cluster.address_count,
        healthy_address_count=cluster.healthy_address_count,
        temperature=cluster.temperature if cluster.billing == Cluster.Billing.AUTOSCALED else "",
        waking=_waking_view(cluster) if cluster.billing == Cluster.Billing.AUTOSCALED else None,
    )


def _waking_view(cluster: Cluster) -> WakingView:
    waking: Waking | None = getattr(cluster, "waking", None)
    window_s = max(cluster.billed_s_min, cluster.scale_down_s)
    view = WakingView(
        has_hook=bool(cluster.wake_url),
        warm_up_s=expected_warm_up_s(cluster, waking),
        is_warm_up_known=cluster.warm_up_s is not None or (waking is not None and waking.warm_up_count > 0),
        window_s=window_s,
        replicas_max=cluster.replicas_max,
    )
    if waking is None:
        return view
    return replace(
        view,
        expected_at=waking.expected_at,
        failure_count=waking.failure_count,
        error=waking.error,
        woken_count=waking.accepted_count,
    )


def _identity(
    cluster: Cluster, secrets: Sequence[ClusterSecret], *, now: datetime
) -> tuple[Signer, TlsIdentity | None, tuple[Key, ...], str]:
    """Signer, TLS identity, a provider's keys and why there are none; fails closed: no secret, no signer."""
    try:
        known = [opened(secret) for secret in secrets]
        signer = _signer(cluster, known)
        tls = build_tls_identity(auth_type=cluster.auth_type, secrets=known)
    except (VaultError, SigningError) as error:
        return NoneSigner(), None, (), str(error)
    keys: tuple[Key, ...] = ()
    if cluster.kind == Cluster.Kind.PROVIDER and cluster.auth_type in KEYED_AUTH_TYPES:
        keys = tuple(
            Key(
                id=str(secret.id),
                label=each[1],
                signer=_signer(cluster, [each]),
                rpm_max=secret.rpm_max,
                tpm_max=secret.tpm_max,
            )
            for secret, each in zip(secrets, known, strict=True)
            if secret.purpose == cluster.auth_type
        )
    if cluster.auth_type == Cluster.Auth.MTLS and tls and tls.expires_at and tls.expires_at <= now:
        when = f"{tls.expires_at:%Y-%m-%d}"
        return (
            signer,
            tls,
            keys,
            f"the client certificate of {cluster.name} expired on {when}: store a new one",
        )
    return signer, tls, keys, ""


def _signer(cluster: Cluster, secrets: Sequence[tuple[str, str, str]]) -> Signer:
    header = TOKEN_HEADERS.get(cluster.backend, "authorization")
    return build_signer(
        auth_type=cluster.auth_type, secrets=secrets, token_header=header, region=cluster.region
    )


def _deployment_view(deployment: Deployment) -> DeploymentView:
    return DeploymentView(
        id=str(deployment.id),
        model=deployment.model,
        upstream_name=deployment.upstream_name or deployment.model,
        context_window=deployment.context_window,
        output_tokens_max=deployment.output_tokens_max,
        capabilities=frozenset(deployment.capabilities),
        is_vanished=deployment.vanished_at is not None,
    )


def _route_view(route: Route) -> RouteView:
    return RouteView(
        model=route.model,
        candidates=tuple(route.candidates),
        fallbacks=tuple(route.fallbacks),
        policy=route.policy,
        context_fallbacks=tuple(route.context_fallbacks),
        content_filter_fallbacks=tuple(route.content_filter_fallbacks),
        weights=dict(route.weights),
        queue_places_max=route.queue_places_max,
        queue_wait_ms_max=route.queue_wait_ms_max,
        while_waking=route.while_waking,
    )


def _settings_view(settings: RouterSettings) -> RouterSettingsView:
    return RouterSettingsView(
        policy=settings.policy,
        ttft_objective_ms=settings.ttft_objective_ms,
        ttft_objective_us_per_prompt_token=settings.ttft_objective_us_per_prompt_token,
        tpot_objective_ms=settings.tpot_objective_ms,
        miss_input_microusd_per_mtok=settings.miss_input_microusd_per_mtok,
        miss_output_microusd_per_mtok=settings.miss_output_microusd_per_mtok,
        queue_places_max=settings.queue_places_max,
        queue_wait_ms_max=settings.queue_wait_ms_max,
        stickiness_window_s=settings.stickiness_window_s,
        health_check_interval_s=settings.health_check_interval_s,
        latency_ms_max=settings.latency_ms_max,
        queue_depth_max=settings.queue_depth_max,
        overhead_permille=settings.overhead_permille,
        cluster_cost_threshold_nanousd=settings.cluster_cost_threshold_nanousd,
        is_external_fallback_enabled=settings.is_external_fallback_enabled,
        server_port=settings.server_port,
        read_timeout_s=settings.read_timeout_s,
        write_timeout_s=settings.write_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )
