"""What this process's traffic teaches routing: each attempt's events, folded into the deployments' states."""

import asyncio
import random
from collections.abc import Callable

from msgspec.structs import replace

from billing.entries import Settlement
from gateway.affinity import AffinityMemory
from gateway.attempt import Attempt
from gateway.errors import OverloadedError
from gateway.exchange import Exchange
from gateway.presumptions import CallLater, Presumptions
from gateway.upstream import UpstreamFailure
from routing import lengths
from routing.forecast import first_token_s
from routing.learning import (
    NOTHING_LEARNT,
    Abandoned,
    DeploymentState,
    Dispatched,
    Event,
    Failed,
    Finished,
    FirstToken,
    Presumed,
    Progressed,
    observe,
)
from routing.lengths import Lengths
from routing.quota import limit_of
from routing.types import Affinity, Deployment, RequestProfile

# Outcomes that say something bad about the cluster.
COUNTED_OUTCOMES = frozenset({"truncated"})
# Keys and models whose answers' lengths are remembered; the one not seen for longest goes first.
LENGTHS_MAX = 10_000
UNKNOWN = Lengths()


def call_later(delay_s: float, act: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(delay_s, act)


class Traffic:
    """The process's memory of its deployments. `call_later` runs a function some seconds from now."""

    def __init__(
        self, *, clock: Callable[[], float], exchange: Exchange, call_later: CallLater = call_later
    ) -> None:
        self.states: dict[str, DeploymentState] = {}
        self.affinity = AffinityMemory()
        self._clock = clock
        self._exchange = exchange
        self._presumptions = Presumptions(clock=clock, call_later=call_later, on_due=self._presume_due)
        self._lengths: dict[tuple[str, str], Lengths] = {}

    def asked(
        self,
        profile: RequestProfile,
        *,
        key_id: str,
        waited_s: float,
        tried: frozenset[str],
        affinity: Affinity | None = None,
    ) -> RequestProfile:
        """The request with what is known of its like, for the choice that comes now.

        What the other processes did meanwhile is in the states then.
        """
        self._exchange.hear(self.states, now_s=self._clock())
        known = self._lengths.get((key_id, profile.model))
        expected = profile.output_tokens_expected
        if known is not None:
            expected = lengths.expected_tokens(known, prompt_tokens=profile.prompt_tokens_estimate)
        return replace(
            profile, output_tokens_expected=expected, waited_s=waited_s, tried=tried, affinity=affinity
        )

    def takes_place(self, deployment: Deployment, *, now_s: float) -> bool:
        """Whether the chosen deployment has a place left, all processes of this node counted."""
        return self._exchange.takes_place(deployment, self.states, now_s=now_s)

    def on_dispatch(self, attempt: Attempt, *, now_s: float) -> None:
        """Counted at once, before anything is awaited. A plain answer does not tell when it begins.

        Its first token is presumed to have come when it was expected.
        """
        deployment, profile = attempt.candidate.deployment, attempt.request.profile
        state = self.states.get(deployment.id, NOTHING_LEARNT)
        if deployment.cluster_kind == "own":
            forecast = state.forecast
            prompt_tokens = profile.prompt_tokens_estimate
            attempt.expected_s = first_token_s(forecast, prompt_tokens=prompt_tokens, now_s=now_s)
            attempt.tokens_in_front = forecast.backlog_tokens + forecast.others_tokens + prompt_tokens
            attempt.unseen_tokens = prompt_tokens
            if not attempt.request.is_stream:
                self._presumptions.add(attempt, delay_s=attempt.expected_s)
        event = Dispatched(
            sent_s=attempt.started_s,
            prompt_tokens=attempt.unseen_tokens,
            tokens=profile.prompt_tokens_estimate + (profile.output_tokens_expected or 0.0),
            requests_per_min=limit_of(deployment.rpm_max),
            tokens_per_min=limit_of(deployment.tpm_max),
        )
        self._fold(attempt.candidate.deployment, event, now_s)

    def on_first_token(self, attempt: Attempt) -> None:
        """The first content of a stream was seen."""
        assert attempt.ttft_s is not None
        now_s = self._clock()
        # A queue that others emptied must not count as one that was worked at all the while.
        self._exchange.hear(self.states, now_s=now_s)
        event = FirstToken(
            ttft_ms=attempt.ttft_s * 1000,
            prompt_tokens=attempt.unseen_tokens,
            tokens_in_front=attempt.tokens_in_front,
            expected_s=attempt.expected_s,
            is_missed=now_s - attempt.request_started_s > attempt.ttft_objective_s,
        )
        attempt.unseen_tokens = 0
        self._fold(attempt.candidate.deployment, event, now_s)

    def on_progress(self, attempt: Attempt) -> None:
        """A stream runs: how fast, by the frames since its first."""
        if attempt.ttft_s is None or attempt.output_frames < 2:
            return
        now_s = self._clock()
        running_s = now_s - attempt.started_s - attempt.ttft_s
        event = Progressed(pace_s=running_s / (attempt.output_frames - 1))
        self._fold(attempt.candidate.deployment, event, now_s)

    def on_failure(self, attempt: Attempt, failed: UpstreamFailure, *, now_s: float) -> None:
        """An attempt failed before any content."""
        unseen_tokens, attempt.unseen_tokens = attempt.unseen_tokens, 0
        deployment = attempt.candidate.deployment
        if not failed.is_counted:
            self._fold(deployment, Abandoned(sent_s=attempt.started_s, unseen_tokens=unseen_tokens), now_s)
            return
        event = Failed(
            sent_s=attempt.started_s,
            draw=_draw(),
            retry_after_s=failed.retry_after_s,
            unseen_tokens=unseen_tokens,
            is_rate_limited=isinstance(failed.error, OverloadedError),
            requests_per_min=limit_of(deployment.rpm_max),
            tokens_per_min=limit_of(deployment.tpm_max),
        )
        self._fold(attempt.candidate.deployment, event, now_s)

    def on_end(self, attempt: Attempt, settlement: Settlement, *, now_s: float) -> None:
        """A settled attempt that had content, or whose caller left."""
        is_plain = not attempt.request.is_stream
        if is_plain and settlement.outcome != "ok":
            self._presume(attempt, now_s=now_s)
        unseen_tokens, attempt.unseen_tokens = attempt.unseen_tokens, 0
        event: Event = Abandoned(sent_s=attempt.started_s, unseen_tokens=unseen_tokens)
        if settlement.outcome == "ok":
            self._note_length(attempt, settlement)
            if unseen_tokens:
                # A queue that others emptied must not count as one that was worked at all the while.
                self._exchange.hear(self.states, now_s=now_s)
            usage = settlement.usage
            event = Finished(
                sent_s=attempt.started_s,
                output_tokens=usage.output_tokens,
                generation_s=_generation_s(attempt, now_s=now_s),
                input_tokens=0 if usage.is_estimate else usage.input_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                # The whole answer: the policy `latency` goes by it where nothing streams.
                ttft_ms=attempt.ttft_s * 1000 if is_plain and attempt.ttft_s is not None else None,
                prompt_tokens=unseen_tokens,
            )
        elif settlement.outcome in COUNTED_OUTCOMES and settlement.error_code != "draining":
            event = Failed(sent_s=attempt.started_s, draw=_draw(), unseen_tokens=unseen_tokens)
        self._fold(attempt.candidate.deployment, event, now_s)

    def on_lost(self, attempt: Attempt, *, now_s: float) -> None:
        """An attempt whose end could not be booked: the cluster is not to blame."""
        unseen_tokens, attempt.unseen_tokens = attempt.unseen_tokens, 0
        event = Abandoned(sent_s=attempt.started_s, unseen_tokens=unseen_tokens)
        self._fold(attempt.candidate.deployment, event, now_s)

    def _presume_due(self, now_s: float) -> None:
        """Those of one deployment together: they come at the same moment, to the ring's precision."""
        due: dict[str, tuple[Deployment, int]] = {}
        for attempt in self._presumptions.take_due(now_s):
            deployment = attempt.candidate.deployment
            tokens, attempt.unseen_tokens = attempt.unseen_tokens, 0
            _, before = due.get(deployment.id, (deployment, 0))
            due[deployment.id] = deployment, before + tokens
        if due:
            self._exchange.hear(self.states, now_s=now_s)
        for deployment, tokens in due.values():
            self._fold(deployment, Presumed(prompt_tokens=tokens), now_s)

    def _presume(self, attempt: Attempt, *, now_s: float) -> None:
        """Its end is the latest moment at which the first token can have come."""
        if attempt.unseen_tokens:
            unseen_tokens, attempt.unseen_tokens = attempt.unseen_tokens, 0
            self._exchange.hear(self.states, now_s=now_s)
            self._fold(attempt.candidate.deployment, Presumed(prompt_tokens=unseen_tokens), now_s)

    def _note_length(self, attempt: Attempt, settlement: Settlement) -> None:
        profile, usage = attempt.request.profile, settlement.usage
        if usage.is_estimate or profile.surface == "embeddings":
            return
        place = (settlement.hold.attribution["key_id"], profile.model)
        known = self._lengths.pop(place, UNKNOWN)
        if len(self._lengths) >= LENGTHS_MAX:
            self._lengths.pop(next(iter(self._lengths)))
        self._lengths[place] = lengths.on_answer(
            known,
            prompt_tokens=profile.prompt_tokens_estimate,
            output_tokens=usage.output_tokens // profile.choice_count,
        )

    def _fold(self, deployment: Deployment, event: Event, now_s: float) -> None:
        before = self.states.get(deployment.id, NOTHING_LEARNT)
        after = self.states[deployment.id] = observe(before, event, now_s)
        self._exchange.tell(deployment.id, event, before=before, after=after)


def _generation_s(attempt: Attempt, *, now_s: float) -> float | None:
    """A plain answer comes whole: when its first token was made nobody saw."""
    if attempt.ttft_s is None or not attempt.request.is_stream:
        return None
    return now_s - attempt.started_s - attempt.ttft_s


def _draw() -> float:
    return random.random()  # noqa: S311 -- spreads the breakers' reopening
