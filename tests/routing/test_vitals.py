"""Means that forget, blended by age."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import vitals
from routing.vitals import (
    FAILURE_SHARE_MAX,
    FAILURE_TAU_S,
    POLLED_TAU_S,
    TTFT_TAU_S,
    UNKNOWN,
    batch_size_index,
    expected_ttft_s,
    failure_share,
    known_tpot_s,
    per_success,
    speed_tokens_per_s,
)
from tests.routing.values import LIGHT, seen_after


def answered(state, *, generation_s=2.0, tokens=21, running=1, at_s=0.0):
    return vitals.on_answer(
        state, generation_s=generation_s, output_tokens=tokens, running_count=running, now_s=at_s
    )


def test_pace_and_speed_are_kept_by_how_many_ran_at_once():
    state = answered(answered(UNKNOWN), running=6, generation_s=4.0)

    assert known_tpot_s(state, now_s=0.0) == pytest.approx(0.15)
    assert speed_tokens_per_s(state, running_count=1, now_s=0.0) == pytest.approx(10.0)
    assert speed_tokens_per_s(state, running_count=4, now_s=0.0) == pytest.approx(30.0)
    assert speed_tokens_per_s(state, running_count=2, now_s=0.0) is None


@pytest.mark.parametrize("answer", [{"generation_s": None}, {"tokens": 1}, {"generation_s": 0.0}])
def test_an_answer_whose_pace_nobody_saw_teaches_only_that_it_succeeded(answer):
    state = answered(UNKNOWN, **answer)

    assert (known_tpot_s(state, now_s=0.0), state.failure_share.weight) == (None, 1.0)


@pytest.mark.parametrize(
    ("running", "index"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (127, 6), (128, 7), (10**6, 7)]
)
def test_batch_sizes_go_by_powers_of_two(running, index):
    assert batch_size_index(running) == index


def test_failures_raise_the_price_of_a_success_and_are_forgotten():
    failing = reduce(lambda state, _: vitals.on_failure(state, now_s=0.0), range(5), UNKNOWN)

    assert failure_share(failing, now_s=0.0) == pytest.approx(0.5)
    assert per_success(100.0, vitals=failing, now_s=0.0) == pytest.approx(200.0)
    assert per_success(100.0, vitals=failing, now_s=8 * FAILURE_TAU_S) < 100.2
    assert per_success(100.0, vitals=UNKNOWN, now_s=0.0) == 100.0


def test_an_old_poll_gives_way_to_fresh_samples_and_old_samples_to_a_fresh_poll():
    both = seen_after(0.1, samples=10)

    def expected(*, samples_age_s, poll_age_s):
        return expected_ttft_s(both, polled_s=2.0, polled_age_s=poll_age_s, now_s=samples_age_s)

    assert expected(samples_age_s=0.0, poll_age_s=10 * POLLED_TAU_S) == pytest.approx(0.1, rel=1e-3)
    assert expected(samples_age_s=15 * TTFT_TAU_S, poll_age_s=0.0) == pytest.approx(2.0, rel=1e-3)
    assert expected_ttft_s(both, polled_s=None, polled_age_s=0.0, now_s=0.0) == pytest.approx(0.1)
    assert expected_ttft_s(both, polled_s=None, polled_age_s=0.0, now_s=600.0) is None
    assert expected_ttft_s(UNKNOWN, polled_s=2.0, polled_age_s=1e9, now_s=0.0) == 2.0


steps = st.lists(
    st.tuples(st.booleans(), st.floats(0.01, 50.0), st.integers(0, 400), st.floats(0.0, 300.0)), max_size=30
)


@LIGHT
@given(steps)
def test_means_stay_within_their_samples_and_shares_within_their_bounds(drawn):
    state, now_s, paces = UNKNOWN, 0.0, []
    for is_ok, generation_s, tokens, wait_s in drawn:
        now_s += wait_s
        if not is_ok:
            state = vitals.on_failure(state, now_s=now_s)
            continue
        state = answered(state, generation_s=generation_s, tokens=tokens, at_s=now_s)
        if tokens >= 2:
            paces.append(generation_s / (tokens - 1))
    known = known_tpot_s(state, now_s=now_s)

    assert 0.0 <= failure_share(state, now_s=now_s) <= FAILURE_SHARE_MAX
    assert known is None or min(paces) * 0.999 <= known <= max(paces) * 1.001
    assert known_tpot_s(state, now_s=now_s + 86_400.0) is None
