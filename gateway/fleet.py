"""One immutable snapshot of all that a request needs from the control plane, and its keeper."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from django.db import connections

from billing import prices, principals
from billing.prices import RateTable
from billing.principals import Principal
from clusters import snapshots
from clusters.signing import Key, Signer, TlsIdentity
from clusters.snapshots import ClusterView, DeploymentView, InventorySnapshot, RouteView, WakingView
from gateway import metrics
from gateway.arms import Arms, join_arms
from routing.cost import nameplate_tokens_per_s, seed_rate_microusd_per_mtok
from routing.types import WAKING, Deployment, Fleet, Objective, Rate, RoutePlan, RoutingSettings, Wakeable

logger = structlog.get_logger(__name__)

# A probe older than so many intervals says nothing any more: the health is unknown again.
STALE_INTERVALS = 4
READINGS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is needed to reach a deployment, beside what routing knows of it."""

    deployment: Deployment
    cluster_id: str
    endpoint: str
    backend: str
    upstream_name: str
    signer: Signer
    tls: TlsIdentity | None
    is_private_allowed: bool
    keys: tuple[Key, ...] = ()  # a provider's; one of them signs instead
    certificate_expires_at: datetime | None = None  # the server's, as the prober saw it last
    expands_addresses: bool = False  # each address of its name is a server of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """The control plane at one moment. Swapped whole; nobody changes it."""

    inventory_revision: int
    billing_revision: int
    expires_at: datetime | None  # when a price or an hourly cost comes into force, or a probe goes stale
    fleet: Fleet
    targets: Mapping[str, Target]
    principals: Mapping[bytes, Principal]
    clusters: tuple[ClusterView, ...]
    arms: Arms = field(default_factory=Arms)

    def count_healthy(self, *, kind: str) -> tuple[int, int]:
        """How many clusters of the kind are usable, and how many there are."""
        chosen = [cluster for cluster in self.clusters if cluster.kind == kind]
        return sum(cluster.is_usable for cluster in chosen), len(chosen)


def build_snapshot(
    *,
    inventory: InventorySnapshot,
    principals: Mapping[bytes, Principal],
    rates: RateTable,
    billing_revision: int,
    now: datetime,
    now_s: float = 0.0,
) -> FleetSnapshot:
    """Join inventory, prices and keys. Pure: equal input, equal snapshot.

    `now_s` is the same moment on the monotonic clock that routing goes by.
    """
    stale_after = timedelta(seconds=inventory.settings.health_check_interval_s * STALE_INTERVALS)
    clusters = tuple(_as_known(c, stale_after=stale_after, now=now) for c in inventory.clusters)
    targets: dict[str, Target] = {}
    for cluster in clusters:
        for view in cluster.deployments:
            target = _target(cluster, view, rates=rates, inventory=inventory, now=now, now_s=now_s)
            targets[target.deployment.id] = target
    deployments = [target.deployment for target in targets.values()]
    routes = _route_plans(inventory.routes, deployments)
    arms = join_arms(inventory.experiments, routes=routes, deployments=deployments)
    return FleetSnapshot(
        inventory_revision=inventory.revision,
        billing_revision=billing_revision,
        expires_at=_expires_at(inventory, rates, stale_after=stale_after, now=now),
        fleet=Fleet(routes=routes, settings=_routing_settings(inventory), arms=arms.plans),
        targets=targets,
        principals=principals,
        clusters=clusters,
        arms=arms,
    )


def _as_known(cluster: ClusterView, *, stale_after: timedelta, now: datetime) -> ClusterView:
    """The cluster as far as it is known: what an old probe saw is unknown again, in either direction."""
    checked_at = cluster.health_checked_at
    if checked_at is not None and now - checked_at < stale_after:
        return cluster
    return cluster.as_unknown()


