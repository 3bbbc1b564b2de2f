"""The policy `cost`: the cheapest by average cost, whoever owns it."""

from routing.scoring import UNPRICED_NANOUSD, ScoreInput


def score_cost(given: ScoreInput) -> float:
    """The seed's `cost`: the cheapest by average cost, whoever owns it; unpriced providers last."""
    deployment = given.deployment
    if deployment.rate is None and deployment.cluster_kind == "provider":
        return UNPRICED_NANOUSD
    return float(given.cost_nanousd)
