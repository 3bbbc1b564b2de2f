"""Intervals against values that others published or computed."""

import pytest

from billing import intervals
from billing.intervals import Estimate
from billing.latency_buckets import BUCKETS_MAX, bucket_of, middle_ms


def ends(estimate):
    return estimate.low, estimate.high


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_share_is_wilsons(count, total, low, high):
    assert ends(intervals.share(count=count, total=total)) == (
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_difference_of_shares_is_newcombes(first, second, low, high):
    arm, control = (intervals.share(count=count, total=total) for count, total in (first, second))

    assert ends(intervals.difference(arm=arm, control=control)) == (
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (100_000, 1.96)],
)
def test_students_quantiles_are_those_of_the_tables(degrees, quantile):
    assert intervals.student(degrees) == pytest.approx(quantile, abs=5e-3)


def test_mean_is_students():
    values = [4, 7, 9, 10, 15]

    found = intervals.mean(count=5, total=sum(values), squares=sum(value**2 for value in values))

    # s = 4.0620, t(4) = 2.7764: 9 -+ 5.0436
    assert found.value == 9
    assert ends(found) == (pytest.approx(3.956, abs=2e-3), pytest.approx(14.044, abs=2e-3))


def test_ratio_of_constant_parts_is_exact():
    found = intervals.ratio(
        count=10, top=200, top_squares=4_000, bottom=100, bottom_squares=1_000, products=2_000
    )

    assert found == Estimate(value=2.0, low=2.0, high=2.0)


@pytest.mark.parametrize("part", [0.5, 0.95])
def test_quantile_is_within_a_bucket_of_the_true_one(part):
    counts: dict[int, int] = {}
    for ttft_ms in range(1, 1_001):
        counts[bucket_of(ttft_ms)] = counts.get(bucket_of(ttft_ms), 0) + 1

    found = intervals.quantile(counts, part=part)

    assert found.value == pytest.approx(1_000 * part, rel=0.05)
    spread = 1.96 * (1_000 * part * (1 - part)) ** 0.5
    assert found.low == pytest.approx(1_000 * part - spread, rel=0.05)
    assert found.high == pytest.approx(1_000 * part + spread, rel=0.05)


def test_nothing_says_nothing():
    assert intervals.share(count=0, total=0) is None
    assert intervals.mean(count=1, total=5, squares=25) is None
    assert intervals.quantile({}, part=0.5) is None
    assert intervals.difference(arm=None, control=Estimate(value=1, low=0, high=2)) is None
    assert intervals.ratio(count=9, top=1, top_squares=1, bottom=0, bottom_squares=0, products=0) is None


@pytest.mark.parametrize("ttft_ms", [0, 1, 2, 17, 900, 60_000, 10**7])
def test_middle_of_a_bucket_is_close_to_what_is_in_it(ttft_ms):
    assert middle_ms(bucket_of(ttft_ms)) == pytest.approx(max(ttft_ms, 1), rel=0.026)


def test_slowest_bucket_takes_all_the_rest():
    assert bucket_of(2**31) == BUCKETS_MAX - 1
