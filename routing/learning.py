"""What live traffic teaches about a deployment, as a pure fold over events."""

from collections.abc import Callable, Mapping
from math import exp
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from routing import breaker as breakers
from routing import cache_hits
from routing import forecast as forecasts
from routing import quota as quotas
from routing import vitals as vital_signs
from routing.breaker import Breaker
from routing.cache_hits import NOTHING_READ, CacheHits
from routing.forecast import Forecast, Lesson
from routing.quota import FULL, UNLIMITED, Quota
from routing.vitals import Vitals

EWMA_WEIGHT = 0.2
# Seconds per output token follow the streams we relay with this time constant.
PACE_TAU_S = 1.0
MISS_WEIGHT = 0.01
MISS_SHARE_START = 0.002
CLOSED = Breaker()
NO_LESSON = Lesson(drained_tokens=0)


class DeploymentState(Struct, frozen=True, kw_only=True):
    """One deployment's state in one process. `None`: not seen yet."""

    in_flight: int = 0
    others_in_flight: int = 0  # the same of the other processes, as far as they have told
    vitals: Vitals = vital_signs.UNKNOWN
    output_tokens: float | None = None
    # Seconds per output token of the streams that run now, and when one last told.
    pace_s: float | None = None
    pace_at_s: float = 0.0
    # The share of first tokens that came after the objective.
    miss_share: float = MISS_SHARE_START
    forecast: Forecast = forecasts.NEW
    quota: Quota = FULL
    breaker: Breaker = CLOSED
    cache_hits: CacheHits = NOTHING_READ

    @property
    def all_in_flight(self) -> int:
        """Requests at the deployment, whichever process sent them."""
        return self.in_flight + self.others_in_flight


class Dispatched(Struct, frozen=True, kw_only=True):
    """A request was sent to the deployment. `sent_s` on the monotonic clock tells it from others.

    `tokens` is what it is expected to use in all, `requests_per_min` and `tokens_per_min` what the deployment
    allows.
    """

    sent_s: float
    prompt_tokens: int = 0
    tokens: float = 0.0
    requests_per_min: float = UNLIMITED
    tokens_per_min: float = UNLIMITED


class FirstToken(Struct, frozen=True, kw_only=True):
    """The first content of an answer came, `ttft_ms` after its request was sent.

    `tokens_in_front` and `expected_s` are what the backlog and the forecast were when it was sent.
    """

    ttft_ms: float
    prompt_tokens: int = 0
    tokens_in_front: int = 0
    expected_s: float = 0.0
    is_missed: bool = False

    def lesson(self) -> Lesson:
        return forecasts.lesson_of(
            prompt_tokens=self.prompt_tokens,
            tokens_in_front=self.tokens_in_front,
            expected_s=self.expected_s,
            waited_s=self.ttft_ms / 1000,
            is_missed=self.is_missed,
        )


class Presumed(Struct, frozen=True, kw_only=True):
    """A plain answer's first token is taken to have come: the prompt leaves the backlog unlearnt."""

    prompt_tokens: int


class Progressed(Struct, frozen=True, kw_only=True):
    """A running stream's latest seconds per output token."""

    pace_s: float


class Finished(Struct, frozen=True, kw_only=True):
    """An answer came to its end.

    `generation_s` is from its first token to its last, where that was seen; `input_tokens` and
    `cache_read_tokens` are what the upstream reported of the prompt; 0: nothing. A plain answer shows its
    first token only now: `ttft_ms` after it was sent, and `prompt_tokens` leave the backlog unlearnt.
    """

    sent_s: float
    output_tokens: int
    generation_s: float | None = None
    input_tokens: int = 0
    cache_read_tokens: int = 0
    ttft_ms: float | None = None
    prompt_tokens: int = 0


class Failed(Struct, frozen=True, kw_only=True):
    """The deployment failed in a way that counts. `draw` in [0, 1) spreads the breaker's reopening.

    `unseen_tokens`: the prompt, where no first token had come; the limits where the provider refused by them.
    """

    sent_s: float
    draw: float
    retry_after_s: float = 0.0
    unseen_tokens: int = 0
    is_rate_limited: bool = False
    requests_per_min: float = UNLIMITED
    tokens_per_min: float = UNLIMITED


class Abandoned(Struct, frozen=True, kw_only=True):
    """A request ended without a verdict on the deployment: the client left, or its request was bad."""

    sent_s: float
    unseen_tokens: int = 0