def _target(
    cluster: ClusterView,
    view: DeploymentView,
    *,
    rates: RateTable,
    inventory: InventorySnapshot,
    now: datetime,
    now_s: float,
) -> Target:
    checked_at = cluster.health_checked_at
    deployment = Deployment(
        id=view.id,
        cluster=cluster.name,
        cluster_kind=cluster.kind,
        provider=cluster.provider,
        region=cluster.region,
        model=view.model,
        billing=cluster.billing,
        state=_state(cluster, view),
        health=cluster.health,
        health_reason=cluster.secret_problem or cluster.health_reason,
        context_window=view.context_window,
        output_tokens_max=view.output_tokens_max,
        capabilities=view.capabilities,
        rate=None,
        cost_per_hour_nanousd=cluster.cost_per_hour_nanousd,
        rated_tokens_per_s=cluster.rated_tokens_per_s,
        measured_tokens_per_s=cluster.measured_tokens_per_s,
        queue_depth=cluster.queue_depth,
        latency_ms=cluster.latency_ms,
        in_flight_max=cluster.in_flight_max,
        polled_at_s=0.0 if checked_at is None else now_s - (now - checked_at).total_seconds(),
        rpm_max=_limit(cluster, "rpm_max"),
        tpm_max=_limit(cluster, "tpm_max"),
        tags=cluster.tags,
        wakeable=None if cluster.waking is None else _wakeable(cluster, cluster.waking, now=now, now_s=now_s),
    )
    rate = rates.rate_of(model=view.model, cluster_name=cluster.name)
    if rate is None and cluster.kind == "own":
        rate = _internal_rate(deployment, overhead_permille=inventory.settings.overhead_permille)
    return Target(
        deployment=replace(deployment, rate=rate),
        cluster_id=cluster.id,
        endpoint=cluster.endpoint,
        backend=cluster.backend,
        upstream_name=view.upstream_name,
        signer=cluster.signer,
        tls=cluster.tls,
        is_private_allowed=cluster.allow_private_network,
        keys=cluster.keys,
        certificate_expires_at=cluster.certificate_expires_at,
        expands_addresses=cluster.expands_addresses,
    )


def _state(cluster: ClusterView, view: DeploymentView) -> str:
    """What stands in the way of using it, by what an operator said before what was seen."""
    if cluster.secret_problem:
        return "secret_unreadable"
    if view.is_vanished and cluster.state == "active":
        return "vanished"
    return cluster.temperature if cluster.state == "active" and cluster.is_asleep else cluster.state


def _wakeable(cluster: ClusterView, waking: WakingView, *, now: datetime, now_s: float) -> Wakeable:
    expected_at = waking.expected_at if cluster.temperature == WAKING else None
    return Wakeable(
        warm_up_s=waking.warm_up_s,
        is_warm_up_known=waking.is_warm_up_known,
        window_s=waking.window_s,
        warm_at_s=None if expected_at is None else now_s + (expected_at - now).total_seconds(),
        can_grow=cluster.can_grow,
        failure_count=waking.failure_count,
    )


def _limit(cluster: ClusterView, name: str) -> int | None:
    """A provider's limit per minute: its own, else its keys' together where each has one."""
    if cluster.kind != "provider":
        return None
    own: int | None = getattr(cluster, name)
    limits = [getattr(key, name) for key in cluster.keys]
    return own if own is not None or not limits or None in limits else sum(limits)


def _internal_rate(deployment: Deployment, *, overhead_permille: int) -> Rate:
    """What an own cluster's tokens settle at where no price row says otherwise (DECISIONS: money).

    The seed's formula at nameplate speed, for prompt and answer alike. It changes with the cluster's
    cost and rated speed, never with its load; only where no speed is rated, with the measured one.
    """
    average = seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=deployment.cost_per_hour_nanousd,
        tokens_per_s=nameplate_tokens_per_s(deployment),
        overhead_permille=overhead_permille,
    )
    return Rate.flat(
        input_microusd_per_mtok=average, output_microusd_per_mtok=average, source="seed formula, nameplate"
    )


