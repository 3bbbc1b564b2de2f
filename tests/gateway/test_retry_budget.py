"""The retry budget: a tenth of the requests and three a second, with a small start."""

import pytest

from gateway.retry_budget import TOKENS_MAX, TOKENS_START, RetryBudget


class FakeClock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def taken(budget):
    count = 0
    while budget.take():
        count += 1
        assert count <= 1000
    return count


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def spent(clock):
    budget = RetryBudget(clock=clock)
    taken(budget)
    return budget


def test_retry_budget_starts_with_a_few(clock):
    assert taken(RetryBudget(clock=clock)) == TOKENS_START


def test_retry_budget_grows_by_a_tenth_of_the_requests(spent):
    for _ in range(201):
        spent.on_request()

    assert taken(spent) == 20


def test_retry_budget_grows_by_three_a_second(spent, clock):
    clock.now_s += 4.01

    assert taken(spent) == 12


def test_retry_budget_has_a_ceiling(spent, clock):
    for _ in range(10_000):
        spent.on_request()
    clock.now_s += 10_000

    assert taken(spent) == TOKENS_MAX


def test_retry_budget_holds_amplification_in_an_outage_of_everything(spent, clock):
    # 100 requests a second for a minute, each of which wants one more try.
    retries = 0
    for _ in range(6_000):
        clock.now_s += 0.01
        spent.on_request()
        retries += spent.take()

    assert retries <= 0.10 * 6_000 + 3 * 60 + 1
    assert retries >= 0.10 * 6_000 + 3 * 60 - 2
