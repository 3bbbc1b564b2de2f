"""What the policies score by: the estimated cost of a request at a deployment, and how late it would be."""

from msgspec import Struct

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
# `marginal`: shares of the objective lie below 1, so autoscaled capacity that runs comes after committed one,
# and providers after both; whoever would be late comes last.
AUTOSCALED_PLACE = 2.0
LATE = AFTER
# A pace that no stream has told of for so long says nothing.
PACE_STALE_S = 5.0


class ScoreInput(Struct, frozen=True, kw_only=True):
    """What a policy may look at; `cost_nanousd` is the estimated cost of this request there.

    `weight` is the cluster's in the route, `draw` the decision's one number of chance in [0, 1).
    """

    deployment: Deployment
    profile: RequestProfile
    state: DeploymentState
    settings: RoutingSettings
    cost_nanousd: int
    now_s: float = 0.0
    weight: int = 1
    draw: float = 0.0


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
    allowed_s = objective.ttft_allowed_s(prompt_tokens)
    share = (latest_s + deployment.rtt_s + profile.waited_s) / allowed_s
    if state.pace_s is not None and now_s - state.pace_at_s < PACE_STALE_S:
        return max(share, state.pace_s / objective.tpot_s)
    return share
