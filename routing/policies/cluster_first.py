"""The policy `cluster_first`: own clusters before providers."""

from routing.policies.cost import score_cost
from routing.scoring import AFTER, ScoreInput


def score_cluster_first(given: ScoreInput) -> float:
    """The seed's `cluster_first`: own clusters by cost, providers only after them."""
    return score_cost(given) + (AFTER if given.deployment.cluster_kind == "provider" else 0.0)
