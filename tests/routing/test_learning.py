"""What events make of a deployment's state."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.breaker import Breaker, phase
from routing.cache_hits import CacheHits
from routing.forecast import Forecast
from routing.learning import (
    NOTHING_LEARNT,
    Abandoned,
    DeploymentState,
    Dispatched,
    Event,
    Failed,
    Finished,
    FirstToken,
    Shared,
    observe,
)
from routing.quota import Quota
from routing.vitals import Mean, Vitals
from tests.changes import replace
from tests.routing.values import LIGHT

ENDS: dict[str, Callable[[float], Event]] = {
    "finished": lambda sent_s: Finished(sent_s=sent_s, output_tokens=5),
    "failed": lambda sent_s: Failed(sent_s=sent_s, draw=0.5),
    "abandoned": lambda sent_s: Abandoned(sent_s=sent_s),
}


def test_observe_counts_a_dispatch():
    after = observe(DeploymentState(), Dispatched(sent_s=1.0, prompt_tokens=30), 1.0)

    assert after == DeploymentState(in_flight=1, forecast=Forecast(backlog_tokens=30, at_s=1.0))


def test_observe_notes_a_first_token_and_whether_it_missed():
    state = observe(DeploymentState(), FirstToken(ttft_ms=100.0), 1.0)
    assert state == DeploymentState(vitals=Vitals(ttft_s=Mean(0.1, 1.0, 1.0)), miss_share=0.00198)

    after = observe(state, FirstToken(ttft_ms=200.0, is_missed=True), 1.0)

    assert after.vitals.ttft_s == Mean(pytest.approx(0.15), 2.0, 1.0)
    assert after.miss_share == pytest.approx(0.0119602)


def test_observe_learns_from_an_answer():
    state = DeploymentState(in_flight=2, output_tokens=10.0)

    after = observe(state, Finished(sent_s=40.0, output_tokens=21, generation_s=2.0), 50.0)

    assert after == DeploymentState(
        in_flight=1,
        vitals=Vitals(
            tpot_s=Mean(0.1, 1.0, 50.0),
            failure_share=Mean(0.0, 1.0, 50.0),
            # Two at once, each ten tokens a second.
            speeds_tokens_per_s=(Mean(), Mean(20.0, 1.0, 50.0), *(Mean(),) * 6),
        ),
        output_tokens=12.2,
        breaker=Breaker(window_started_s=50.0, window_requests=1),
    )


def test_observe_hands_a_failure_to_the_breaker():
    after = observe(DeploymentState(in_flight=1), Failed(sent_s=40.0, draw=0.5, retry_after_s=7.0), 50.0)

    assert after.in_flight == 0
    assert after.breaker.open_until_s == 57.0
    assert after.vitals.failure_share == Mean(1.0, 1.0, 50.0)


def test_observe_blames_a_spent_limit_on_nobody():
    after = observe(DeploymentState(in_flight=1), Failed(sent_s=40.0, draw=0.5, is_rate_limited=True), 50.0)

    assert after.vitals == Vitals()


def test_observe_gives_an_abandoned_probe_back():
    breaker = Breaker(open_until_s=10.0, opened_at_s=5.0)
    probing = observe(DeploymentState(breaker=breaker), Dispatched(sent_s=11.0), 11.0)
    assert phase(probing.breaker, now_s=11.0) == "open"

    after = observe(probing, Abandoned(sent_s=11.0), 12.0)

    assert after.in_flight == 0
    assert phase(after.breaker, now_s=12.0) == "half_open"


@pytest.mark.parametrize("end", sorted(ENDS))
def test_observe_never_counts_below_zero(end):
    assert observe(DeploymentState(), ENDS[end](1.0), 1.0).in_flight == 0


@LIGHT
@given(
    st.lists(
        st.tuples(st.sampled_from(["dispatch", *sorted(ENDS)]), st.floats(0.0, 20.0), st.integers(0, 9)),
        max_size=60,
    )
)
def test_observe_returns_to_nothing_in_flight_when_all_ended(steps):
    state, now_s, sent = DeploymentState(), 1000.0, []
    for kind, wait_s, which in steps:
        now_s += wait_s
        if kind == "dispatch":
            state = observe(state, Dispatched(sent_s=now_s), now_s)
            sent.append(now_s)
        elif sent:
            state = observe(state, ENDS[kind](sent.pop(which % len(sent))), now_s)
        assert state.in_flight == len(sent)
    for sent_s in sent:
        state = observe(state, Abandoned(sent_s=sent_s), now_s)

    assert state.in_flight == 0


@LIGHT
@given(st.integers(0, 5), st.floats(0.0, 1e4))
def test_observe_is_pure(in_flight, now_s):
    state = DeploymentState(in_flight=in_flight)
    kept = replace(state)

    first = observe(state, Failed(sent_s=now_s, draw=0.3), now_s)

    assert observe(state, Failed(sent_s=now_s, draw=0.3), now_s) == first
    assert state == kept


def test_what_others_did_changes_only_what_is_theirs():
    """Field by field: a new one that `Shared` forgot to carry over is lost here and not in production."""
    known = DeploymentState(
        in_flight=3,
        others_in_flight=1,
        vitals=Vitals(ttft_s=Mean(1.0, 2.0, 3.0)),
        output_tokens=200.0,
        pace_s=0.03,
        pace_at_s=90.0,
        miss_share=0.5,
        forecast=Forecast(backlog_tokens=700, others_tokens=5, at_s=100.0),
        quota=Quota(1.0, 2.0, 3.0),
        breaker=Breaker(consecutive_failures=2),
        cache_hits=CacheHits(read_tokens=0.5, input_tokens=1.0, at_s=100.0),
    )
    fields = list(DeploymentState.__struct_fields__)
    assert [name for name in fields if getattr(known, name) == getattr(NOTHING_LEARNT, name)] == []

    heard = observe(known, Shared(in_flight=9, backlog_tokens=50), 100.0)

    expected_forecast = replace(known.forecast, others_tokens=50)
    assert heard == replace(known, others_in_flight=9, forecast=expected_forecast)
