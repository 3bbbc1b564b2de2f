"""The policies: each is one small pure function that scores a deployment for a request, lower is better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from routing.cost import cost_nanousd, measured_tokens_per_s, seed_rate_microusd_per_mtok
from routing.learning import DeploymentState
from routing.types import Deployment, Rate, RequestProfile, RoutingSettings, Usage

# What an answer is expected to be long where neither the request nor live traffic says.
OUTPUT_TOKENS_EXPECTED = 256
# Puts one group of deployments after the other: above any cost or latency in its unit.
AFTER = 1e15
# What a request costs at a provider whose price nobody knows: unknown is not free, it comes last.
UNPRICED_NANOUSD = AFTER / 2
UNKNOWN_LATENCY_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """What a policy may look at; `cost_nanousd` is the estimated cost of this request there."""

    deployment: Deployment
    profile: RequestProfile
    state: DeploymentState
    settings: RoutingSettings
    cost_nanousd: int


def estimated_cost_nanousd(
    *,
    deployment: Deployment,
    profile: RequestProfile,
    state: DeploymentState,
    overhead_permille: int,
) -> int:
    """The expected cost of the request.

    Own clusters by the seed's formula at measured speed, providers at their rate; an unpriced
    provider costs 0, which the decision's record shows.
    """
    expected = state.output_tokens or OUTPUT_TOKENS_EXPECTED
    if profile.output_tokens_max is not None:
        expected = min(expected, profile.output_tokens_max)
    output_tokens = 0 if profile.surface == "embeddings" else int(expected) * profile.choice_count
    usage = Usage(input_fresh_tokens=profile.prompt_tokens_estimate, output_text_tokens=output_tokens)
    rate = deployment.rate
    if deployment.cluster_kind == "own":
        average = seed_rate_microusd_per_mtok(
            cost_per_hour_nanousd=deployment.cost_per_hour_nanousd,
            tokens_per_s=measured_tokens_per_s(deployment),
            overhead_permille=overhead_permille,
        )
        rate = Rate.flat(input_microusd_per_mtok=average, output_microusd_per_mtok=average, source="seed")
    return 0 if rate is None else cost_nanousd(usage=usage, rate=rate)


def score_marginal(given: ScoreInput) -> float:
    """Own capacity at its marginal cost: nothing while it has room.

    Committed before autoscaled, then providers at their price; among equals, the one with more room.
    """
    room = given.state.in_flight / given.deployment.in_flight_max
    if given.deployment.cluster_kind == "own":
        return room + (0.0 if given.deployment.billing == "committed" else 2.0)
    # Whole nano-USD and a share below 1: room only decides between equal prices.
    return 4.0 + score_cost(given) + room


def score_cost(given: ScoreInput) -> float:
    """The seed's `cost`: the cheapest by average cost, whoever owns it; unpriced providers last."""
    deployment = given.deployment
    if deployment.rate is None and deployment.cluster_kind == "provider":
        return UNPRICED_NANOUSD
    return float(given.cost_nanousd)


def score_latency(given: ScoreInput) -> float:
    """The seed's `latency`: the quickest first token from live traffic, else from the last probe."""
    known = given.deployment.latency_ms if given.state.ttft_ms is None else given.state.ttft_ms
    latency_ms = UNKNOWN_LATENCY_MS if known is None else float(known)
    return latency_ms * (1 + given.state.in_flight / given.deployment.in_flight_max)


def score_cluster_first(given: ScoreInput) -> float:
    """The seed's `cluster_first`: own clusters by cost, providers only after them."""
    return score_cost(given) + (AFTER if given.deployment.cluster_kind == "provider" else 0.0)


def score_external_first(given: ScoreInput) -> float:
    """The seed's `external_first`: providers by cost, own clusters only after them."""
    return score_cost(given) + (AFTER if given.deployment.cluster_kind == "own" else 0.0)


def score_hybrid(given: ScoreInput) -> float:
    """The seed's `hybrid`: own clusters under the cost threshold, then providers, then the rest."""
    if given.deployment.cluster_kind == "provider":
        return score_cost(given) + AFTER
    per_1k_nanousd = seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=given.deployment.cost_per_hour_nanousd,
        tokens_per_s=measured_tokens_per_s(given.deployment),
        overhead_permille=given.settings.overhead_permille,
    )  # pico-USD per token is nano-USD per 1K tokens
    is_cheap = per_1k_nanousd <= given.settings.cluster_cost_threshold_nanousd
    return score_cost(given) + (0.0 if is_cheap else 2 * AFTER)


def score_least_busy(given: ScoreInput) -> float:
    """The smallest share of its in-flight limit in use."""
    return given.state.in_flight / given.deployment.in_flight_max


POLICIES: Mapping[str, Callable[[ScoreInput], float]] = {
    "marginal": score_marginal,
    "cost": score_cost,
    "latency": score_latency,
    "cluster_first": score_cluster_first,
    "external_first": score_external_first,
    "hybrid": score_hybrid,
    "least_busy": score_least_busy,
}