def _route_plans(routes: Sequence[RouteView], deployments: Sequence[Deployment]) -> dict[str, RoutePlan]:
    """The named routes, and one for each model's own name that no route has taken."""
    by_model: dict[str, list[Deployment]] = {}
    for deployment in deployments:
        by_model.setdefault(deployment.model, []).append(deployment)
    plans = {
        model: RoutePlan(model=model, policy="", candidates=tuple(serving), fallbacks=())
        for model, serving in by_model.items()
    }
    for route in routes:
        # Each model once, however often a route names it: a place ranked twice would draw twice the traffic.
        first = dict.fromkeys(route.candidates)
        candidates = [d for model in first for d in by_model.get(model, [])]
        plans[route.model] = RoutePlan(
            model=route.model,
            policy=route.policy,
            candidates=tuple(candidates),
            fallbacks=_chain(route.fallbacks, by_model, without=first),
            context_fallbacks=_chain(route.context_fallbacks, by_model, without=first),
            # Another cluster of a candidate's model may filter less.
            content_filter_fallbacks=_chain(route.content_filter_fallbacks, by_model, without=()),
            weights=route.weights,
            queue_places_max=route.queue_places_max,
            queue_wait_s_max=None if route.queue_wait_ms_max is None else route.queue_wait_ms_max / 1000,
            while_waking=route.while_waking,
        )
    return dict(sorted(plans.items()))


def _chain(
    models: Sequence[str], by_model: Mapping[str, Sequence[Deployment]], *, without: Collection[str]
) -> tuple[Deployment, ...]:
    return tuple(
        d for model in dict.fromkeys(models) if model not in without for d in by_model.get(model, ())
    )


def _routing_settings(inventory: InventorySnapshot) -> RoutingSettings:
    given = inventory.settings
    return RoutingSettings(
        policy=given.policy,
        latency_ms_max=given.latency_ms_max,
        queue_depth_max=given.queue_depth_max,
        overhead_permille=given.overhead_permille,
        cluster_cost_threshold_nanousd=given.cluster_cost_threshold_nanousd,
        is_external_fallback_enabled=given.is_external_fallback_enabled,
        objective=Objective(
            ttft_s=given.ttft_objective_ms / 1000,
            ttft_s_per_prompt_token=given.ttft_objective_us_per_prompt_token / 1_000_000,
            tpot_s=given.tpot_objective_ms / 1000,
            miss_input_microusd_per_mtok=given.miss_input_microusd_per_mtok,
            miss_output_microusd_per_mtok=given.miss_output_microusd_per_mtok,
        ),
        stickiness_window_s=given.stickiness_window_s,
        queue_places_max=given.queue_places_max,
        queue_wait_s_max=given.queue_wait_ms_max / 1000,
    )


def _expires_at(
    inventory: InventorySnapshot, rates: RateTable, *, stale_after: timedelta, now: datetime
) -> datetime | None:
    checked = [c.health_checked_at + stale_after for c in inventory.clusters if c.health_checked_at]
    costs = [c.cost_changes_at for c in inventory.clusters]
    # An expired client certificate makes its cluster unusable.
    certificates = [c.tls.expires_at for c in inventory.clusters if c.tls]
    moments = [
        at for at in (*checked, *costs, *certificates, rates.next_change_at) if at is not None and at > now
    ]
    return min(moments, default=None)


def load_snapshot(*, now: datetime, now_s: float) -> FleetSnapshot:
    """Read the control plane's tables. Blocks; revisions are read first, so that no change is missed.

    What was changed while it was read is read again: half a change (a route without its deployments)
    would refuse requests. Where changes never pause, the latest reading is taken.
    """
    for _ in range(READINGS_MAX - 1):
        snapshot = _read_once(now=now, now_s=now_s)
        if (snapshots.get_revision(), principals.get_revision()) == (
            snapshot.inventory_revision,
            snapshot.billing_revision,
        ):
            return snapshot
    return _read_once(now=now, now_s=now_s)


def _read_once(*, now: datetime, now_s: float) -> FleetSnapshot:
    billing_revision = principals.get_revision()
    return build_snapshot(
        inventory=snapshots.load_inventory(now=now),
        principals=principals.load_principals(),
        rates=prices.load_rates(now=now),
        billing_revision=billing_revision,
        now=now,
        now_s=now_s,
    )


