"""The policies: each is one small pure function that scores a deployment for a request, lower is better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from routing.cost import cost_nanousd, measured_tokens_per_s, seed_rate_microusd_per_mtok
from routing.forecast import cautious_s, first_token_s
from routing.learning import DeploymentState
from routing.money import nanousd_from_picousd
from routing.types import Deployment, RequestProfile, RoutingSettings, Usage

# What an answer is expected to be long where neither the request nor live traffic says.
OUTPUT_TOKENS_EXPECTED = 256
# Puts one group of deployments after the other: above any cost or latency in its unit.
AFTER = 1e15
# What a request costs at a provider whose price nobody knows: unknown is not free, it comes last.
UNPRICED_NANOUSD = AFTER / 2
UNKNOWN_LATENCY_MS = 1000.0
# `marginal`: shares of the objective lie below 1, so autoscaled capacity that runs comes after committed one,
# and providers after both; whoever would be late comes last.
AUTOSCALED_PLACE = 2.0
LATE = AFTER
# A pace that no stream has told of for so long says nothing.
PACE_STALE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """What a policy may look at; `cost_nanousd` is the estimated cost of this request there."""

    deployment: Deployment
    profile: RequestProfile
    state: DeploymentState
    settings: RoutingSettings
    cost_nanousd: int
    now_s: float = 0.0


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
    output_tokens = expected_output_tokens(profile, state)
    if deployment.cluster_kind == "own":
        average = seed_rate_microusd_per_mtok(
            cost_per_hour_nanousd=deployment.cost_per_hour_nanousd,
            tokens_per_s=measured_tokens_per_s(deployment),
            overhead_permille=overhead_permille,
        )
        return nanousd_from_picousd((profile.prompt_tokens_estimate + output_tokens) * average)
    rate = deployment.rate
    if rate is None:
        return 0
    if not rate.tiers:
        prompt_picousd = profile.prompt_tokens_estimate * rate.input_microusd_per_mtok
        return nanousd_from_picousd(prompt_picousd + output_tokens * rate.output_microusd_per_mtok)
    usage = Usage(input_fresh_tokens=profile.prompt_tokens_estimate, output_text_tokens=output_tokens)
    return cost_nanousd(usage=usage, rate=rate)


def expected_output_tokens(profile: RequestProfile, state: DeploymentState) -> int:
    """How long all choices of the answer are expected to be."""
    if profile.surface == "embeddings":
        return 0
    expected = profile.output_tokens_expected or state.output_tokens or OUTPUT_TOKENS_EXPECTED
    if profile.output_tokens_max is not None:
        expected = min(expected, profile.output_tokens_max)
    return int(expected) * profile.choice_count


def score_marginal(given: ScoreInput) -> float:
    """The marginal cost under the latency objective, in nano-USD.

    Own capacity costs nothing while it is predicted to meet the objective (it is paid already, or runs
    anyway), committed before autoscaled and the earlier first token before the later; a provider costs its
    price and what its misses are worth. A cluster that would be late comes after all that would not.
    """
    deployment, state, profile = given.deployment, given.state, given.profile
    if deployment.cluster_kind == "provider":
        if deployment.rate is None:
            return UNPRICED_NANOUSD
        return AUTOSCALED_PLACE * 2 + given.cost_nanousd + state.miss_share * _miss_nanousd(given)
    share = lateness(deployment, profile=profile, state=state, settings=given.settings, now_s=given.now_s)
    if share > 1.0:
        return LATE + share
    return share + (0.0 if deployment.billing == "committed" else AUTOSCALED_PLACE)


def lateness(
    deployment: Deployment,
    *,
    profile: RequestProfile,
    state: DeploymentState,
    settings: RoutingSettings,
    now_s: float,
) -> float:
    """The cautious prediction as a share of the objective: above 1 it would be missed."""
    objective = settings.objective
    prompt_tokens = profile.prompt_tokens_estimate
    expected_s = first_token_s(state.forecast, prompt_tokens=prompt_tokens, now_s=now_s)
    latest_s = cautious_s(state.forecast, expected_s=expected_s, now_s=now_s)
    allowed_s = objective.ttft_s + objective.ttft_s_per_prompt_token * prompt_tokens
    share = (latest_s + deployment.rtt_s + profile.waited_s) / allowed_s
    if state.pace_s is not None and now_s - state.pace_at_s < PACE_STALE_S:
        return max(share, state.pace_s / objective.tpot_s)
    return share


def _miss_nanousd(given: ScoreInput) -> float:
    objective = given.settings.objective
    picousd = (
        given.profile.prompt_tokens_estimate * objective.miss_input_microusd_per_mtok
        + expected_output_tokens(given.profile, given.state) * objective.miss_output_microusd_per_mtok
    )
    return picousd / 1000


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
