"""What a request costs: one function for the estimate and for the charge, so that they cannot drift."""

from routing.money import nanousd_from_picousd
from routing.types import Deployment, Rate, Usage

# What the seed assumes of a cluster whose speed nobody has rated or measured (ROUTING: ancestor's default).
TOKENS_PER_S_ASSUMED = 10
SECONDS_PER_HOUR = 3600
PERMILLE = 1000


def cost_nanousd(*, usage: Usage, rate: Rate) -> int:
    """The cost of a usage at a rate: exact in pico-USD, rounded up once.

    Rates are micro-USD per million tokens, which is pico-USD per token.
    """
    picousd = (
        usage.input_fresh_tokens * rate.input_microusd_per_mtok
        + usage.cache_read_tokens * rate.cache_read_microusd_per_mtok
        + usage.cache_write_5m_tokens * rate.cache_write_5m_microusd_per_mtok
        + usage.cache_write_1h_tokens * rate.cache_write_1h_microusd_per_mtok
        + usage.input_audio_tokens * rate.audio_input_microusd_per_mtok
        + usage.input_image_tokens * rate.image_input_microusd_per_mtok
        + usage.output_text_tokens * rate.output_microusd_per_mtok
        + usage.audio_tokens * rate.audio_output_microusd_per_mtok
        + usage.reasoning_tokens * rate.reasoning_microusd_per_mtok
    )
    return nanousd_from_picousd(picousd)


def hold_nanousd(*, input_tokens_max: int, output_tokens_max: int, rate: Rate) -> int:
    """An upper bound of what a request can cost: every token in its dearest bucket."""
    input_rate = max(
        rate.input_microusd_per_mtok,
        rate.cache_read_microusd_per_mtok,
        rate.cache_write_5m_microusd_per_mtok,
        rate.cache_write_1h_microusd_per_mtok,
        rate.audio_input_microusd_per_mtok,
        rate.image_input_microusd_per_mtok,
    )
    output_rate = max(
        rate.output_microusd_per_mtok,
        rate.reasoning_microusd_per_mtok,
        rate.audio_output_microusd_per_mtok,
    )
    return nanousd_from_picousd(input_tokens_max * input_rate + output_tokens_max * output_rate)


def seed_rate_microusd_per_mtok(
    *, cost_per_hour_nanousd: int, tokens_per_s: int, overhead_permille: int
) -> int:
    """The seed's average cost of a token: cost_per_hour / (tokens_per_s * 3600) * overhead, rounded up.

    In micro-USD per million tokens (pico-USD per token); the seed prints it in USD per 1K tokens.
    """
    assert tokens_per_s > 0
    picousd_per_hour = cost_per_hour_nanousd * 1000 * overhead_permille
    return -(-picousd_per_hour // (tokens_per_s * SECONDS_PER_HOUR * PERMILLE))


def nameplate_tokens_per_s(deployment: Deployment) -> int:
    """The rated speed; without one the measured, without that the seed's assumption."""
    return deployment.rated_tokens_per_s or deployment.measured_tokens_per_s or TOKENS_PER_S_ASSUMED


def measured_tokens_per_s(deployment: Deployment) -> int:
    """The measured speed; without one the rated, without that the seed's assumption."""
    return deployment.measured_tokens_per_s or deployment.rated_tokens_per_s or TOKENS_PER_S_ASSUMED
