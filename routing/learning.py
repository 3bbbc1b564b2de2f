"""What live traffic teaches about a deployment, as a pure fold over events."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from routing import breaker as breakers
from routing.breaker import Breaker

EWMA_WEIGHT = 0.2
CLOSED = Breaker()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """One deployment's state in one process. `None`: not seen yet."""

    in_flight: int = 0
    ttft_ms: float | None = None
    duration_ms: float | None = None
    output_tokens: float | None = None
    breaker: Breaker = CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """A request was sent to the deployment. `sent_s` on the monotonic clock tells it from others."""

    sent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """The first content of an answer came."""

    ttft_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An answer came to its end."""

    sent_s: float
    duration_ms: float
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The deployment failed in a way that counts. `draw` in [0, 1) spreads the breaker's reopening."""

    sent_s: float
    draw: float
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A request ended without a verdict on the deployment: the client left, or its request was bad."""

    sent_s: float


Event = Dispatched | FirstToken | Finished | Failed | Abandoned
States = Mapping[str, DeploymentState]
NOTHING_LEARNT = DeploymentState()


def observe(state: DeploymentState, event: Event, now_s: float) -> DeploymentState:
    """The next state. `now_s` is the caller's monotonic clock, the same that `choose` is given."""
    match event:
        case Dispatched():
            breaker = breakers.on_dispatch(state.breaker, now_s=now_s, sent_s=event.sent_s)
            return replace(state, in_flight=state.in_flight + 1, breaker=breaker)
        case FirstToken():
            return replace(state, ttft_ms=_blended(state.ttft_ms, event.ttft_ms))
        case Finished():
            return replace(
                state,
                in_flight=max(state.in_flight - 1, 0),
                duration_ms=_blended(state.duration_ms, event.duration_ms),
                output_tokens=_blended(state.output_tokens, float(event.output_tokens)),
                breaker=breakers.on_success(state.breaker, now_s=now_s, sent_s=event.sent_s),
            )
        case Failed():
            breaker = breakers.on_failure(
                state.breaker,
                now_s=now_s,
                sent_s=event.sent_s,
                draw=event.draw,
                retry_after_s=event.retry_after_s,
            )
            return replace(state, in_flight=max(state.in_flight - 1, 0), breaker=breaker)
        case Abandoned():
            breaker = breakers.on_abandon(state.breaker, sent_s=event.sent_s)
            return replace(state, in_flight=max(state.in_flight - 1, 0), breaker=breaker)


def _blended(before: float | None, sample: float) -> float:
    return sample if before is None else before + EWMA_WEIGHT * (sample - before)
