"""The policy `marginal`: what a request adds to what is paid anyway, under the latency objective."""

from routing.scoring import (
    AUTOSCALED_PLACE,
    LATE,
    UNPRICED_NANOUSD,
    ScoreInput,
    expected_output_tokens,
    lateness,
)


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


def _miss_nanousd(given: ScoreInput) -> float:
    objective = given.settings.objective
    picousd = (
        given.profile.prompt_tokens_estimate * objective.miss_input_microusd_per_mtok
        + expected_output_tokens(given.profile, given.state) * objective.miss_output_microusd_per_mtok
    )
    return picousd / 1000
