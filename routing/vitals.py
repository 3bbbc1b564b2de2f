"""How a deployment has been doing: first tokens, pace, failures and speed, as means that forget with time.

A mean of samples, each worth less the older it is, is worth what its samples still are together; so it can be
blended with another source, such as a polled metric, by the age of both. Nothing stays known for ever.
"""

from math import exp

from msgspec import Struct
from msgspec.structs import replace

TTFT_TAU_S = 60.0
TPOT_TAU_S = 60.0
FAILURE_TAU_S = 120.0
SPEED_TAU_S = 600.0
# What a cluster's own metric is worth when it is fresh, in samples, and how fast it ages.
POLLED_WEIGHT = 0.5
POLLED_TAU_S = 60.0
# So many imagined successes, so that one failure of one request does not double a price.
SUCCESSES_ASSUMED = 5.0
FAILURE_SHARE_MAX = 0.9
# Means by how many requests ran at once: 1, 2-3, 4-7, ..., 128 and more.
BATCH_SIZES = 8
SAMPLE_WEIGHT_MIN = 0.05


class Mean(Struct, frozen=True):
    """A mean whose samples fade; `weight` is what they were worth together at `at_s`."""

    value: float = 0.0
    weight: float = 0.0
    at_s: float = 0.0


class Vitals(Struct, frozen=True):
    """First token and pace in seconds, share of failures, and output tokens per second by batch size."""

    ttft_s: Mean = Mean()
    tpot_s: Mean = Mean()
    failure_share: Mean = Mean()
    speeds_tokens_per_s: tuple[Mean, ...] = (Mean(),) * BATCH_SIZES


UNKNOWN = Vitals()


def on_first_token(vitals: Vitals, *, ttft_s: float, now_s: float) -> Vitals:
    return replace(vitals, ttft_s=_added(vitals.ttft_s, ttft_s, now_s=now_s, tau_s=TTFT_TAU_S))


def on_answer(
    vitals: Vitals, *, generation_s: float | None, output_tokens: int, running_count: int, now_s: float
) -> Vitals:
    """An answer ended well. `generation_s` is from first token to last; None: nobody saw it."""
    failure_share = _added(vitals.failure_share, 0.0, now_s=now_s, tau_s=FAILURE_TAU_S)
    if generation_s is None or generation_s <= 0.0 or output_tokens < 2:
        return replace(vitals, failure_share=failure_share)
    tpot_s = generation_s / (output_tokens - 1)
    size = batch_size_index(running_count)
    speeds = list(vitals.speeds_tokens_per_s)
    speeds[size] = _added(speeds[size], running_count / tpot_s, now_s=now_s, tau_s=SPEED_TAU_S)
    return Vitals(
        vitals.ttft_s,
        _added(vitals.tpot_s, tpot_s, now_s=now_s, tau_s=TPOT_TAU_S),
        failure_share,
        tuple(speeds),
    )


def on_failure(vitals: Vitals, *, now_s: float) -> Vitals:
    share = _added(vitals.failure_share, 1.0, now_s=now_s, tau_s=FAILURE_TAU_S)
    return replace(vitals, failure_share=share)


def expected_ttft_s(
    vitals: Vitals, *, polled_s: float | None, polled_age_s: float, now_s: float
) -> float | None:
    """Our own samples and the cluster's metric, each by what its age leaves of it; None: neither is known."""
    seen = _weight(vitals.ttft_s, now_s=now_s, tau_s=TTFT_TAU_S)
    told = 0.0 if polled_s is None else POLLED_WEIGHT * exp(-max(polled_age_s, 0.0) / POLLED_TAU_S)
    if seen + told < SAMPLE_WEIGHT_MIN:
        return polled_s
    return (vitals.ttft_s.value * seen + (polled_s or 0.0) * told) / (seen + told)


def failure_share(vitals: Vitals, *, now_s: float) -> float:
    """The share of requests that are expected to fail; back at 0 some minutes after the last one."""
    seen = _weight(vitals.failure_share, now_s=now_s, tau_s=FAILURE_TAU_S)
    return min(vitals.failure_share.value * seen / (seen + SUCCESSES_ASSUMED), FAILURE_SHARE_MAX)


def per_success(cost: float, *, vitals: Vitals, now_s: float) -> float:
    """The expected cost of an answer that succeeds, where each try costs as much: cost / (1 - failures)."""
    return cost / (1.0 - failure_share(vitals, now_s=now_s))


def known_tpot_s(vitals: Vitals, *, now_s: float) -> float | None:
    return _known(vitals.tpot_s, now_s=now_s, tau_s=TPOT_TAU_S)


def speed_tokens_per_s(vitals: Vitals, *, running_count: int, now_s: float) -> float | None:
    """Output tokens per second of the whole deployment with about so many requests at once."""
    return _known(vitals.speeds_tokens_per_s[batch_size_index(running_count)], now_s=now_s, tau_s=SPEED_TAU_S)


def batch_size_index(running_count: int) -> int:
    """Which of the BATCH_SIZES: by powers of two."""
    return min(max(running_count, 1).bit_length(), BATCH_SIZES) - 1


def _known(mean: Mean, *, now_s: float, tau_s: float) -> float | None:
    return mean.value if _weight(mean, now_s=now_s, tau_s=tau_s) >= SAMPLE_WEIGHT_MIN else None


def _weight(mean: Mean, *, now_s: float, tau_s: float) -> float:
    return mean.weight * exp(-max(now_s - mean.at_s, 0.0) / tau_s) if mean.weight else 0.0


def _added(mean: Mean, sample: float, *, now_s: float, tau_s: float) -> Mean:
    kept = _weight(mean, now_s=now_s, tau_s=tau_s)
    return Mean((mean.value * kept + sample) / (kept + 1.0), kept + 1.0, now_s)
