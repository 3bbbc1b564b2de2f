"""What attempts teach: the backlog is kept exactly, however an attempt ends."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from gateway.errors import OverloadedError, UpstreamError
from gateway.exchange import Exchange
from gateway.traffic import Traffic
from gateway.upstream import UpstreamFailure
from routing.types import Usage
from tests.routing.values import deployment, profile, provider


@dataclass
class FakeClock:
    now_s: float = 100.0

    def __call__(self):
        return self.now_s


@dataclass
class FakeLater:
    """Keeps what shall be called later, with its delay."""

    calls: list = field(default_factory=list)

    def __call__(self, delay_s, act):
        self.calls.append((delay_s, act))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def later():
    return FakeLater()


@pytest.fixture
def traffic(clock, later):
    return Traffic(clock=clock, exchange=Exchange(clock=clock), call_later=later)


def attempt_of(place, *, is_stream=True, prompt_tokens=1000):
    """As much of an attempt as is read."""
    return SimpleNamespace(
        candidate=SimpleNamespace(deployment=place),
        request=SimpleNamespace(profile=profile(prompt_tokens_estimate=prompt_tokens), is_stream=is_stream),
        started_s=100.0,
        request_started_s=100.0,
        ttft_objective_s=2.0,
        ttft_s=None,
        output_frames=0,
        expected_s=0.0,
        tokens_in_front=0,
        unseen_tokens=0,
    )


def settlement_of(outcome="ok", output_tokens=20, **changes):
    return SimpleNamespace(
        **{
            "outcome": outcome,
            "error_code": "",
            "duration_ms": 500,
            "usage": Usage(input_fresh_tokens=1000, output_text_tokens=output_tokens),
            "hold": SimpleNamespace(attribution={"key_id": "k"}),
            **changes,
        }
    )


def backlog(traffic, place):
    state = traffic.states[place.id]
    return state.in_flight, state.forecast.backlog_tokens


def test_stream_leaves_the_backlog_with_its_first_token(traffic, clock):
    place = deployment()
    attempt = attempt_of(place)
    traffic.on_dispatch(attempt, now_s=100.0)
    assert backlog(traffic, place) == (1, 1000)
    assert (attempt.expected_s, attempt.tokens_in_front) == (pytest.approx(0.3), 1000)

    clock.now_s, attempt.ttft_s = 100.4, 0.4
    traffic.on_first_token(attempt)
    assert backlog(traffic, place) == (1, 0)
    assert traffic.states[place.id].forecast.error_mean > 0

    traffic.on_end(attempt, settlement_of(), now_s=101.0)
    assert backlog(traffic, place) == (0, 0)


def test_plain_answer_leaves_the_backlog_when_its_first_token_was_expected(traffic, later, clock):
    place = deployment()
    attempt = attempt_of(place, is_stream=False)
    traffic.on_dispatch(attempt, now_s=100.0)

    ((delay_s, presume),) = later.calls
    clock.now_s += delay_s
    presume()

    assert delay_s == pytest.approx(0.3)
    assert backlog(traffic, place) == (1, 0)
    assert traffic.states[place.id].forecast.error_mean == 0.0


def test_plain_answer_that_ends_sooner_leaves_the_backlog_once(traffic, later):
    place = deployment()
    first, second = attempt_of(place, is_stream=False), attempt_of(place, is_stream=False)
    for attempt in (first, second):
        traffic.on_dispatch(attempt, now_s=100.0)

    first.ttft_s = 0.1
    traffic.on_end(first, settlement_of(), now_s=100.1)
    later.calls[0][1]()

    assert backlog(traffic, place) == (1, 1000)


@pytest.mark.parametrize("outcome", ["failed", "lost", "cancelled", "truncated"])
def test_attempt_that_ends_without_a_first_token_leaves_the_backlog(traffic, outcome):
    place = deployment()
    attempt = attempt_of(place)
    traffic.on_dispatch(attempt, now_s=100.0)

    if outcome == "failed":
        traffic.on_failure(attempt, UpstreamFailure(UpstreamError("x"), is_sent=True), now_s=100.5)
    elif outcome == "lost":
        traffic.on_lost(attempt, now_s=100.5)
    else:
        traffic.on_end(attempt, settlement_of(outcome), now_s=100.5)

    assert backlog(traffic, place) == (0, 0)


def test_refusal_by_a_provider_s_limit_empties_its_mirror(traffic):
    place = provider(rpm_max=60, tpm_max=100_000)
    attempt = attempt_of(place)
    traffic.on_dispatch(attempt, now_s=100.0)
    assert traffic.states[place.id].quota.requests_missing == 1.0

    failed = UpstreamFailure(OverloadedError("full"), is_sent=True, retry_after_s=1.0)
    traffic.on_failure(attempt, failed, now_s=100.5)

    assert traffic.states[place.id].quota.requests_missing == 60.0


def test_answers_teach_how_long_a_key_s_next_one_is(traffic):
    place = deployment()
    asked = profile(prompt_tokens_estimate=1000)
    unknown = traffic.asked(asked, key_id="k", waited_s=0.5, tried=frozenset({"cluster-b"}))
    for _ in range(200):
        attempt = attempt_of(place)
        traffic.on_dispatch(attempt, now_s=100.0)
        traffic.on_end(attempt, settlement_of(output_tokens=20), now_s=101.0)

    known = traffic.asked(asked, key_id="k", waited_s=0.0, tried=frozenset())

    assert (unknown.output_tokens_expected, unknown.waited_s, unknown.tried) == (None, 0.5, {"cluster-b"})
    assert known.output_tokens_expected == pytest.approx(20, rel=0.3)
    assert (
        traffic.asked(asked, key_id="other", waited_s=0.0, tried=frozenset()).output_tokens_expected is None
    )


def test_stream_tells_its_pace(traffic, clock):
    place = deployment()
    attempt = attempt_of(place)
    traffic.on_dispatch(attempt, now_s=100.0)
    attempt.ttft_s, attempt.output_frames, clock.now_s = 0.5, 11, 101.5

    traffic.on_progress(attempt)

    assert traffic.states[place.id].pace_s == pytest.approx(0.1)


def test_first_tokens_presumed_together_leave_the_backlog_together(traffic, later, clock):
    place, other = deployment("own"), deployment("other")
    for where, tokens in ((place, 1000), (other, 10), (place, 200)):
        traffic.on_dispatch(attempt_of(where, is_stream=False, prompt_tokens=tokens), now_s=clock.now_s)
    assert (backlog(traffic, place), backlog(traffic, other)) == ((2, 1200), (1, 10))
    clock.now_s += 600.0

    later.calls[0][1]()

    assert (backlog(traffic, place), backlog(traffic, other)) == ((2, 0), (1, 0))
