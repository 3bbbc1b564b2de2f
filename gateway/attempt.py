"""One attempt at one deployment: what it is, what it has seen, and how it reads the answer."""

from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Struct

from billing.entries import Hold
from billing.group_commit import GroupCommit
from gateway.accounting import OutputBound
from gateway.completion import CompletionRequest
from gateway.errors import (
    UpstreamError,
    UpstreamInvalidError,
    UpstreamRefusedError,
)
from gateway.fleet import Target
from gateway.metering import (
    cost_from_openai,
    estimated_usage,
    exact_number,
    service_tier_said,
    usage_from_openai,
)
from gateway.outbox import Headers, Outbox, Reply
from gateway.patience import Patience
from gateway.refusal_kinds import FILTERED, is_filtered_whole
from gateway.streaming import StreamRelay
from gateway.upstream import UpstreamFailure, UpstreamResponse, failed_answer, read_body
from routing.types import Candidate, Usage

CHECKPOINT_INTERVAL_S = 0.9
# LiteLLM's own cost of a plain answer, in USD.
COST_HEADER = "x-litellm-response-cost"
# Frames beyond the limit on tokens before an upstream is held to ignore it: role, finish and usage frames.
FRAMES_SLACK_PER_CHOICE = 4


class _Answer(msgspec.Struct):
    """The members of a plain answer that we look at."""

    usage: object = None
    error: object = None
    service_tier: object = None
    object: str = ""


_answer_decoder = msgspec.json.Decoder(_Answer, float_hook=exact_number)


class Attempt(Struct, kw_only=True):
    """Its parts, and what the answer has shown so far. Times are monotonic seconds.

    The bound and the hold are as asked for until the hold is committed, then as granted.
    """

    request: CompletionRequest
    target: Target
    candidate: Candidate
    bound: OutputBound
    hold: Hold
    number: int
    request_started_s: float
    started_s: float
    # What the forecast said when it was sent: seconds to the first token, and prompt tokens in front.
    expected_s: float = 0.0
    tokens_in_front: int = 0
    # Its prompt while it counts in the cluster's backlog: until its first token is known or presumed.
    unseen_tokens: int = 0
    ttft_objective_s: float = 0.0
    # A plain answer that a content filter emptied is a failure then, and not the caller's answer.
    has_content_filter_fallbacks: bool = False
    ttft_s: float | None = None
    output_frames: int = 0
    reported_usage: object = None
    # What was reported, once it is whole and found to be possible.
    known_usage: Usage | None = None
    reported_service_tier: object = None
    reported_cost_header: str = ""

    @property
    def service_tier_said(self) -> str | None:
        return service_tier_said(self.reported_service_tier)

    def reported_cost_nanousd(self) -> int | None:
        """What the upstream itself said that it charges for the answer."""
        return cost_from_openai(self.reported_usage, header=self.reported_cost_header)

    def usage(self) -> Usage:
        """What the upstream reported, if it is possible at all; else an estimate, flagged."""
        return (
            self.known_usage
            or self.possible_usage(self.reported_usage)
            or estimated_usage(
                prompt_tokens_estimate=self.request.profile.prompt_tokens_estimate,
                output_tokens=min(
                    self.output_frames, self.bound.tokens_max * self.request.profile.choice_count
                ),
            )
        )

    def possible_usage(self, reported: object) -> Usage | None:
        """What was reported, unless it is above what can have been: the hold's bounds or full windows.

        An upstream that ignores max_tokens stays below the second: its surplus is booked as variance.
        """
        profile, window = self.request.profile, self.candidate.deployment.context_window
        return usage_from_openai(
            reported,
            input_tokens_max=max(profile.prompt_tokens_max, window * profile.choice_count),
            output_tokens_max=max(self.bound.tokens_max, window) * profile.choice_count,
            is_output_needed=profile.surface != "embeddings",
        )


