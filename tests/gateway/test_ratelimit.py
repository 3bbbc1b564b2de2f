"""Limits in one process over simulated time: exact in every rolling minute, refusals take nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import ratelimit
from gateway.ratelimit import Allowance, Demand, LocalLimiter, duration_text, headers_of

LIGHT = settings(max_examples=60, deadline=None, database=None)


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
    return LocalLimiter(clock=clock)


def demand(amount=1, *, limit=60, scope="key:k", kind="requests"):
    return Demand(scope=scope, label="API key tg_k…", kind=kind, limit=limit, amount=amount)


def take(limiter, amount=1, **values):
    return limiter.take_now([demand(amount, **values)]).allowances[0]


def test_take_gives_the_whole_allowance(limiter):
    assert take(limiter, 6) == Allowance(demand=demand(6), remaining=54, reset_s=61.0)


def test_take_refuses_with_the_wait_and_takes_nothing(limiter, clock):
    take(limiter, 20)
    clock.now_s += 10.0
    take(limiter, 30)
    clock.now_s += 5.0

    refused = take(limiter, 13)

    # The 20 of 15 seconds ago are forgotten 61 seconds after they came.
    assert refused == Allowance(
        demand=demand(13), remaining=10, reset_s=56.0, is_refused=True, retry_after_s=46.0
    )
    assert take(limiter, 10).is_refused is False


def test_demands_are_taken_all_or_none(limiter):
    both = [demand(10, limit=10), demand(50, limit=40, scope="team:t")]

    taken = limiter.take_now(both)

    assert [allowance.is_refused for allowance in taken.allowances] == [False, True]
    assert taken.refused == taken.allowances[1]
    assert limiter.used(kind="requests", scope="key:k") == 0


@LIGHT
@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 20)), min_size=1, max_size=80),
)
def test_no_rolling_minute_sees_more_than_the_limit(limit, steps):
    clock = FakeClock()
    limiter, passed = LocalLimiter(clock=clock), []
    for wait_s, amount in steps:
        clock.now_s += wait_s
        if not take(limiter, amount, limit=limit).is_refused:
            passed.append((clock.now_s, amount))
        assert sum(amount for at_s, amount in passed if at_s > clock.now_s - 60) <= limit


@LIGHT
@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 100))
def test_take_passes_after_the_wait_that_it_asked_for(limit, amount, wait_s):
    amount = min(amount, limit)
    clock = FakeClock()
    limiter = LocalLimiter(clock=clock)
    take(limiter, limit, limit=limit)
    clock.now_s += wait_s
    first = take(limiter, amount, limit=limit)
    clock.now_s += first.retry_after_s

    assert not (first.is_refused and take(limiter, amount, limit=limit).is_refused)


def test_take_keeps_scopes_and_kinds_apart(limiter):
    take(limiter, 60)

    assert take(limiter, 60, scope="key:other").is_refused is False
    assert take(limiter, 60, kind="tokens").is_refused is False


def test_take_follows_a_lowered_limit_at_once(limiter):
    take(limiter, 10, limit=1000)

    assert take(limiter, 1, limit=10).is_refused is True


def test_take_of_a_share_leaves_the_rest_to_other_processes(limiter):
    limiter.share = 4

    assert [take(limiter, 5).is_refused for _ in range(4)] == [False, False, False, True]


def test_correct_returns_what_was_not_used_but_never_more(limiter):
    take(limiter, 60)
    limiter.correct(demand(), amount=-20)
    assert limiter.used(kind="requests", scope="key:k") == 40

    limiter.correct(demand(), amount=-1000)
    assert limiter.used(kind="requests", scope="key:k") == 0


def test_more_used_than_taken_is_waited_for(limiter, clock):
    take(limiter, 60)
    clock.now_s += 30
    limiter.correct(demand(), amount=60)

    assert take(limiter).retry_after_s == pytest.approx(61.0)


def test_places_are_free_when_left(limiter):
    place = demand(kind="concurrent", limit=2)
    taken = [limiter.take_now([place]).refused is None for _ in range(3)]
    limiter.leave(place)

    assert taken == [True, True, False]
    assert limiter.take_now([place]).refused is None
    assert limiter.scopes() == [("concurrent", "key:k")]


def test_counts_are_bounded_and_the_one_unseen_longest_goes(limiter, monkeypatch):
    monkeypatch.setattr(ratelimit, "COUNTS_MAX", 3)
    for scope in ("first", "second", "third"):
        take(limiter, 60, scope=scope)
    take(limiter, scope="first")  # refused, but seen
    take(limiter, scope="fourth")

    assert take(limiter, 60, scope="first").is_refused is True
    assert take(limiter, 60, scope="second").is_refused is False


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


def test_headers_are_of_the_tightest_limit_of_each_kind():
    allowances = [
        Allowance(demand=demand(limit=100), remaining=40, reset_s=1.0),
        Allowance(demand=demand(limit=90, scope="team:t"), remaining=12, reset_s=2.0),
        Allowance(demand=demand(limit=90_000, kind="tokens"), remaining=7, reset_s=360.0),
        Allowance(demand=demand(limit=3, kind="concurrent"), remaining=1, reset_s=1.0),
    ]

    assert headers_of(allowances) == (
        ("x-ratelimit-limit-requests", "90"),
        ("x-ratelimit-remaining-requests", "12"),
        ("x-ratelimit-reset-requests", "2s"),
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", "7"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    )
