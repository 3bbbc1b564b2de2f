"""What Prometheus reads: the seed's five names and ours. Label values come from closed sets only."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

Labels = tuple[str, ...]

# Names the folder in which the processes of one port keep their values; set before this module is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class SnapshotGauge(Collector):
    """A gauge that every process of a port would tell alike: the process that is asked tells its own."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._values: Mapping[Labels, float] = {}
        REGISTRY.register(self)

    def put(self, values: Mapping[Labels, float]) -> None:
        """All values, by their labels; what is not among them is gone."""
        self._values = values

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

REQUESTS = Counter("llm_router_requests", "Attempts sent to a cluster.", ["cluster", "status"])
DURATION = Histogram(
    "llm_router_request_duration_seconds", "From dispatch to the last byte.", ["cluster"], buckets=SECONDS
)
CLUSTER_HEALTH = SnapshotGauge(
    "llm_router_cluster_health", "1 healthy, 0 unhealthy, -1 unknown.", ["cluster", "provider", "region"]
)
CLUSTER_COST = SnapshotGauge(
    "llm_router_cluster_cost_per_1k_tokens",
    "USD per 1,000 output tokens: own clusters by the seed's formula, providers at their price.",
    ["cluster", "provider", "region"],
)
DECISIONS = Counter(
    "llm_router_routing_decisions",
    "Where requests were sent and by which rule.",
    ["target", "type", "reason"],
)
TTFT = Histogram(
    "gateway_time_to_first_token_seconds", "From dispatch to the first content.", ["cluster"], buckets=SECONDS
)
TOKENS = Counter("gateway_tokens", "Tokens settled.", ["cluster", "direction"])
CACHED_TOKENS = Counter(
    "gateway_cached_input_tokens", "Prompt tokens that upstreams read from their caches.", ["cluster"]
)
COST = Counter("gateway_cost_nanousd", "Nano-USD settled.", ["cluster"])
FAILURES = Counter("gateway_failures", "Requests refused or failed, by error code.", ["code"])
REROUTES = Counter("gateway_reroutes", "Attempts sent to a next candidate.", ["cluster"])
VARIANCE = Counter(
    "gateway_variance_nanousd", "Nano-USD that upstreams used beyond what was held.", ["cluster"]
)
ESTIMATES = Counter("gateway_estimated_usage", "Attempts settled on an estimate.", ["cluster"])
UNSETTLED = Counter("gateway_unsettled", "Settlements that could not be committed: left in doubt.")
CLUSTER_FIGURES = SnapshotGauge(
    "gateway_cluster_cost",
    "What a cluster's tokens cost now: averages, margin, idle waste, break-even; the figure has its unit.",
    ["cluster", "figure"],
)
CLUSTER_TEMPERATURE = SnapshotGauge(
    "gateway_cluster_temperature", "Of autoscaled clusters: 0 cold, 1 waking, 2 warm.", ["cluster"]
)
CLUSTER_REPLICAS = SnapshotGauge(
    "gateway_cluster_replicas", "Replicas of an autoscaled cluster that run or start.", ["cluster"]
)
CLUSTER_WAKE_FAILURES = SnapshotGauge(
    "gateway_cluster_wake_failures", "Wakings of a cluster that failed in a row.", ["cluster"]
)
CLUSTER_WARM_UP = SnapshotGauge(
    "gateway_cluster_warm_up_seconds", "How long waking a cluster is expected to take.", ["cluster"]
)
SPILT = Counter(
    "gateway_spilt_nanousd",
    "Nano-USD that providers were expected to cost for want of a cluster's replicas.",
    ["cluster"],
)
CERTIFICATE_DAYS = SnapshotGauge(
    "gateway_cluster_certificate_days",
    "Days until a certificate expires, below 0 afterwards: client, server, authority.",
    ["cluster", "certificate"],
)
EXPERIMENT_RUNNING = SnapshotGauge(
    "gateway_experiment_running", "1 while the experiment runs; gone once it was stopped.", ["experiment"]
)
LEARNT = SnapshotGauge(
    "gateway_deployment_learnt",
    "What this process's traffic taught of a deployment lately; the figure has its unit.",
    ["cluster", "model", "figure"],
)
SNAPSHOT_GAUGES = (
    *(CLUSTER_HEALTH, CLUSTER_COST, CLUSTER_FIGURES, LEARNT, EXPERIMENT_RUNNING),
    *(CLUSTER_TEMPERATURE, CLUSTER_REPLICAS, CLUSTER_WAKE_FAILURES, CLUSTER_WARM_UP, CERTIFICATE_DAYS),
)
# Where several processes serve one port, these are summed up over those that live, or the worst is told.
QUEUE_WAITING = Gauge(
    "gateway_queue_waiting", "Requests that wait for a place in this process.", multiprocess_mode="livesum"
)
QUEUE_WAIT = Histogram("gateway_queue_wait_seconds", "Waited by those who got a place.", buckets=SECONDS)
QUEUE_REFUSED = Counter(
    "gateway_queue_refused", "Requests that got no place: full, too_late, timed_out.", ["reason"]
)
OVERLOADED = Counter(
    "gateway_overload_refused", "Requests refused since this process had more to do than it could."
)
OVERLOAD_LIMIT = Gauge(
    "gateway_overload_limit",
    "Requests that a process works on at once while others wait; not those that wait for an upstream.",
    multiprocess_mode="livesum",
)
IN_FLIGHT = Gauge("gateway_in_flight_requests", "Requests being served.", multiprocess_mode="livesum")
LEDGER_QUEUE = Gauge(
    "gateway_ledger_queue_operations",
    "Operations that wait for the next commit.",
    multiprocess_mode="livesum",
)
SNAPSHOT_AGE = Gauge(
    "gateway_snapshot_age_seconds", "Since the control plane was last read.", multiprocess_mode="livemax"
)
SNAPSHOT_STALE = Gauge(
    "gateway_snapshot_stale", "1 when the control plane cannot be read.", multiprocess_mode="livemax"
)
EXCHANGE_PEERS = Gauge(
    "gateway_exchange_peers",
    "Other gateway processes of this node whose load is known here.",
    multiprocess_mode="livemin",
)
EXCHANGE_NODES = Gauge(
    "gateway_exchange_nodes", "Other nodes whose load is known on this one.", multiprocess_mode="livemax"
)
EXCHANGE_LOCAL = Gauge(
    "gateway_exchange_is_local",
    "1 while a node goes by its own view, since the shared store does not answer.",
    multiprocess_mode="livemax",
)
EXCHANGE_PLACES_LOST = Counter(
    "gateway_exchange_places_lost", "Places that two processes took at once: the choice was made anew."
)
RATELIMIT_LOCAL = Gauge(
    "gateway_ratelimit_is_local",
    "1 while limits are counted in each process alone, since the shared store does not answer.",
    multiprocess_mode="livemax",
)


