"""The policy `least_busy`: the smallest share of its places in use."""

from routing.scoring import ScoreInput


def score_least_busy(given: ScoreInput) -> float:
    """The smallest share of its in-flight limit in use."""
    return given.state.in_flight / given.deployment.in_flight_max
