"""The policy `latency`: the quickest first token."""

from routing.scoring import ScoreInput

UNKNOWN_LATENCY_MS = 1000.0


def score_latency(given: ScoreInput) -> float:
    """The seed's `latency`: the quickest first token from live traffic, else from the last probe."""
    known = given.deployment.latency_ms if given.state.ttft_ms is None else given.state.ttft_ms
    latency_ms = UNKNOWN_LATENCY_MS if known is None else float(known)
    return latency_ms * (1 + given.state.in_flight / given.deployment.in_flight_max)
