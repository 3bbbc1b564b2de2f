"""The guard's test: known values, no false stop beyond its level, and true regressions found soon."""

import math
import random

import pytest

from routing.sequential import Guards, Regression, Sample, find_regression, likelihood_ratio

GUARDS = Guards(error_increase_permille=50, latency_increase_percent=50, samples_min=100)
RUNS = 200
LOOKS = 120
ANSWERS_PER_LOOK = 20


def sample(*, attempts=0, errors=0, logs=()):
    return Sample(
        attempts=attempts,
        errors=errors,
        ttft_count=len(logs),
        ttft_log_sum=math.fsum(logs),
        ttft_log_squares=math.fsum(log**2 for log in logs),
    )


def found_at(chance, *, control_error, arm_error, arm_slower=0.0, guards=GUARDS):
    """The look at which the guard stops; None: at none of them. Looks once a minute, as the task does."""
    totals = [[0, 0, 0.0, 0.0] for _ in range(2)]
    for look in range(1, LOOKS + 1):
        for place, (rate, slower) in enumerate([(control_error, 0.0), (arm_error, arm_slower)]):
            total = totals[place]
            for _ in range(ANSWERS_PER_LOOK):
                log = chance.gauss(6.0 + slower, 0.6)
                total[0] += 1
                total[1] += chance.random() < rate
                total[2] += log
                total[3] += log**2
        control, arm = (
            Sample(attempts=n, errors=e, ttft_count=n, ttft_log_sum=s, ttft_log_squares=q)
            for n, e, s, q in totals
        )
        if find_regression(control=control, arms={"arm": arm}, guards=guards):
            return look
    return None


@pytest.mark.parametrize("error_rate", [0.01, 0.2])
def test_equal_arms_are_stopped_in_at_most_5_percent_of_experiments(error_rate):
    chance = random.Random(20261123)
    # Guards as small as can be, so that the test's own level is what is measured, not the threshold.
    tight = Guards(error_increase_permille=1, latency_increase_percent=1, samples_min=30)

    stops = [
        found_at(chance, control_error=error_rate, arm_error=error_rate, guards=tight) for _ in range(RUNS)
    ]

    assert sum(stop is not None for stop in stops) <= 0.05 * RUNS


@pytest.mark.parametrize("changed", [{"arm_error": 0.2}, {"arm_slower": math.log(2)}])
def test_regressions_are_found_within_minutes(changed):
    chance = random.Random(7)
    given = {"control_error": 0.01, "arm_error": 0.01, **changed}

    looks = [found_at(chance, **given) for _ in range(20)]

    assert None not in looks
    assert max(looks) <= 20


def test_regression_says_what_was_worse():
    control = sample(attempts=1_000, errors=10)
    arm = sample(attempts=1_000, errors=200)

    assert find_regression(control=control, arms={"b": arm}, guards=GUARDS) == Regression(
        arm="b", metric="errors", control_value=0.01, arm_value=0.2
    )


@pytest.mark.parametrize(
    ("control", "arm"),
    [
        (sample(attempts=1_000, errors=200), sample(attempts=1_000, errors=10)),  # better
        (sample(attempts=99, errors=0), sample(attempts=1_000, errors=900)),  # too few
        (sample(attempts=100_000, errors=1_000), sample(attempts=100_000, errors=2_000)),  # within 5 points
        (sample(), sample()),
    ],
)
def test_nothing_is_stopped_without_a_cause(control, arm):
    assert find_regression(control=control, arms={"b": arm}, guards=GUARDS) is None


def test_guard_of_0_is_off():
    off = Guards(error_increase_permille=0, latency_increase_percent=0, samples_min=30)
    control, arm = (sample(attempts=1_000, errors=n, logs=[n / 100] * 1_000) for n in (0, 1_000))

    assert find_regression(control=control, arms={"b": arm}, guards=off) is None


@pytest.mark.parametrize(
    ("difference", "ratio"),
    [
        # variance = prior = 1: sqrt(1/2) exp(d^2 / 4) 2 Phi(d / sqrt 2)
        (0.0, 0.7071067811865476),
        (2.0, math.sqrt(0.5) * math.e * 1.8427007929497148),
        (-2.0, math.sqrt(0.5) * math.e * 0.15729920705028513),
    ],
)
def test_ratio_has_its_known_values(difference, ratio):
    found = likelihood_ratio(difference=difference, variance=1.0, prior_deviation=1.0)

    assert found == pytest.approx(ratio, rel=1e-9)


def test_ratio_of_equal_arms_ever_passes_20_in_at_most_5_percent_of_paths():
    chance = random.Random(11)
    paths, looks, passed, passed_naively = 1_000, 200, 0, 0
    for _ in range(paths):
        total, is_passed, is_passed_naively = 0.0, False, False
        for look in range(1, looks + 1):
            # The sum of `look` differences of two answers, each with a variance of 1.
            total += chance.gauss(0.0, math.sqrt(2))
            difference, variance = total / look, 2 / look
            ratio = likelihood_ratio(difference=difference, variance=variance, prior_deviation=0.3)
            is_passed |= ratio >= 20
            is_passed_naively |= difference / math.sqrt(variance) > 1.645
        passed += is_passed
        passed_naively += is_passed_naively

    assert 0.005 < passed / paths <= 0.05
    # What a test for one look comes to when it is looked at each time.
    assert passed_naively / paths > 0.25
