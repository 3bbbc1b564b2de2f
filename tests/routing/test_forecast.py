"""The prediction of the first token: exact by hand, and forgetting."""

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import forecast
from routing.forecast import NEW, Forecast, Lesson, cautious_s, first_token_s, lesson_of
from tests.routing.values import LIGHT


def taught(given=NEW, *, waited_s, tokens=1000, expected_s=None, is_missed=False, now_s=1.0):
    expected_s = first_token_s(given, prompt_tokens=tokens, now_s=now_s) if expected_s is None else expected_s
    lesson = lesson_of(
        prompt_tokens=tokens,
        tokens_in_front=tokens,
        expected_s=expected_s,
        waited_s=waited_s,
        is_missed=is_missed,
    )
    return forecast.on_first_token(given, lesson=lesson, now_s=now_s)


def test_first_token_of_a_new_cluster_is_the_prior():
    assert first_token_s(NEW, prompt_tokens=1000, now_s=50.0) == pytest.approx(0.3)


def test_first_token_waits_for_the_backlog_of_all_processes():
    given = Forecast(backlog_tokens=2000, others_tokens=1000, at_s=5.0)

    assert first_token_s(given, prompt_tokens=1000, now_s=5.0) == pytest.approx(4000 * 3e-4)


def test_first_token_follows_how_the_backlog_drains():
    # 10 s of backlog in which 2,000 tokens drained, seen at once: (10 + 0.3) / (2,000 + 1,000) per token.
    given = Forecast(at_s=5.0, busy_s=10.0, drained_tokens=2000.0)

    assert first_token_s(given, prompt_tokens=100, now_s=5.0) == pytest.approx(100 * 10.3 / 3000)


def test_dispatch_and_first_token_keep_count_of_the_backlog():
    sent = forecast.on_dispatch(NEW, prompt_tokens=1000, now_s=1.0)
    again = forecast.on_dispatch(sent, prompt_tokens=500, now_s=2.0)
    seen = taught(again, waited_s=2.0, now_s=3.0)
    lost = forecast.on_lost(seen, prompt_tokens=500, now_s=4.0)

    assert [f.backlog_tokens for f in (sent, again, seen, lost)] == [1000, 1500, 500, 0]
    # A second with a backlog each, faded by a tenth of the time constant since.
    faded = exp(-0.1)
    assert lost.busy_s == pytest.approx((1 * faded + 1) * faded + 1)
    assert lost.drained_tokens == pytest.approx(1000 * faded)


def test_caution_widens_by_the_margin_and_the_recent_error():
    given = Forecast(error_mean=0.1, error_variance=0.04, error_at_s=7.0, margin=2.0)

    assert cautious_s(given, expected_s=1.0, now_s=7.0) == pytest.approx(1.3 * exp(0.1 + 2 * 0.2) - 0.3)


def test_caution_forgets_a_bad_episode():
    bad = Forecast(error_mean=1.5, error_variance=0.5, error_at_s=0.0, margin=2.0)

    later = cautious_s(bad, expected_s=1.0, now_s=600.0)

    assert later == pytest.approx(cautious_s(NEW, expected_s=1.0, now_s=0.0), rel=1e-3)


def test_margin_grows_with_a_miss_and_shrinks_slowly_with_hits():
    missed = taught(waited_s=3.0, is_missed=True)
    met = taught(waited_s=0.3)

    assert missed.margin == pytest.approx(2.0 + 0.15 * 0.995)
    assert met.margin == pytest.approx(2.0 - 0.15 * 0.005)


def test_a_starved_cluster_is_predicted_to_be_in_time_again_within_a_minute():
    given = NEW
    for second in range(30):
        given = forecast.on_dispatch(given, prompt_tokens=1000, now_s=second)
        given = taught(given, waited_s=20.0, is_missed=True, now_s=second + 0.9)
    # A short prompt is let in first, and its first token teaches better.
    late = [
        cautious_s(given, expected_s=first_token_s(given, prompt_tokens=100, now_s=at_s), now_s=at_s)
        for at_s in (30.0, 90.0)
    ]

    objective_s = 1.5 + 100 * 0.0005
    assert [seen_s <= objective_s for seen_s in late] == [False, True]


def test_several_lessons_together_teach_nearly_what_they_teach_one_by_one():
    lessons = [
        lesson_of(
            prompt_tokens=400,
            tokens_in_front=800,
            expected_s=0.5,
            waited_s=waited_s,
            is_missed=waited_s > 1,
        )
        for waited_s in (0.4, 0.6, 1.2)
    ]
    one_by_one = NEW
    for lesson in lessons:
        one_by_one = forecast.on_shared(one_by_one, others_tokens=0, lesson=lesson, now_s=1.0)

    together = forecast.on_shared(NEW, others_tokens=0, lesson=sum(lessons[1:], lessons[0]), now_s=1.0)

    assert together.drained_tokens == one_by_one.drained_tokens == 1200
    assert together.margin == pytest.approx(one_by_one.margin)
    assert together.error_mean == pytest.approx(one_by_one.error_mean, rel=0.1)
    assert together.error_variance == pytest.approx(one_by_one.error_variance, rel=0.02)


def test_lesson_is_the_log_of_waited_to_expected():
    lesson = lesson_of(prompt_tokens=10, tokens_in_front=100, expected_s=0.7, waited_s=1.7, is_missed=True)

    assert lesson == Lesson(
        drained_tokens=10,
        count=1,
        error_sum=log(2.0),
        error_square_sum=log(2.0) ** 2,
        missed_count=1,
        slope_s=None,
    )


@LIGHT
@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "see", "lose"]), st.floats(0.0, 30.0), st.integers(1, 50_000)),
        max_size=40,
    )
)
def test_forecast_never_goes_below_zero_or_out_of_its_bounds(steps):
    given_forecast, now_s = NEW, 0.0
    for kind, wait_s, tokens in steps:
        now_s += wait_s
        if kind == "send":
            given_forecast = forecast.on_dispatch(given_forecast, prompt_tokens=tokens, now_s=now_s)
        elif kind == "see":
            given_forecast = taught(
                given_forecast, waited_s=wait_s, tokens=tokens, is_missed=wait_s > 2, now_s=now_s
            )
        else:
            given_forecast = forecast.on_lost(given_forecast, prompt_tokens=tokens, now_s=now_s)
        assert given_forecast.backlog_tokens >= 0
        assert 1.0 <= given_forecast.margin <= 5.0
        assert given_forecast.error_variance >= 0
        expected_s = first_token_s(given_forecast, prompt_tokens=tokens, now_s=now_s)
        assert expected_s >= 0
        assert cautious_s(given_forecast, expected_s=expected_s, now_s=now_s) > -forecast.FLOOR_S
