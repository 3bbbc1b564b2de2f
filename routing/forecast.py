"""Predicts when a cluster's first token will come, from the prompts we sent it; a pure fold that forgets.

No polled metric is needed: a gateway knows which prompts it sent and when their first tokens came. The
prediction is seconds per prompt token in front times those tokens; its own recent error, and a margin that
holds the long-run share of missed objectives (adaptive conformal inference, Gibbs & Candès 2021), widen it.
Every term decays to its start, so no bad episode shuts a cluster out for ever.
"""

from math import exp, log, sqrt

from msgspec import Struct

# Drain observations fade with this time constant, errors of the prediction with the other.
DRAIN_TAU_S = 10.0
ERROR_TAU_S = 30.0
# A prior worth so many prompt tokens at the best slope seen, so that an idle cluster is always tried again.
PRIOR_TOKENS = 1000.0
SLOPE_START_S = 3e-4
SLOPE_SAMPLE_TOKENS_MIN = 256
SLOPE_CREEP = 0.002
# Errors are compared as logs of seconds, with so much added that milliseconds do not count.
FLOOR_S = 0.3
ERROR_WEIGHT = 0.02
ERROR_VARIANCE_START = 0.09
WIDEN_LOG_MIN, WIDEN_LOG_MAX = -0.3, 1.6
# The margin in standard deviations: where it starts, its bounds, its step, and the share of misses it holds.
MARGIN_START, MARGIN_MIN, MARGIN_MAX = 2.0, 1.0, 5.0
MARGIN_STEP = 0.15
MISS_SHARE = 0.005


class Forecast(Struct, frozen=True):
    """What one deployment's first tokens taught. Times are seconds of the caller's monotonic clock.

    `backlog_tokens` are prompt tokens that this process sent and whose first token has not come yet,
    `others_tokens` the same of the other processes, as far as they have told.
    """

    backlog_tokens: int = 0
    others_tokens: int = 0
    at_s: float = 0.0
    busy_s: float = 0.0
    drained_tokens: float = 0.0
    slope_best_s: float = SLOPE_START_S
    error_mean: float = 0.0
    error_variance: float = ERROR_VARIANCE_START
    error_at_s: float = 0.0
    margin: float = MARGIN_START


NEW = Forecast()


def first_token_s(forecast: Forecast, *, prompt_tokens: int, now_s: float) -> float:
    """The expected seconds from sending a prompt to its first token."""
    elapsed_s = now_s - forecast.at_s
    decay = exp(-elapsed_s / DRAIN_TAU_S) if elapsed_s > 0.0 else 1.0
    busy_s = forecast.busy_s * decay
    in_front = forecast.backlog_tokens + forecast.others_tokens
    if in_front > 0 and elapsed_s > 0.0:
        busy_s += elapsed_s
    best_s = forecast.slope_best_s
    if best_s > SLOPE_START_S:
        best_s = SLOPE_START_S + (best_s - SLOPE_START_S) * _kept(forecast, now_s)
    drained_tokens = forecast.drained_tokens * decay
    slope_s = (busy_s + PRIOR_TOKENS * best_s) / (drained_tokens + PRIOR_TOKENS)
    return slope_s * (in_front + prompt_tokens)


def cautious_s(forecast: Forecast, *, expected_s: float, now_s: float) -> float:
    """The expected seconds widened by the recent error and the margin."""
    kept = _kept(forecast, now_s)
    variance = forecast.error_variance * kept + ERROR_VARIANCE_START * (1.0 - kept)
    margin = forecast.margin
    if margin > MARGIN_START:
        margin = MARGIN_START + (margin - MARGIN_START) * kept
    widening = forecast.error_mean * kept + margin * sqrt(variance)
    if widening > WIDEN_LOG_MAX:
        widening = WIDEN_LOG_MAX
    elif widening < WIDEN_LOG_MIN:
        widening = WIDEN_LOG_MIN
    return (expected_s + FLOOR_S) * exp(widening) - FLOOR_S


def _kept(forecast: Forecast, now_s: float) -> float:
    """What is left of a bad past: the share that time has not taken since the latest first token."""
    elapsed_s = now_s - forecast.error_at_s
    return exp(-elapsed_s / ERROR_TAU_S) if elapsed_s > 0.0 else 1.0


def on_dispatch(forecast: Forecast, *, prompt_tokens: int, now_s: float) -> Forecast:
    backlog_tokens = forecast.backlog_tokens + prompt_tokens
    return _moved(forecast, backlog_tokens=backlog_tokens, others_tokens=forecast.others_tokens, now_s=now_s)


def on_lost(forecast: Forecast, *, prompt_tokens: int, now_s: float) -> Forecast:
    """A prompt's first token will never come: it failed, or its caller left."""
    backlog_tokens = max(forecast.backlog_tokens - prompt_tokens, 0)
    return _moved(forecast, backlog_tokens=backlog_tokens, others_tokens=forecast.others_tokens, now_s=now_s)


