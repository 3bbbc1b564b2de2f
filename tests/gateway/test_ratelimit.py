"""Rate limits over simulated time: exact, refusals take nothing, headers as OpenAI writes them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import ratelimit
from gateway.ratelimit import Allowance, RateLimiter, duration_text, headers_of


class FakeClock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def limiter(clock):
    return RateLimiter(clock=clock)


def take(limiter, amount=1, *, limit=60, key_id="k", kind="requests"):
    return limiter.take(key_id=key_id, kind=kind, limit=limit, amount=amount)


def test_take_gives_the_whole_allowance(limiter):
    assert take(limiter, 6) == Allowance(kind="requests", limit=60, remaining=54, reset_s=6.0)


def test_take_refuses_with_the_wait_and_takes_nothing(limiter):
    take(limiter, 50)

    refused = take(limiter, 13)

    assert refused == Allowance(
        kind="requests", limit=60, remaining=10, reset_s=50.0, is_refused=True, retry_after_s=3.0
    )
    assert take(limiter, 10).is_refused is False


@pytest.mark.parametrize(("limit", "step_s"), [(60, 0.1), (7, 0.5), (1000, 0.05)])
def test_take_is_exact_over_a_simulated_minute(limiter, clock, limit, step_s):
    burst = sum(not take(limiter, limit=limit).is_refused for _ in range(limit * 2))
    passed = 0
    for _ in range(round(60 / step_s)):
        clock.now_s += step_s
        while not take(limiter, limit=limit).is_refused:
            passed += 1

    assert burst == limit
    assert passed == limit


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.integers(1, 500),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), min_size=1, max_size=50),
)
def test_take_never_passes_more_than_the_limit_and_what_grew(limit, steps):
    clock = FakeClock()
    limiter = RateLimiter(clock=clock)
    passed, start_s = 0, clock.now_s
    for wait_s, amount in steps:
        clock.now_s += wait_s
        if not take(limiter, amount, limit=limit).is_refused:
            passed += amount
        assert passed <= limit + (clock.now_s - start_s) * limit / 60 + 0.001


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 100))
def test_take_passes_after_the_wait_that_it_asked_for(limit, amount, wait_s):
    amount = min(amount, limit)
    clock = FakeClock()
    limiter = RateLimiter(clock=clock)
    take(limiter, limit, limit=limit)
    clock.now_s += wait_s
    first = take(limiter, amount, limit=limit)
    clock.now_s += first.retry_after_s

    assert not (first.is_refused and take(limiter, amount, limit=limit).is_refused)


def test_take_never_gives_more_than_the_limit_at_once(limiter, clock):
    refused = take(limiter, 61)
    clock.now_s += 3600

    assert refused.is_refused is True
    assert take(limiter, 61).is_refused is True
    assert take(limiter, 60).is_refused is False


def test_take_keeps_keys_and_kinds_apart(limiter):
    take(limiter, 60)

    assert take(limiter, 60, key_id="other").is_refused is False
    assert take(limiter, 60, kind="tokens").is_refused is False


def test_take_follows_a_lowered_limit_at_once(limiter):
    take(limiter, 10, limit=1000)

    assert take(limiter, 6, limit=5).is_refused is True
    assert take(limiter, 5, limit=5).is_refused is False


def test_give_back_returns_what_was_not_used(limiter):
    take(limiter, 60)
    limiter.give_back(key_id="k", kind="requests", limit=60, amount=20)

    assert take(limiter, 20).remaining == 0


def test_give_back_never_fills_above_the_limit(limiter):
    limiter.give_back(key_id="k", kind="requests", limit=60, amount=1000)

    assert take(limiter, 60).remaining == 0


def test_give_back_of_a_negative_amount_takes_more(limiter, clock):
    take(limiter, 60)
    limiter.give_back(key_id="k", kind="requests", limit=60, amount=-60)

    refused = take(limiter)

    assert refused == Allowance(
        kind="requests", limit=60, remaining=0, reset_s=120.0, is_refused=True, retry_after_s=61.0
    )


def test_buckets_are_bounded_and_the_one_unseen_longest_goes(limiter, monkeypatch):
    monkeypatch.setattr(ratelimit, "BUCKETS_MAX", 3)
    for key_id in ("first", "second", "third"):
        take(limiter, 60, key_id=key_id)
    take(limiter, key_id="first")  # refused, but seen
    take(limiter, key_id="fourth")

    assert take(limiter, 60, key_id="first").is_refused is True
    assert take(limiter, 60, key_id="second").is_refused is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0004, "0s"),
        (0.001, "1ms"),
        (0.12, "120ms"),
        (0.9996, "1s"),
        (1.0, "1s"),
        (1.001, "2s"),
        (12.0, "12s"),
        (59.5, "1m0s"),
        (60.0, "1m0s"),
        (61.2, "1m2s"),
        (360.0, "6m0s"),
        (3600.0, "60m0s"),
    ],
)
def test_duration_text_is_openai_s(seconds, text):
    assert duration_text(seconds) == text


def test_headers_of_an_allowance():
    allowance = Allowance(kind="tokens", limit=90_000, remaining=12, reset_s=360.0)

    assert headers_of(allowance) == (
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", "12"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    )