class FleetKeeper:
    """Holds the snapshot in service and replaces it when the control plane moved.

    A control plane that cannot be read leaves the last snapshot in service, marked stale.
    """

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._read_at_s = clock()
        self._snapshot: FleetSnapshot | None = None
        # One thread, so one connection: a pool of threads would keep one each.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fleet")

    @property
    def snapshot(self) -> FleetSnapshot:
        assert self._snapshot is not None, "load() comes first"
        return self._snapshot

    @property
    def age_s(self) -> float:
        """Seconds since the control plane was last read with success."""
        return self._clock() - self._read_at_s

    async def load(self) -> None:
        """Read it now; raises what the database raises."""
        loop = asyncio.get_running_loop()
        self._take(await loop.run_in_executor(self._thread, self._load))

    def close(self) -> None:
        """Give the thread and its connection back."""
        self._thread.submit(connections.close_all)
        self._thread.shutdown()

    async def watch(self, *, poll_s: float, stale_s: float) -> None:
        """Poll the revisions for ever; reload when one moved or the snapshot expired."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(poll_s)
            try:
                await loop.run_in_executor(self._thread, self._refresh)
            except Exception:
                logger.warning("snapshot_reload_failed", age_s=round(self.age_s, 1), exc_info=True)
            metrics.SNAPSHOT_AGE.set(self.age_s)
            metrics.SNAPSHOT_STALE.set(float(self.age_s > stale_s))

    def _load(self) -> FleetSnapshot:
        return load_snapshot(now=self._wall_clock(), now_s=self._clock())

    def _refresh(self) -> None:
        for connection in connections.all(initialized_only=True):
            connection.close_if_unusable_or_obsolete()
        now = self._wall_clock()
        current = self.snapshot
        is_current = (
            snapshots.get_revision() == current.inventory_revision
            and principals.get_revision() == current.billing_revision
            and (current.expires_at is None or now < current.expires_at)
        )
        if is_current:
            self._read_at_s = self._clock()
        else:
            self._take(load_snapshot(now=now, now_s=self._clock()))

    def _take(self, snapshot: FleetSnapshot) -> None:
        self._snapshot = snapshot
        self._read_at_s = self._clock()
        publish(snapshot, now=self._wall_clock())


def publish(snapshot: FleetSnapshot, *, now: datetime) -> None:
    """Set the clusters' gauges (health, cost per 1,000 tokens, certificates), and which experiments run."""
    health_value = {"healthy": 1, "unhealthy": 0}
    health: dict[metrics.Labels, float] = {}
    cost: dict[metrics.Labels, float] = {}
    days: dict[metrics.Labels, float] = {}
    for cluster in snapshot.clusters:
        for kind, ends_at in cluster.certificate_ends:
            days[cluster.name, kind] = round((ends_at - now) / timedelta(days=1), 2)
        # Nobody is to be called out for a cluster that sleeps: the temperature says so.
        known = "unknown" if cluster.is_asleep else cluster.health
        health[cluster.name, cluster.provider, cluster.region] = health_value.get(known, -1)
    for target in snapshot.targets.values():
        deployment = target.deployment
        if deployment.rate is not None:
            usd_per_1k = deployment.rate.output_microusd_per_mtok / 1_000_000_000
            cost[deployment.cluster, deployment.provider, deployment.region] = usd_per_1k
    metrics.CLUSTER_HEALTH.put(health)
    metrics.CLUSTER_COST.put(cost)
    _publish_waking(snapshot.clusters)
    metrics.CERTIFICATE_DAYS.put(days)
    running = snapshot.arms.experiments.values()
    metrics.EXPERIMENT_RUNNING.put({(experiment.name,): 1.0 for experiment in running})


def _publish_waking(clusters: Sequence[ClusterView]) -> None:
    """Set the gauges of autoscaled clusters; a temperature that nobody knows has none."""
    degrees = {"cold": 0, "waking": 1, "warm": 2}
    autoscaled = [(cluster, cluster.waking) for cluster in clusters if cluster.waking is not None]
    metrics.CLUSTER_TEMPERATURE.put(
        {(c.name,): degrees[c.temperature] for c, _ in autoscaled if c.temperature in degrees}
    )
    metrics.CLUSTER_REPLICAS.put({(c.name,): c.running_replica_count for c, _ in autoscaled})
    metrics.CLUSTER_WAKE_FAILURES.put({(c.name,): waking.failure_count for c, waking in autoscaled})
    metrics.CLUSTER_WARM_UP.put({(c.name,): waking.warm_up_s for c, waking in autoscaled})
