"""Confidence intervals at 95 % from sums: shares, means, ratios, quantiles, differences of two of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from billing.latency_buckets import middle_ms

Z = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured value and the interval that holds the true one in 95 of 100 cases."""

    value: float
    low: float
    high: float


def share(*, count: int, total: int) -> Estimate | None:
    """Wilson's score interval (JASA 22, 1927); None: nothing was counted."""
    if total == 0:
        return None
    value = count / total
    centre = value + Z**2 / (2 * total)
    spread = Z * math.sqrt(value * (1 - value) / total + Z**2 / (4 * total**2))
    scale = 1 + Z**2 / total
    return Estimate(
        value=value,
        low=max(0.0, min((centre - spread) / scale, value)),
        high=min(1.0, max((centre + spread) / scale, value)),
    )


def mean(*, count: int, total: float, squares: float) -> Estimate | None:
    """Student's interval; None: fewer than two, which say nothing of how far they lie apart."""
    if count < 2:
        return None
    value = total / count
    spread = student(count - 1) * math.sqrt(_variance(count, total, squares) / count)
    return Estimate(value=value, low=value - spread, high=value + spread)


def ratio(
    *, count: int, top: float, top_squares: float, bottom: float, bottom_squares: float, products: float
) -> Estimate | None:
    """Of two sums over the same things, by the delta method (Cochran, Sampling Techniques, 1977, 6.4)."""
    if count < 2 or bottom <= 0:
        return None
    value = top / bottom
    residuals = top_squares - 2 * value * products + value**2 * bottom_squares
    spread = student(count - 1) * math.sqrt(max(residuals, 0.0) / (count - 1) * count) / bottom
    return Estimate(value=value, low=max(0.0, value - spread), high=value + spread)


def quantile(counts: Mapping[int, int], *, part: float) -> Estimate | None:
    """Of times in milliseconds, from counts by bucket (billing.latency_buckets).

    Its interval is between order statistics, of the ranks n p -+ 1.96 sqrt(n p (1 - p)) (Conover, Practical
    Nonparametric Statistics, 1999, 3.2).
    """
    total = sum(counts.values())
    if total == 0:
        return None
    spread = Z * math.sqrt(total * part * (1 - part))
    ranks = (total * part, total * part - spread, total * part + spread)
    value, low, high = (_at_rank(counts, rank=min(max(math.ceil(rank), 1), total)) for rank in ranks)
    return Estimate(value=value, low=low, high=high)


def difference(*, arm: Estimate | None, control: Estimate | None) -> Estimate | None:
    """Of two independent values, by their intervals (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).

    Of two shares this is Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, method 10).
    """
    if arm is None or control is None:
        return None
    value = arm.value - control.value
    return Estimate(
        value=value,
        low=value - math.hypot(arm.value - arm.low, control.high - control.value),
        high=value + math.hypot(arm.high - arm.value, control.value - control.low),
    )


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5; exact for 1 and 2)."""
    if degrees == 1:
        return 12.706204736
    if degrees == 2:
        return 4.302652730
    g1 = (Z**3 + Z) / 4
    g2 = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    g3 = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    g4 = (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160
    return Z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3 + g4 / degrees**4


def _variance(count: int, total: float, squares: float) -> float:
    return max((squares - total**2 / count) / (count - 1), 0.0)


def _at_rank(counts: Mapping[int, int], *, rank: int) -> float:
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= rank:
            return middle_ms(bucket)
    raise AssertionError("a rank is one of those counted")