class Shared(Struct, frozen=True, kw_only=True):
    """What the other processes did: their backlog and requests now, and what happened since they last told.

    `requests` and `tokens` are what they took of the deployment's limits meanwhile, `refusals` how often the
    provider refused them by its limits, `failures` and `successes` what counts for the breaker.
    `open_until_s`: their breaker opened until then, or closed (0).
    """

    in_flight: int = 0
    backlog_tokens: int = 0
    lesson: Lesson = NO_LESSON
    requests: int = 0
    tokens: float = 0.0
    refusals: int = 0
    failures: int = 0
    successes: int = 0
    open_until_s: float | None = None
    requests_per_min: float = UNLIMITED
    tokens_per_min: float = UNLIMITED


Event = Dispatched | FirstToken | Presumed | Progressed | Finished | Failed | Abandoned | Shared
States = Mapping[str, DeploymentState]
NOTHING_LEARNT = DeploymentState()


def observe(state: DeploymentState, event: Event, now_s: float) -> DeploymentState:
    """The next state. `now_s` is the caller's monotonic clock, the same that `choose` is given."""
    return _FOLDS[type(event)](state, event, now_s)


def _on_dispatch(state: DeploymentState, event: Dispatched, now_s: float) -> DeploymentState:
    quota = state.quota
    if event.requests_per_min != UNLIMITED or event.tokens_per_min != UNLIMITED:
        quota = quotas.on_dispatch(
            quota,
            requests_per_min=event.requests_per_min,
            tokens_per_min=event.tokens_per_min,
            tokens=event.tokens,
            now_s=now_s,
        )
    return replace(
        state,
        in_flight=state.in_flight + 1,
        forecast=forecasts.on_dispatch(state.forecast, prompt_tokens=event.prompt_tokens, now_s=now_s),
        quota=quota,
        breaker=breakers.on_dispatch(state.breaker, now_s=now_s, sent_s=event.sent_s),
    )


def _on_first_token(state: DeploymentState, event: FirstToken, now_s: float) -> DeploymentState:
    forecast = state.forecast
    if event.prompt_tokens:
        forecast = forecasts.on_first_token(forecast, lesson=event.lesson(), now_s=now_s)
    return replace(
        state,
        vitals=vital_signs.on_first_token(state.vitals, ttft_s=event.ttft_ms / 1000, now_s=now_s),
        miss_share=state.miss_share + MISS_WEIGHT * (float(event.is_missed) - state.miss_share),
        forecast=forecast,
    )


def _on_failure(state: DeploymentState, event: Failed, now_s: float) -> DeploymentState:
    quota = state.quota
    if event.is_rate_limited:
        quota = quotas.on_refusal(
            quota,
            requests_per_min=event.requests_per_min,
            tokens_per_min=event.tokens_per_min,
            now_s=now_s,
        )
    breaker = breakers.on_failure(
        state.breaker,
        now_s=now_s,
        sent_s=event.sent_s,
        draw=event.draw,
        retry_after_s=event.retry_after_s,
    )
    vitals = state.vitals
    if not event.is_rate_limited:
        vitals = vital_signs.on_failure(vitals, now_s=now_s)
    return replace(
        state,
        in_flight=max(state.in_flight - 1, 0),
        vitals=vitals,
        forecast=_without(state.forecast, event.unseen_tokens, now_s),
        quota=quota,
        breaker=breaker,
    )


def _on_shared(state: DeploymentState, event: Shared, now_s: float) -> DeploymentState:
    # Spelled out: this runs for each choice of another process, and `replace` costs three times as much.
    state = DeploymentState(
        in_flight=state.in_flight,
        others_in_flight=event.in_flight,
        vitals=state.vitals,
        output_tokens=state.output_tokens,
        pace_s=state.pace_s,
        pace_at_s=state.pace_at_s,
        miss_share=state.miss_share,
        forecast=forecasts.on_shared(
            state.forecast, others_tokens=event.backlog_tokens, lesson=event.lesson, now_s=now_s
        ),
        quota=state.quota,
        breaker=state.breaker,
        cache_hits=state.cache_hits,
    )
    if event.requests_per_min != UNLIMITED or event.tokens_per_min != UNLIMITED:
        state = replace(state, quota=_shared_quota(state.quota, event, now_s))
    if event.failures or (event.successes and state.breaker.consecutive_failures):
        breaker = breakers.on_shared_ends(
            state.breaker, failures=event.failures, successes=event.successes, now_s=now_s
        )
        state = replace(state, breaker=breaker)
    if event.open_until_s is not None:
        breaker = breakers.on_shared(state.breaker, open_until_s=event.open_until_s, now_s=now_s)
        state = replace(state, breaker=breaker)
    return state


