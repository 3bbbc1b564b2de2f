"""Carries one attempt: send, relay, settle, and only then the last byte."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from billing.entries import Settlement
from billing.group_commit import GroupCommit
from clusters.signing import concealed
from gateway.accounting import NOTHING_USED, settlement_of
from gateway.attempt import Attempt, Reader
from gateway.dialects.dialect import Call
from gateway.errors import DrainingError, GatewayError, UpstreamError, UpstreamTimeoutError
from gateway.events import Observer
from gateway.metering import estimated_usage
from gateway.outbox import Headers, Outbox, Reply
from gateway.overload import UNCOUNTED, Work
from gateway.patience import Patience
from gateway.providers import dialect_of
from gateway.pumps import PumpSet
from gateway.sending import Message, Sender
from gateway.streaming import DONE
from gateway.translation import sent_body, translated
from gateway.upstream import UpstreamFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long an answer may take to its first byte, between bytes and in all.

    A plain answer shows nothing until it is whole: `plain_s` is the limit of one attempt at it, less than
    `total_s`, so that a cluster that fell silent leaves time for another.
    """

    first_byte_s: float
    plain_s: float
    idle_s: float
    total_s: float


class _Ending(Struct, frozen=True, kw_only=True):
    """How reading ended: the outcome of the row, and what the caller is told if not all went well."""

    outcome: str = "ok"
    error: GatewayError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The process's parts that an attempt needs; made once, in gateway.lifespan."""

    limits: Limits
    ledger: GroupCommit
    sender: Sender
    reader: Reader
    pumps: PumpSet
    observer: Observer
    clock: Callable[[], float]
    wall_clock: Callable[[], datetime]

    async def carry(
        self,
        attempt: Attempt,
        outbox: Outbox,
        *,
        request_id: str,
        headers: Headers,
        work: Work = UNCOUNTED,
    ) -> Settlement:
        """Deliver the attempt's answer into the outbox; give back what it was settled as.

        The work is put down while the upstream is waited for.

        Raises UpstreamFailure while nothing has reached the caller: the attempt is not settled then.
        After that every fault is told in the stream, and settled all the same.
        """
        work.put_down()
        try:
            body, ending = await self._read_whole(attempt, outbox, request_id=request_id, headers=headers)
        finally:
            work.take_up()
        settlement = self._settlement(attempt, ending)
        await self.ledger.settle(settlement)
        self.observer.on_end(attempt, settlement, request_id=request_id, now_s=self.clock())
        if ending.error is not None:
            outbox.fail(ending.error)
        elif attempt.request.is_stream:
            await outbox.complete(Reply(headers=headers, body=None), last=DONE)
        else:
            await outbox.complete(Reply(headers=headers, body=body))
        return settlement

    def settlement_of_failure(self, attempt: Attempt, failed: UpstreamFailure) -> Settlement:
        """A failure before any content: free, unless the upstream may be working on it unseen, or charges."""
        is_unseen = failed.is_sent and isinstance(failed.error, UpstreamTimeoutError)
        prompt_tokens = attempt.request.profile.prompt_tokens_estimate
        usage = estimated_usage(prompt_tokens_estimate=prompt_tokens, output_tokens=0)
        if failed.is_billed:
            usage = attempt.usage()
        return settlement_of(
            hold=attempt.hold,
            rate=attempt.candidate.deployment.rate,
            usage=usage if is_unseen or failed.is_billed else NOTHING_USED,
            outcome="failed",
            error_code=failed.error.code,
            ttft_ms=None,
            duration_ms=self._duration_ms(attempt),
            now=self.wall_clock(),
        )

    async def _read_whole(
        self, attempt: Attempt, outbox: Outbox, *, request_id: str, headers: Headers
    ) -> tuple[bytes, _Ending]:
        patience = self._patience(attempt)
        self.pumps.track(patience, outbox)
        try:
            async with patience:
                body = await self._read(attempt, outbox, patience, request_id=request_id, headers=headers)
        except TimeoutError as timeout:
            ending = self._ending_of_timeout(attempt, outbox, patience)
            if ending.error is not None and not outbox.is_started and not outbox.is_abandoned:
                retryable = not patience.is_cut
                raise UpstreamFailure(ending.error, is_sent=True, is_retryable=retryable) from timeout
            return b"", ending
        except UpstreamFailure as failed:
            if not outbox.is_started:
                raise
            return b"", _Ending(outcome="truncated", error=failed.error)
        except GatewayError as fault:
            return b"", _Ending(outcome="truncated", error=fault)
        finally:
            self.pumps.untrack(patience, outbox)
        return body, _Ending(outcome="cancelled" if outbox.is_abandoned else "ok")

    async def _read(
        self, attempt: Attempt, outbox: Outbox, patience: Patience, *, request_id: str, headers: Headers
    ) -> bytes:
        target, call = attempt.target, self._call(attempt)
        dialect = dialect_of(target.backend)
        # In no name of this frame: an open stream does not keep what was sent.
        response, key = await self.sender.send(
            target,
            Message(
                path=dialect.path(call),
                body=sent_body(dialect, call),
                request_id=request_id,
                attempt_id=str(attempt.hold.attempt_id),
                tokens=call.request.profile.prompt_tokens_estimate,
            ),
        )
        try:
            answer = translated(
                response,
                dialect=dialect,
                call=call,
                answer_bytes_max=self.reader.response_bytes_max,
                line_bytes_max=self.reader.line_bytes_max,
            )
            if not call.request.is_stream:
                return await self.reader.read_plain(attempt, answer)
            await self.reader.relay_stream(attempt, answer, outbox, patience, headers)
        except UpstreamError as fault:
            # What it says of itself may repeat what it was sent.
            fault.message = concealed(fault.message, signer=key.signer if key else target.signer)
            fault.args = (fault.message,)
            raise
        else:
            return b""
        finally:
            await self.sender.end(response, key)

    def _call(self, attempt: Attempt) -> Call:
        bound = attempt.bound
        return Call(
            request=attempt.request,
            endpoint=attempt.target.endpoint,
            upstream_name=attempt.target.upstream_name,
            output_tokens_max=bound.tokens_max if bound.is_injected else None,
            output_tokens_bound=bound.tokens_max,
            attempt_id=attempt.hold.attempt_id,
            created_at=self.wall_clock(),
        )

    def _patience(self, attempt: Attempt) -> Patience:
        limits = self.limits
        first_byte_s = limits.first_byte_s if attempt.request.is_stream else limits.plain_s
        left_s = limits.total_s - (self.clock() - attempt.request_started_s)
        return Patience(first_byte_s=first_byte_s, idle_s=limits.idle_s, total_s=max(left_s, 0.0))

    def _ending_of_timeout(self, attempt: Attempt, outbox: Outbox, patience: Patience) -> _Ending:
        if patience.is_cut:
            error: GatewayError = DrainingError("This gateway is shutting down and cut the answer here.")
            return _Ending(outcome="truncated", error=error)
        if outbox.is_abandoned:
            return _Ending(outcome="cancelled")
        cluster = attempt.candidate.deployment.cluster
        return _Ending(outcome="truncated", error=UpstreamTimeoutError(f"Cluster {cluster} fell silent."))

    def _settlement(self, attempt: Attempt, ending: _Ending) -> Settlement:
        return settlement_of(
            hold=attempt.hold,
            rate=attempt.candidate.deployment.rate,
            usage=attempt.usage(),
            service_tier_said=attempt.service_tier_said,
            reported_cost_nanousd=attempt.reported_cost_nanousd(),
            outcome=ending.outcome,
            error_code=ending.error.code if ending.error else "",
            ttft_ms=None if attempt.ttft_s is None else int(attempt.ttft_s * 1000),
            duration_ms=self._duration_ms(attempt),
            now=self.wall_clock(),
        )

    def _duration_ms(self, attempt: Attempt) -> int:
        return int((self.clock() - attempt.started_s) * 1000)
