"""The policy `hybrid`: own clusters below a cost threshold, then providers, then the rest."""

from routing.cost import measured_tokens_per_s, seed_rate_microusd_per_mtok
from routing.policies.cost import score_cost
from routing.scoring import AFTER, ScoreInput


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