def _shared_quota(quota: Quota, event: Shared, now_s: float) -> Quota:
    quota = quotas.on_dispatch(
        quota,
        requests=event.requests,
        requests_per_min=event.requests_per_min,
        tokens_per_min=event.tokens_per_min,
        tokens=event.tokens,
        now_s=now_s,
    )
    if not event.refusals:
        return quota
    return quotas.on_refusal(
        quota,
        requests_per_min=event.requests_per_min,
        tokens_per_min=event.tokens_per_min,
        now_s=now_s,
    )


def _without(forecast: Forecast, unseen_tokens: int, now_s: float) -> Forecast:
    return (
        forecasts.on_lost(forecast, prompt_tokens=unseen_tokens, now_s=now_s) if unseen_tokens else forecast
    )


def _paced(state: DeploymentState, pace_s: float, now_s: float) -> float:
    if state.pace_s is None:
        return pace_s
    decay = exp(-max(now_s - state.pace_at_s, 0.0) / PACE_TAU_S)
    return state.pace_s * decay + pace_s * (1.0 - decay)


def _blended(known: float | None, sample: float) -> float:
    return sample if known is None else known + EWMA_WEIGHT * (sample - known)


def _on_presumed(state: DeploymentState, event: Presumed, now_s: float) -> DeploymentState:
    return replace(state, forecast=_drained(state.forecast, event.prompt_tokens, now_s))


def _drained(forecast: Forecast, prompt_tokens: int, now_s: float) -> Forecast:
    lesson = Lesson(drained_tokens=prompt_tokens)
    return forecasts.on_first_token(forecast, lesson=lesson, now_s=now_s)


def _on_progress(state: DeploymentState, event: Progressed, now_s: float) -> DeploymentState:
    return replace(state, pace_s=_paced(state, event.pace_s, now_s), pace_at_s=now_s)


def _on_finish(state: DeploymentState, event: Finished, now_s: float) -> DeploymentState:
    hits, vitals, miss_share = state.cache_hits, state.vitals, state.miss_share
    if event.input_tokens:
        hits = cache_hits.on_answer(
            hits, read_tokens=event.cache_read_tokens, input_tokens=event.input_tokens, now_s=now_s
        )
    if event.ttft_ms is not None:
        vitals = vital_signs.on_first_token(vitals, ttft_s=event.ttft_ms / 1000, now_s=now_s)
        miss_share -= MISS_WEIGHT * miss_share
    forecast = state.forecast
    if event.prompt_tokens:
        forecast = _drained(forecast, event.prompt_tokens, now_s)
    return replace(
        state,
        in_flight=max(state.in_flight - 1, 0),
        vitals=vital_signs.on_answer(
            vitals,
            generation_s=event.generation_s,
            output_tokens=event.output_tokens,
            running_count=state.all_in_flight,
            now_s=now_s,
        ),
        output_tokens=_blended(state.output_tokens, float(event.output_tokens)),
        miss_share=miss_share,
        forecast=forecast,
        breaker=breakers.on_success(state.breaker, now_s=now_s, sent_s=event.sent_s),
        cache_hits=hits,
    )


def _on_abandon(state: DeploymentState, event: Abandoned, now_s: float) -> DeploymentState:
    return replace(
        state,
        in_flight=max(state.in_flight - 1, 0),
        forecast=_without(state.forecast, event.unseen_tokens, now_s),
        breaker=breakers.on_abandon(state.breaker, sent_s=event.sent_s),
    )


_FOLDS: Mapping[type[Event], Callable[[DeploymentState, Any, float], DeploymentState]] = {
    Dispatched: _on_dispatch,
    FirstToken: _on_first_token,
    Presumed: _on_presumed,
    Progressed: _on_progress,
    Finished: _on_finish,
    Failed: _on_failure,
    Abandoned: _on_abandon,
    Shared: _on_shared,
}