class Tally:
    """What is still to be added to a counter: a sum in passing costs a twentieth of an increment.

    Counted on the event loop only, and told to the counter there: by `tell_tallies`.
    """

    __slots__ = ("_counter", "untold")
    made: ClassVar[list["Tally"]] = []

    def __init__(self, counter: Counter) -> None:
        self.untold = 0
        self._counter = counter
        self.made.append(self)

    def tell(self) -> None:
        if self.untold:
            self._counter.inc(self.untold)
            self.untold = 0


def tell_tallies() -> None:
    """Add what was counted: before somebody reads, and every now and then for the port's other processes."""
    for tally in Tally.made:
        tally.tell()


class ClusterMetrics:
    """The children of one cluster's label, looked up once: `labels()` costs more than the increment."""

    def __init__(self, cluster: str) -> None:
        self.ok = Tally(REQUESTS.labels(cluster, "success"))
        self.failed = Tally(REQUESTS.labels(cluster, "error"))
        self.duration = DURATION.labels(cluster)
        self.ttft = TTFT.labels(cluster)
        self.input_tokens = Tally(TOKENS.labels(cluster, "input"))
        self.output_tokens = Tally(TOKENS.labels(cluster, "output"))
        self.cached_tokens = Tally(CACHED_TOKENS.labels(cluster))
        self.cost = Tally(COST.labels(cluster))
        self.variance = Tally(VARIANCE.labels(cluster))
        self.estimates = Tally(ESTIMATES.labels(cluster))
        self.reroutes = Tally(REROUTES.labels(cluster))


OVERLOAD_REFUSED = Tally(OVERLOADED)


# Clusters come from the inventory: a few hundred at most, and a name that is gone is only memory.
@cache
def of_cluster(cluster: str) -> ClusterMetrics:
    return ClusterMetrics(cluster)


@cache
def failures(code: str) -> Tally:
    return Tally(FAILURES.labels(code))


@cache
def decisions(target: str, kind: str, reason: str) -> Tally:
    return Tally(DECISIONS.labels(target, kind, reason))


def exposition() -> bytes:
    """What Prometheus reads: of this process, or of all that serve the port with it."""
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client's
    for gauge in SNAPSHOT_GAUGES:
        registry.register(gauge)
    return generate_latest(registry)


def clear_folder(folder: Path) -> None:
    """An empty folder for the processes' values: counters begin anew, as they do with one process."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.db"):
        old.unlink(missing_ok=True)


def forget_process(folder: Path, pid: int) -> None:
    """A process ended: its gauges go, what it counted stays."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # prometheus_client's
