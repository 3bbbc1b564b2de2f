"""Checks what a route says of its clusters' weights, for the policy `weighted`."""

from clusters.models import Cluster

WEIGHT_MAX = 1_000


def problem_of(weights: object) -> str:
    """What is wrong with them and what to do; empty where nothing is. One query where a cluster is named."""
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and type(weight) is int and 0 <= weight <= WEIGHT_MAX
        for name, weight in weights.items()
    ):
        return f"weights are whole numbers from 0 to {WEIGHT_MAX} by the name of the cluster"
    known = Cluster.objects.filter(name__in=weights).values_list("name", flat=True) if weights else ()
    unknown = sorted(set(weights) - set(known))
    if unknown:
        return f"weights name no cluster by {', '.join(unknown)}: add it first, or correct the name"
    return ""
