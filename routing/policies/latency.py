"""The policy `latency`: the quickest first token."""

from routing.scoring import ScoreInput
from routing.vitals import expected_ttft_s

UNKNOWN_LATENCY_S = 1.0


def score_latency(given: ScoreInput) -> float:
    """The seed's `latency`: the quickest first token, by live traffic and the last probe, each by its age."""
    deployment = given.deployment
    known_s = expected_ttft_s(
        given.state.vitals,
        polled_s=None if deployment.latency_ms is None else deployment.latency_ms / 1000,
        polled_age_s=given.now_s - deployment.polled_at_s,
        now_s=given.now_s,
    )
    latency_s = UNKNOWN_LATENCY_S if known_s is None else known_s
    return latency_s * (1 + given.state.all_in_flight / deployment.in_flight_max)
