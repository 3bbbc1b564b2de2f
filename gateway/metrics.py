"""What Prometheus reads: the seed's five names and ours. Label values come from closed sets only."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

REQUESTS = Counter("llm_router_requests", "Attempts sent to a cluster.", ["cluster", "status"])
DURATION = Histogram(
    "llm_router_request_duration_seconds", "From dispatch to the last byte.", ["cluster"], buckets=SECONDS
)
CLUSTER_HEALTH = Gauge(
    "llm_router_cluster_health", "1 healthy, 0 unhealthy, -1 unknown.", ["cluster", "provider", "region"]
)
CLUSTER_COST = Gauge(
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
IN_FLIGHT = Gauge("gateway_in_flight_requests", "Requests being served by this process.")
LEDGER_QUEUE = Gauge("gateway_ledger_queue_operations", "Operations that wait for the next commit.")
SNAPSHOT_AGE = Gauge("gateway_snapshot_age_seconds", "Since the control plane was last read.")
SNAPSHOT_STALE = Gauge("gateway_snapshot_stale", "1 when the control plane cannot be read.")


RATELIMIT_LOCAL = Gauge(
    "gateway_ratelimit_is_local",
    "1 while limits are counted in each process alone, since the shared store does not answer.",
    multiprocess_mode="max",
)


class ClusterMetrics:
    """The children of one cluster's label, looked up once: `labels()` costs more than the increment."""

    def __init__(self, cluster: str) -> None:
        self.ok = REQUESTS.labels(cluster, "success")
        self.failed = REQUESTS.labels(cluster, "error")
        self.duration = DURATION.labels(cluster)
        self.ttft = TTFT.labels(cluster)
        self.input_tokens = TOKENS.labels(cluster, "input")
        self.output_tokens = TOKENS.labels(cluster, "output")
        self.cached_tokens = CACHED_TOKENS.labels(cluster)
        self.cost = COST.labels(cluster)
        self.variance = VARIANCE.labels(cluster)
        self.estimates = ESTIMATES.labels(cluster)
        self.reroutes = REROUTES.labels(cluster)


# Clusters come from the inventory: a few hundred at most, and a name that is gone is only memory.
@cache
def of_cluster(cluster: str) -> ClusterMetrics:
    return ClusterMetrics(cluster)


@cache
def decision_counter(target: str, kind: str, reason: str) -> Counter:
    return DECISIONS.labels(target, kind, reason)
