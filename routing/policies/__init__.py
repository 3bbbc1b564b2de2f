"""The policies: each is one small pure function that scores a deployment for a request, lower is better.

A new one is a file here and its line in POLICIES; forms, the configuration file and commands read their names
from there.
"""

from collections.abc import Callable, Mapping

from routing.policies.cluster_first import score_cluster_first
from routing.policies.cost import score_cost
from routing.policies.external_first import score_external_first
from routing.policies.hybrid import score_hybrid
from routing.policies.latency import score_latency
from routing.policies.least_busy import score_least_busy
from routing.policies.marginal import score_marginal
from routing.policies.weighted import score_weighted
from routing.scoring import ScoreInput

POLICIES: Mapping[str, Callable[[ScoreInput], float]] = {
    "marginal": score_marginal,
    "hybrid": score_hybrid,
    "cost": score_cost,
    "latency": score_latency,
    "cluster_first": score_cluster_first,
    "external_first": score_external_first,
    "least_busy": score_least_busy,
    "weighted": score_weighted,
}
