"""The breaker: when it opens, for how long, who probes, and what late news may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.breaker import (
    OPEN_COUNT_MAX,
    Breaker,
    on_abandon,
    on_dispatch,
    on_failure,
    on_shared,
    on_shared_ends,
    on_success,
    phase,
)
from tests.changes import replace
from tests.routing.values import LIGHT

MIDDLE = 0.5  # the draw without any spread


def failed(breaker, now_s, *, sent_s=None, draw=MIDDLE, retry_after_s=0.0):
    sent_s = now_s if sent_s is None else sent_s
    return on_failure(breaker, now_s=now_s, sent_s=sent_s, draw=draw, retry_after_s=retry_after_s)


def opened(now_s=100.0, draw=MIDDLE):
    breaker = Breaker()
    for _ in range(5):
        breaker = failed(breaker, now_s, draw=draw)
    return breaker


def probing(breaker, now_s):
    assert phase(breaker, now_s=now_s) == "half_open"
    return on_dispatch(breaker, now_s=now_s, sent_s=now_s)


def test_breaker_opens_at_the_fifth_failure_in_a_row():
    breaker = Breaker()
    phases = []
    for _ in range(5):
        breaker = failed(breaker, 100.0)
        phases.append(phase(breaker, now_s=100.0))

    assert phases == ["closed", "closed", "closed", "closed", "open"]


def test_breaker_starts_its_row_again_after_a_success():
    breaker = Breaker()
    for _ in range(4):
        breaker = failed(breaker, 100.0)
    breaker = on_success(breaker, now_s=100.0, sent_s=100.0)
    for _ in range(4):
        breaker = failed(breaker, 140.0)

    assert phase(breaker, now_s=140.0) == "closed"


@pytest.mark.parametrize(
    ("outcomes", "failures", "expected"), [("+-+-+-+-+-", 5, "open"), ("+++-+-+-+-", 4, "closed")]
)
def test_breaker_opens_at_half_of_ten_in_its_window(outcomes, failures, expected):
    breaker = Breaker()
    for outcome in outcomes:
        is_good = outcome == "+"
        breaker = on_success(breaker, now_s=100.0, sent_s=100.0) if is_good else failed(breaker, 100.0)

    assert (breaker.window_requests, breaker.window_failures) == (10, failures)
    assert phase(breaker, now_s=100.0) == expected


def test_breaker_needs_ten_requests_for_its_share():
    breaker = Breaker()
    for _ in range(4):
        breaker = on_success(breaker, now_s=100.0, sent_s=100.0)
        breaker = failed(breaker, 100.0)

    assert phase(breaker, now_s=100.0) == "closed"


def test_breaker_forgets_what_is_older_than_its_window():
    breaker = Breaker()
    for _ in range(4):
        breaker = on_success(breaker, now_s=100.0, sent_s=100.0)
        breaker = failed(breaker, 100.0)
    breaker = on_success(breaker, now_s=130.0, sent_s=130.0)
    breaker = failed(breaker, 130.0)

    assert (breaker.window_requests, breaker.window_failures) == (2, 1)
    assert phase(breaker, now_s=130.0) == "closed"


def test_breaker_is_half_open_when_its_time_is_up():
    breaker = opened(100.0)

    assert [phase(breaker, now_s=at) for at in (104.999, 105.0)] == ["open", "half_open"]


def test_breaker_doubles_with_each_failed_probe_up_to_50_seconds():
    breaker, now_s, durations = opened(100.0), 100.0, []
    for _ in range(9):
        durations.append(breaker.open_until_s - now_s)
        now_s = breaker.open_until_s
        breaker = failed(probing(breaker, now_s), now_s)

    assert durations == [5, 10, 20, 40, 50, 50, 50, 50, 50]


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 4.0), (0.5, 5.0), (0.999999, 6.0)])
def test_breaker_spreads_its_reopening_by_a_fifth(draw, seconds):
    assert opened(100.0, draw=draw).open_until_s - 100.0 == pytest.approx(seconds, abs=1e-4)


def test_breaker_lets_exactly_one_probe_pass():
    breaker = opened(100.0)
    passed = 0
    for step in range(20):
        if phase(breaker, now_s=200.0 + step) == "half_open":
            passed += 1
            breaker = on_dispatch(breaker, now_s=200.0 + step, sent_s=200.0 + step)

    assert passed == 1


def test_breaker_closes_and_forgets_when_the_probe_succeeds():
    breaker = on_success(probing(opened(100.0), 105.0), now_s=106.0, sent_s=105.0)

    assert breaker == Breaker(opened_at_s=100.0)
    assert phase(breaker, now_s=106.0) == "closed"


def test_breaker_takes_back_an_abandoned_probe():
    breaker = on_abandon(probing(opened(100.0), 105.0), sent_s=105.0)

    assert phase(breaker, now_s=105.0) == "half_open"


def test_breaker_keeps_its_probe_when_another_request_is_abandoned():
    breaker = on_abandon(probing(opened(100.0), 105.0), sent_s=99.0)

    assert phase(breaker, now_s=106.0) == "open"


def test_breaker_is_not_lengthened_by_late_failures_of_old_requests():
    before = opened(100.0)
    after = before
    for step in range(60):
        after = failed(after, 101.0 + step / 20, sent_s=99.0)

    assert after == before


def test_breaker_keeps_its_probe_when_an_old_request_fails():
    before = probing(opened(100.0), 105.0)

    assert failed(before, 106.0, sent_s=99.0) == before


def test_breaker_is_not_closed_by_an_answer_that_began_before_it_opened():
    before = opened(100.0)

    assert on_success(before, now_s=101.0, sent_s=90.0) == before


def test_breaker_stays_closed_when_old_requests_fail_after_its_recovery():
    closed = on_success(probing(opened(100.0), 105.0), now_s=106.0, sent_s=105.0)
    after = closed
    for _ in range(20):
        after = failed(after, 107.0, sent_s=99.0)

    assert after == closed


def test_breaker_is_not_lengthened_by_a_last_resort_that_fails():
    before = opened(100.0)

    assert failed(before, 102.0, sent_s=101.0) == before


def test_breaker_is_closed_by_a_last_resort_that_succeeds():
    breaker = on_success(opened(100.0), now_s=102.0, sent_s=101.0)

    assert phase(breaker, now_s=102.0) == "closed"


@pytest.mark.parametrize(
    ("retry_after_s", "seconds"), [(1.0, 1.0), (17.0, 17.0), (300.0, 300.0), (9000.0, 300.0)]
)
def test_breaker_opens_at_once_for_as_long_as_the_upstream_asks(retry_after_s, seconds):
    breaker = failed(Breaker(), 100.0, retry_after_s=retry_after_s)

    assert breaker.open_until_s == 100.0 + seconds
    assert breaker.open_count == 0


def test_breaker_respects_retry_after_of_a_last_resort():
    assert failed(opened(100.0), 102.0, retry_after_s=60.0).open_until_s == 162.0


def test_breaker_grows_its_time_when_the_upstream_asks_for_little_again_and_again():
    breaker, now_s, durations = failed(Breaker(), 100.0, retry_after_s=1.0), 100.0, []
    for _ in range(7):
        durations.append(breaker.open_until_s - now_s)
        now_s = breaker.open_until_s
        breaker = failed(probing(breaker, now_s), now_s, retry_after_s=1.0)

    assert durations == [1, 1, 1, 1, 5, 10, 20]


@LIGHT
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["dispatch", "success", "failure", "asked", "abandon"]),
            st.floats(min_value=0.0, max_value=40.0),
            st.floats(min_value=0.0, max_value=0.999),
            st.integers(min_value=0, max_value=5),
        ),
        max_size=60,
    )
)
def test_breaker_never_stays_open_for_ever_and_has_one_probe_at_most(steps):
    breaker, now_s = Breaker(), 1000.0
    sent: list[float] = []
    probes: set[float] = set()
    for kind, wait_s, draw, which in steps:
        now_s += wait_s
        if kind == "dispatch":
            if phase(breaker, now_s=now_s) == "half_open":
                assert not probes
                probes.add(now_s)
            breaker = on_dispatch(breaker, now_s=now_s, sent_s=now_s)
            sent.append(now_s)
            continue
        if not sent:
            continue
        sent_s = sent.pop(which % len(sent))
        if kind == "success":
            breaker = on_success(breaker, now_s=now_s, sent_s=sent_s)
        elif kind == "abandon":
            breaker = on_abandon(breaker, sent_s=sent_s)
        else:
            asked_s = 2.0 if kind == "asked" else 0.0
            breaker = failed(breaker, now_s, sent_s=sent_s, draw=draw, retry_after_s=asked_s)
        probes.discard(sent_s)
        if not breaker.is_probing:
            probes.clear()
        assert breaker.open_until_s <= now_s + 360.0
    for sent_s in sent:
        breaker = on_abandon(breaker, sent_s=sent_s)

    assert phase(breaker, now_s=now_s + 360.0) != "open"


def test_breaker_that_opened_elsewhere_opens_here_for_as_long():
    breaker = on_shared(Breaker(), open_until_s=107.0, now_s=100.0)

    assert breaker == Breaker(open_count=1, opened_at_s=100.0, open_until_s=107.0)
    assert on_shared(breaker, open_until_s=103.0, now_s=101.0).open_until_s == 107.0
    assert on_shared(breaker, open_until_s=103.0, now_s=101.0).open_count == 1


def test_breaker_that_closed_elsewhere_closes_here_and_forgets():
    assert on_shared(opened(100.0), open_until_s=0.0, now_s=101.0) == Breaker(opened_at_s=100.0)
    assert on_shared(Breaker(window_requests=3), open_until_s=0.0, now_s=101.0) == Breaker(window_requests=3)


def test_news_of_the_past_and_news_during_our_own_probe_change_nothing():
    closed, tried = Breaker(consecutive_failures=2), probing(opened(100.0), 106.0)

    assert on_shared(closed, open_until_s=99.0, now_s=100.0) == closed
    assert on_shared(tried, open_until_s=120.0, now_s=106.5) == tried
    assert on_shared(tried, open_until_s=0.0, now_s=106.5) == tried


def test_breaker_that_opens_elsewhere_again_and_again_is_counted_to_a_bound():
    breaker = Breaker()
    for number in range(OPEN_COUNT_MAX + 3):
        breaker = on_shared(breaker, open_until_s=number * 10.0 + 105.0, now_s=number * 10.0 + 100.0)

    assert breaker.open_count == OPEN_COUNT_MAX


def test_failures_of_others_are_in_the_same_row():
    breaker = on_shared_ends(failed(Breaker(), 100.0), failures=3, successes=0, now_s=100.0)

    assert phase(breaker, now_s=100.0) == "closed"
    assert phase(failed(breaker, 100.5), now_s=100.5) == "open"
    assert on_shared_ends(breaker, failures=1, successes=0, now_s=101.0) == replace(
        breaker, consecutive_failures=5, open_count=1, opened_at_s=101.0, open_until_s=106.0
    )


def test_success_of_another_ends_the_row_and_failures_beside_it_begin_none():
    breaker = failed(failed(Breaker(), 100.0), 100.0)

    assert on_shared_ends(breaker, failures=9, successes=1, now_s=100.0).consecutive_failures == 0


def test_ends_elsewhere_say_nothing_of_an_open_breaker():
    assert on_shared_ends(opened(100.0), failures=9, successes=9, now_s=101.0) == opened(100.0)
