"""Whether one arm is worse than another, by a test that may be looked at as often as one likes.

The mixture sequential probability ratio test for a difference of two means (Johari, Koomen, Pekelis and
Walsh, "Always Valid Inference: Continuous Monitoring of A/B Tests", Operations Research 70(3), 2022, section
4), here one-sided: the difference that is looked for has a half-normal prior, so only what is worse counts.
The ratio is a martingale while there is no difference: by Ville's inequality it ever reaches 1 / alpha with a
probability of at most alpha, however often it is asked; with estimated variances, for large samples.
"""

import math
from dataclasses import dataclass

ALPHA = 0.05
# A ratio beyond this says all there is to say.
_EXPONENT_MAX = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The answers of one arm: attempts, failures, and the logarithms of milliseconds to the first token."""

    attempts: int = 0
    errors: int = 0
    ttft_count: int = 0
    ttft_log_sum: float = 0.0
    ttft_log_squares: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """When an arm is stopped: how much worse than the control it may be, and from how many answers on.

    0 takes a guard away.
    """

    error_increase_permille: int  # of attempts: 50 is five points more than the control's percentage
    latency_increase_percent: int  # of the geometric mean of the time to the first token
    samples_min: int

    @property
    def error_increase_points(self) -> float:
        """In percentage points."""
        return self.error_increase_permille / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """What an arm does worse than the control."""

    arm: str
    metric: str  # errors | latency
    control_value: float  # share of attempts | milliseconds
    arm_value: float


def find_regression(
    *, control: Sample, arms: dict[str, Sample], guards: Guards, alpha: float = ALPHA
) -> Regression | None:
    """The first regression that is both proven and larger than its guard allows.

    The chance of any false one, over all arms, both guards and all looks, is at most `alpha`: each
    comparison gets an equal part of it (Bonferroni).
    """
    comparisons = 2 * max(len(arms), 1)
    for name in sorted(arms):
        sample = arms[name]
        for found in (
            _error_regression(name, control, sample, guards, alpha / comparisons),
            _latency_regression(name, control, sample, guards, alpha / comparisons),
        ):
            if found is not None:
                return found
    return None


def likelihood_ratio(*, difference: float, variance: float, prior_deviation: float) -> float:
    """How much likelier the difference is under the half-normal prior than under none.

    Args:
        difference: what was measured, above 0 where the arm is worse.
        variance: of that measurement.
        prior_deviation: how large a difference one looks for.
    """
    if variance <= 0:
        return 0.0
    prior = prior_deviation**2
    both = variance + prior
    exponent = min(difference**2 * prior / (2 * variance * both), _EXPONENT_MAX)
    is_worse = math.erfc(-difference * prior_deviation / math.sqrt(2 * variance * both))
    return math.sqrt(variance / both) * math.exp(exponent) * is_worse


def _error_regression(
    name: str, control: Sample, arm: Sample, guards: Guards, alpha: float
) -> Regression | None:
    allowed = guards.error_increase_permille / 1000
    if allowed == 0 or min(control.attempts, arm.attempts) < guards.samples_min:
        return None
    difference = arm.errors / arm.attempts - control.errors / control.attempts
    ratio = likelihood_ratio(
        difference=difference,
        variance=_pooled_variance(control, arm),
        prior_deviation=allowed,
    )
    if difference <= allowed or ratio < 1 / alpha:
        return None
    return Regression(
        arm=name,
        metric="errors",
        control_value=control.errors / control.attempts,
        arm_value=arm.errors / arm.attempts,
    )


def _pooled_variance(control: Sample, arm: Sample) -> float:
    """Of the difference of two shares while they are one; with one more of each, so that it is never 0."""
    share = (control.errors + arm.errors + 1) / (control.attempts + arm.attempts + 2)
    return share * (1 - share) * (1 / control.attempts + 1 / arm.attempts)


def _latency_regression(
    name: str, control: Sample, arm: Sample, guards: Guards, alpha: float
) -> Regression | None:
    allowed = math.log1p(guards.latency_increase_percent / 100)
    if allowed == 0 or min(control.ttft_count, arm.ttft_count) < max(guards.samples_min, 2):
        return None
    means = [each.ttft_log_sum / each.ttft_count for each in (control, arm)]
    variance = sum(_log_variance(each) / each.ttft_count for each in (control, arm))
    difference = means[1] - means[0]
    ratio = likelihood_ratio(difference=difference, variance=variance, prior_deviation=allowed)
    if difference <= allowed or ratio < 1 / alpha:
        return None
    return Regression(
        arm=name, metric="latency", control_value=math.exp(means[0]), arm_value=math.exp(means[1])
    )


def _log_variance(sample: Sample) -> float:
    """Of one answer; at least that of a clock of whole milliseconds."""
    mean = sample.ttft_log_sum / sample.ttft_count
    spread = (sample.ttft_log_squares - sample.ttft_count * mean**2) / (sample.ttft_count - 1)
    return max(spread, 1e-6)