class Reader:
    """Reads answers into outboxes. `clock` is monotonic, `wall_clock` for the ledger's moments."""

    def __init__(
        self,
        *,
        ledger: GroupCommit,
        on_first_token: Callable[[Attempt], None],
        on_progress: Callable[[Attempt], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
        response_bytes_max: int,
        line_bytes_max: int,
    ) -> None:
        self._ledger = ledger
        self._on_first_token = on_first_token
        self._on_progress = on_progress
        self._clock = clock
        self._wall_clock = wall_clock
        self.response_bytes_max = response_bytes_max
        self.line_bytes_max = line_bytes_max

    async def read_plain(self, attempt: Attempt, response: UpstreamResponse) -> bytes:
        """The whole body of a plain answer, checked to be one; its usage is noted on the attempt."""
        body = await read_body(response, bytes_max=self.response_bytes_max)
        try:
            answer = _answer_decoder.decode(body)
        except msgspec.DecodeError as error:
            raise failed_answer(UpstreamInvalidError("The upstream's answer is not JSON.")) from error
        if answer.error or not answer.object:
            raise failed_answer(UpstreamError("The upstream answered 200 with an error inside."))
        attempt.ttft_s = self._clock() - attempt.started_s
        attempt.reported_usage = answer.usage
        attempt.reported_service_tier = answer.service_tier
        attempt.reported_cost_header = response.headers.get(COST_HEADER, "")
        attempt.known_usage = attempt.possible_usage(answer.usage)
        if attempt.known_usage is None:
            attempt.output_frames = len(body) // 4
        if attempt.has_content_filter_fallbacks and is_filtered_whole(body):
            raise _filtered()
        return body

    async def relay_stream(
        self,
        attempt: Attempt,
        response: UpstreamResponse,
        outbox: Outbox,
        patience: Patience,
        headers: Headers,
    ) -> None:
        """Relay a stream up to, not including, its `[DONE]`.

        Until the first event is there and is no error, a fault raises UpstreamFailure and nothing has
        reached the caller; after it, UpstreamError. A stream that ends without every choice's
        finish_reason was cut, and is such a fault.
        """
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise failed_answer(UpstreamInvalidError("The upstream answered a stream with something else."))
        relay = StreamRelay(
            wants_usage=attempt.request.wants_usage,
            choice_count=attempt.request.profile.choice_count,
            line_bytes_max=self.line_bytes_max,
        )
        checkpoint_at_s = self._clock() + CHECKPOINT_INTERVAL_S
        try:
            async for chunk in response.chunks:
                data = relay.feed(chunk)
                self._note(attempt, relay)
                _check_limit(attempt)
                if data:
                    await self._pass_on(data, attempt, outbox, patience, headers)
                if relay.fault is not None:
                    raise relay.fault
                patience.on_progress()
                if relay.is_done:
                    break
                if self._clock() >= checkpoint_at_s:
                    checkpoint_at_s = self._clock() + CHECKPOINT_INTERVAL_S
                    self._checkpoint(attempt)
            if data := relay.finish():
                self._note(attempt, relay)
                await self._pass_on(data, attempt, outbox, patience, headers)
        except UpstreamError as error:
            self._note(attempt, relay)
            raise (error if outbox.is_started else failed_answer(error)) from error
        if not relay.is_complete:
            cut = UpstreamInvalidError("The upstream ended its stream before the answer was complete.")
            raise cut if outbox.is_started else failed_answer(cut)

    async def _pass_on(
        self, data: bytes, attempt: Attempt, outbox: Outbox, patience: Patience, headers: Headers
    ) -> None:
        if not outbox.is_started:
            attempt.ttft_s = self._clock() - attempt.started_s
            self._on_first_token(attempt)
            attempt.request.let_go()
            outbox.start(Reply(headers=headers, body=None))
        if not outbox.has_room:
            patience.wait_for_caller()
        await outbox.put(data)

    def _note(self, attempt: Attempt, relay: StreamRelay) -> None:
        attempt.reported_usage = relay.reported_usage
        attempt.reported_service_tier = relay.service_tier
        attempt.output_frames = relay.content_frames

    def _checkpoint(self, attempt: Attempt) -> None:
        self._on_progress(attempt)
        self._ledger.checkpoint(
            attempt_id=attempt.hold.attempt_id, output_tokens=attempt.output_frames, at=self._wall_clock()
        )


def _check_limit(attempt: Attempt) -> None:
    """Cut an upstream that ignores max_tokens: the hold covers no more than the bound."""
    choice_count = attempt.request.profile.choice_count
    frames_max = (attempt.bound.tokens_max + FRAMES_SLACK_PER_CHOICE) * choice_count
    if attempt.output_frames > frames_max and attempt.reported_usage is None:
        raise UpstreamInvalidError("The upstream went on past the limit on tokens; it was cut there.")


def _filtered() -> UpstreamFailure:
    """The upstream did its work and charges for it; the cluster is well."""
    error = UpstreamRefusedError(
        "The upstream's content filter left nothing of the answer.",
        upstream_status=400,
        param=None,
        code="content_filter",
    )
    return UpstreamFailure(
        error, is_sent=True, is_counted=False, is_retryable=False, refusal=FILTERED, is_billed=True
    )