class Lesson(Struct, frozen=True, kw_only=True):
    """What first tokens said of the forecast: one, or those that another process saw together.

    `error_sum` and `error_square_sum` are of log((seconds waited + floor) / (seconds expected + floor)).
    `slope_s` is the least seen of seconds per token in front; None: too few tokens to tell.
    """

    drained_tokens: int
    count: int = 0
    error_sum: float = 0.0
    error_square_sum: float = 0.0
    missed_count: int = 0
    slope_s: float | None = None

    def __add__(self, other: "Lesson") -> "Lesson":
        slopes = [slope for slope in (self.slope_s, other.slope_s) if slope is not None]
        return Lesson(
            drained_tokens=self.drained_tokens + other.drained_tokens,
            count=self.count + other.count,
            error_sum=self.error_sum + other.error_sum,
            error_square_sum=self.error_square_sum + other.error_square_sum,
            missed_count=self.missed_count + other.missed_count,
            slope_s=min(slopes, default=None),
        )


def lesson_of(
    *, prompt_tokens: int, tokens_in_front: int, expected_s: float, waited_s: float, is_missed: bool
) -> Lesson:
    """A first token that came `waited_s` after its prompt was sent with `tokens_in_front`, its own included.

    `expected_s` is what first_token_s said then; `is_missed`: it came after the objective.
    """
    waited_s = max(waited_s, 1e-3)
    error = log((waited_s + FLOOR_S) / (max(expected_s, 0.01) + FLOOR_S))
    is_sample = tokens_in_front >= SLOPE_SAMPLE_TOKENS_MIN
    return Lesson(
        drained_tokens=prompt_tokens,
        count=1,
        error_sum=error,
        error_square_sum=error * error,
        missed_count=int(is_missed),
        slope_s=waited_s / tokens_in_front if is_sample else None,
    )


def on_first_token(forecast: Forecast, *, lesson: Lesson, now_s: float) -> Forecast:
    """A first token came to this process."""
    backlog_tokens = max(forecast.backlog_tokens - lesson.drained_tokens, 0)
    return _taught(
        forecast,
        backlog_tokens=backlog_tokens,
        others_tokens=forecast.others_tokens,
        lesson=lesson,
        now_s=now_s,
    )


def on_shared(forecast: Forecast, *, others_tokens: int, lesson: Lesson, now_s: float) -> Forecast:
    """The other processes told of their backlog, and of the first tokens they saw since they last did."""
    if not lesson.drained_tokens:
        return _moved(
            forecast, backlog_tokens=forecast.backlog_tokens, others_tokens=others_tokens, now_s=now_s
        )
    return _taught(
        forecast,
        backlog_tokens=forecast.backlog_tokens,
        others_tokens=others_tokens,
        lesson=lesson,
        now_s=now_s,
    )


def _taught(
    forecast: Forecast, *, backlog_tokens: int, others_tokens: int, lesson: Lesson, now_s: float
) -> Forecast:
    busy_s, drained_tokens = _drain(forecast, now_s=now_s)
    slope_best_s = forecast.slope_best_s
    if lesson.slope_s is not None:
        surplus_s = lesson.slope_s - slope_best_s
        slope_best_s += surplus_s if surplus_s < 0.0 else SLOPE_CREEP * surplus_s
    mean, variance = forecast.error_mean, forecast.error_variance
    margin, error_at_s = forecast.margin, forecast.error_at_s
    if lesson.count:
        decay = exp(-max(now_s - error_at_s, 0.0) / ERROR_TAU_S)
        mean *= decay
        variance = variance * decay + ERROR_VARIANCE_START * (1.0 - decay)
        weight = 1.0 - (1.0 - ERROR_WEIGHT) ** lesson.count
        seen = lesson.error_sum / lesson.count
        seen_variance = lesson.error_square_sum / lesson.count - 2.0 * mean * seen + mean * mean
        variance += weight * (seen_variance - variance)
        mean += weight * (seen - mean)
        margin += MARGIN_STEP * (lesson.missed_count - MISS_SHARE * lesson.count)
        error_at_s = now_s
    return Forecast(
        backlog_tokens,
        others_tokens,
        now_s,
        busy_s,
        drained_tokens + lesson.drained_tokens,
        slope_best_s,
        mean,
        variance,
        error_at_s,
        min(max(margin, MARGIN_MIN), MARGIN_MAX),
    )


def _moved(forecast: Forecast, *, backlog_tokens: int, others_tokens: int, now_s: float) -> Forecast:
    busy_s, drained_tokens = _drain(forecast, now_s=now_s)
    return Forecast(
        backlog_tokens,
        others_tokens,
        now_s,
        busy_s,
        drained_tokens,
        forecast.slope_best_s,
        forecast.error_mean,
        forecast.error_variance,
        forecast.error_at_s,
        forecast.margin,
    )


def _drain(forecast: Forecast, *, now_s: float) -> tuple[float, float]:
    """Seconds with a backlog, and tokens drained in them, both decayed to `now_s`."""
    elapsed_s = now_s - forecast.at_s
    if elapsed_s <= 0.0:
        return forecast.busy_s, forecast.drained_tokens
    decay = exp(-elapsed_s / DRAIN_TAU_S)
    busy_s = forecast.busy_s * decay
    is_busy = forecast.backlog_tokens + forecast.others_tokens > 0
    return (busy_s + elapsed_s if is_busy else busy_s), forecast.drained_tokens * decay
