"""What a request costs: one function for the estimate and for the charge, so that they cannot drift."""

from dataclasses import replace

from msgspec import Struct

from routing.money import PICOUSD_PER_NANOUSD, nanousd_from_picousd
from routing.types import Deployment, Rate, Usage

# What the seed assumes of a cluster whose speed nobody has rated or measured (ROUTING: ancestor's default).
TOKENS_PER_S_ASSUMED = 10
SECONDS_PER_HOUR = 3600
PERMILLE = 1000
# What upstreams call the service tier that has no name here.
STANDARD_SERVICE_TIERS = frozenset({"auto", "default", "standard"})


def rate_applied(*, rate: Rate, input_tokens: int, service_tier: str = "") -> Rate:
    """The one flat rate of a request: of its service tier, there of the highest context tier it reaches.

    A context tier prices the whole request, prompt and answer, as providers do: it is no step of a stair.
    A service tier without a price of its own costs as the standard one does.
    """
    served = _of_service_tier(rate, service_tier) or rate
    reached = [tier for tokens_min, tier in served.tiers if input_tokens >= tokens_min]
    return flat_rate(reached[-1] if reached else served)


def flat_rate(rate: Rate) -> Rate:
    """The rate without its tiers: what a request below all of them pays."""
    return replace(rate, tiers=(), service_tiers=()) if rate.tiers or rate.service_tiers else rate


def cost_nanousd(*, usage: Usage, rate: Rate, service_tier: str = "") -> int:
    """The cost of a usage at a rate: exact in pico-USD, rounded up once.

    Rates are micro-USD per million tokens, which is pico-USD per token. Which tier applies is decided by
    the whole prompt (`usage.input_tokens`) and by the service tier that served it.
    """
    if rate.tiers or rate.service_tiers:
        rate = rate_applied(rate=rate, input_tokens=usage.input_tokens, service_tier=service_tier)
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


class Charge(Struct, frozen=True, kw_only=True):
    """What a request costs, the service tier that it is charged at, and the one flat rate applied."""

    cost_nanousd: int
    service_tier: str
    rate: Rate


def charge_of(*, usage: Usage, rate: Rate, asked: str = "", said: str | None = None) -> Charge:
    """The charge at the service tier that the upstream says served the request.

    Where it says nothing (`said` is None) the one that was asked for counts, unless that is cheaper than
    the standard one: a discount is given only on the upstream's word.
    """
    service_tier = asked if said is None else said
    if said is None and rate.service_tiers:
        standard = cost_nanousd(usage=usage, rate=rate)
        service_tier = asked if cost_nanousd(usage=usage, rate=rate, service_tier=asked) >= standard else ""
    applied = rate_applied(rate=rate, input_tokens=usage.input_tokens, service_tier=service_tier)
    return Charge(
        cost_nanousd=cost_nanousd(usage=usage, rate=applied), service_tier=service_tier, rate=applied
    )


def hold_nanousd(
    *, input_tokens_max: int, output_tokens_max: int, rate: Rate, service_tier: str | None = None
) -> int:
    """An upper bound of what a request can cost: every token in its dearest bucket, at the dearest tier.

    The tiers are all context tiers that so long a prompt reaches, of the standard service tier and of the
    one asked for. `service_tier` None: the upstream chooses, so any that is priced may serve it.
    """
    return max(
        nanousd_from_picousd(
            input_tokens_max * dearest_input_rate(each) + output_tokens_max * dearest_output_rate(each)
        )
        for each in rates_possible(rate=rate, input_tokens_max=input_tokens_max, service_tier=service_tier)
    )


def affordable_output_tokens(
    *,
    room_nanousd: int,
    input_tokens_max: int,
    output_tokens_max: int,
    rate: Rate,
    service_tier: str | None = None,
) -> int | None:
    """The most output tokens, up to `output_tokens_max`, whose hold is no more than the room.

    None: there is no room for the prompt alone. `service_tier` as for the hold.
    """
    affordable = output_tokens_max
    for each in rates_possible(rate=rate, input_tokens_max=input_tokens_max, service_tier=service_tier):
        left_picousd = room_nanousd * PICOUSD_PER_NANOUSD - input_tokens_max * dearest_input_rate(each)
        if left_picousd < 0:
            return None
        if output_rate := dearest_output_rate(each):
            affordable = min(affordable, left_picousd // output_rate)
    return affordable


def rates_possible(*, rate: Rate, input_tokens_max: int, service_tier: str | None = None) -> tuple[Rate, ...]:
    """Every rate that a request may be charged at, the standard one first; `service_tier` as for the hold."""
    served = [
        rate,
        *(each for name, each in rate.service_tiers if service_tier is None or name == service_tier),
    ]
    tiers = (tier for each in served for tokens_min, tier in each.tiers if tokens_min <= input_tokens_max)
    return (*served, *tiers)


def dearest_input_rate(rate: Rate) -> int:
    """What a token of the prompt costs at most, in micro-USD per million; tiers are not looked at."""
    return max(
        rate.input_microusd_per_mtok,
        rate.cache_read_microusd_per_mtok,
        rate.cache_write_5m_microusd_per_mtok,
        rate.cache_write_1h_microusd_per_mtok,
        rate.audio_input_microusd_per_mtok,
        rate.image_input_microusd_per_mtok,
    )


def dearest_output_rate(rate: Rate) -> int:
    """What a token of the answer costs at most, in micro-USD per million; tiers are not looked at."""
    return max(
        rate.output_microusd_per_mtok,
        rate.reasoning_microusd_per_mtok,
        rate.audio_output_microusd_per_mtok,
    )


def _of_service_tier(rate: Rate, service_tier: str) -> Rate | None:
    return next((each for name, each in rate.service_tiers if name == service_tier), None)


def seed_rate_microusd_per_mtok(
    *, cost_per_hour_nanousd: int, tokens_per_s: int, overhead_permille: int
) -> int:
    """The seed's average cost of a token: cost_per_hour / (tokens_per_s * 3600) * overhead, rounded up.

    In micro-USD per million tokens (pico-USD per token); the seed prints it in USD per 1K tokens.
    """
    assert tokens_per_s > 0
    picousd_per_hour = cost_per_hour_nanousd * 1000 * overhead_permille
    return -(-picousd_per_hour // (tokens_per_s * SECONDS_PER_HOUR * PERMILLE))


def nanousd_per_1k_tokens(
    *, cost_per_hour_nanousd: int, tokens_per_s: int | None, overhead_permille: int
) -> int | None:
    """The seed's formula by 1,000 tokens; None: hourly price or speed is not known."""
    if not cost_per_hour_nanousd or not tokens_per_s:
        return None
    # Pico-USD per token is nano-USD per 1,000 tokens.
    return seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=cost_per_hour_nanousd,
        tokens_per_s=tokens_per_s,
        overhead_permille=overhead_permille,
    )


def nameplate_tokens_per_s(deployment: Deployment) -> int:
    """The rated speed; without one the measured, without that the seed's assumption."""
    return deployment.rated_tokens_per_s or deployment.measured_tokens_per_s or TOKENS_PER_S_ASSUMED


def measured_tokens_per_s(deployment: Deployment) -> int:
    """The measured speed; without one the rated, without that the seed's assumption."""
    return deployment.measured_tokens_per_s or deployment.rated_tokens_per_s or TOKENS_PER_S_ASSUMED
