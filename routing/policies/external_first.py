"""The policy `external_first`: providers before own clusters."""

from routing.policies.cost import score_cost
from routing.scoring import AFTER, ScoreInput


def score_external_first(given: ScoreInput) -> float:
    """The seed's `external_first`: providers by cost, own clusters only after them."""
    return score_cost(given) + (AFTER if given.deployment.cluster_kind == "own" else 0.0)
