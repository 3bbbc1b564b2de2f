"""Gives one answer of a stand-in, whole or as a stream, or only its beginning."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from clusters.demo.engine import Engine, Sequence
from clusters.demo.exchange import ClientGoneError, Exchange
from clusters.demo.ledger import Entry
from clusters.demo.replies import (
    DONE,
    ChunkMaker,
    Envelope,
    JsonObject,
    Usage,
    embedding_data,
    frame,
    usage_body,
    whole_body,
)
from clusters.demo.speech import Choice, Speech, Turn, plan_speech
from clusters.demo.vllm_metrics import VllmMetrics
from clusters.demo.wire import CompletionRequest, EmbeddingRequest

# An embedding is one step of the engine, which makes no token.
POOLING_STEP = Speech(choices=(Choice(index=0, reasoning=(), pieces=("",), finish_reason="stop"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all answers of one stand-in share."""

    engine: Engine
    metrics: VllmMetrics
    seed: int
    context_tokens_max: int


class Answer:
    """`give` follows the attributes below, which a fault may change first."""

    def __init__(
        self,
        *,
        request: CompletionRequest | EmbeddingRequest,
        exchange: Exchange,
        entry: Entry,
        envelope: Envelope,
        stage: Stage,
    ) -> None:
        self.request = request
        self.exchange = exchange
        self.slowness = 1.0
        # How usage is told; None: not at all.
        self.report: Callable[[Usage], JsonObject] | None = usage_body
        # True: usage stands on the chunk with finish_reason, not on a chunk of its own.
        self.reports_on_last_chunk = False
        self.fault_after_tokens = request.knobs.fault_after_tokens
        self.retry_after_s = request.knobs.retry_after_s
        self.speech = POOLING_STEP
        self._entry = entry
        self._envelope = envelope
        self._stage = stage
        self._is_open = False
        self._latest_s = 0.0
        self._finish_reason = "abort"
        if isinstance(request, CompletionRequest):
            self.plan(request)

    def plan(self, request: CompletionRequest) -> None:
        """Say what this request asks for, which need not be the one that was sent."""
        self.speech = plan_speech(
            request=request,
            seed=self._stage.seed,
            context_tokens_max=self._stage.context_tokens_max,
        )

    async def give(self) -> None:
        """The whole answer. Raises QueueFullError before anything is sent; else as `_batches`."""
        if isinstance(self.request, CompletionRequest) and self.request.is_stream:
            await self._give_stream(self.request)
        else:
            await self._give_whole()

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """The beginning of the answer; the slot is held until the block ends.

        A stream stops after `fault_after_tokens` tokens; of a whole answer half the bytes are sent.
        """
        count = min(self.fault_after_tokens, self.speech.tokens)
        async with self._slot() as sequence:
            if isinstance(self.request, CompletionRequest) and self.request.is_stream:
                await self.exchange.start_stream()
                await self._send_tokens(request=self.request, sequence=sequence, count=count)
            else:
                async for _ in self._batches(sequence=sequence, count=count):
                    pass
                body = orjson.dumps(self.body())
                length = {"content-length": str(len(body))}
                await self.exchange.start(media="application/json", headers=length)
                await self.exchange.send_bytes(body[: len(body) // 2])
            yield

    def body(self) -> JsonObject:
        """The whole answer as one object."""
        body = (
            whole_body(envelope=self._envelope, request=self.request, speech=self.speech)
            if isinstance(self.request, CompletionRequest)
            else embedding_data(request=self.request, seed=self._stage.seed)
        )
        if self.report is not None:
            body["usage"] = self.report(self._usage())
        return body

    async def _give_whole(self) -> None:
        async with self._slot() as sequence:
            async for _ in self._batches(sequence=sequence, count=self.speech.tokens):
                pass
            self._finish_reason = self.speech.choices[0].finish_reason
        await self.exchange.send_json(self.body())

    async def _give_stream(self, request: CompletionRequest) -> None:
        async with self._slot() as sequence:
            await self.exchange.start_stream()
            await self._send_tokens(request=request, sequence=sequence, count=self.speech.tokens)
            self._finish_reason = self.speech.choices[0].finish_reason
        chunks = self._chunks(request)
        last = [] if self._is_open else [*chunks.opening(self.speech.choices)]
        last += chunks.closing(self.speech.choices)
        if request.includes_usage and self.report is not None:
            usage = self.report(self._usage())
            if self.reports_on_last_chunk:
                last[-1]["usage"] = usage
            else:
                last.append(chunks.usage(usage))
        await self.exchange.end(b"".join(map(frame, last)) + DONE)

    async def _send_tokens(self, *, request: CompletionRequest, sequence: Sequence, count: int) -> None:
        chunks = self._chunks(request)
        async for turns in self._batches(sequence=sequence, count=count):
            frames = [frame(chunk) for chunk in chunks.content(turns)]
            if not self._is_open:
                self._is_open = True
                frames = [*map(frame, chunks.opening(self.speech.choices)), *frames]
            if frames:
                await self.exchange.send_bytes(b"".join(frames))

    async def _batches(self, *, sequence: Sequence, count: int) -> AsyncIterator[list[Turn]]:
        """The first `count` tokens, as the engine makes them.

        Raises SequenceCancelledError when the client has gone.
        """
        turns = self.speech.turns()
        position = 0
        while position < count:
            fresh = await self._stage.engine.next_tokens(sequence)
            batch = turns[position : min(position + fresh, count)]
            position += len(batch)
            self._count(sequence=sequence, tokens=len(batch))
            yield batch

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[Sequence]:
        sequence = self._new_sequence()
        self.exchange.on_gone = sequence.cancel
        if self.exchange.is_gone:
            raise ClientGoneError
        async with self._stage.engine.admit(sequence):
            try:
                yield sequence
            finally:
                self._stage.metrics.count_end(
                    model=self.request.model,
                    finish_reason=self._finish_reason,
                    latency_s=asyncio.get_running_loop().time() - sequence.arrived_s,
                )

    def _new_sequence(self) -> Sequence:
        prompt_tokens = self._prompt_tokens()
        cached_tokens = min(self.request.knobs.cached_tokens or 0, prompt_tokens)
        sequence = Sequence(
            model=self.request.model,
            prefill_tokens=prompt_tokens - cached_tokens,
            held_tokens=prompt_tokens,
            wanted_tokens=self.speech.tokens,
        )
        sequence.slowness = self.slowness
        # A whole answer without a speed limit comes at once.
        sequence.burst_tokens = 1 if self.request.is_stream else max(self.speech.tokens, 1)
        return sequence

    def _count(self, *, sequence: Sequence, tokens: int) -> None:
        now_s = asyncio.get_running_loop().time()
        made = tokens if isinstance(self.request, CompletionRequest) else 0
        self._entry.completion_tokens += made
        metrics, model = self._stage.metrics, self.request.model
        if self._latest_s:
            metrics.count_tokens(model=model, tokens=made, passed_s=now_s - self._latest_s)
        else:
            started_s = now_s if sequence.started_s is None else sequence.started_s
            metrics.count_prompt(
                model=model,
                tokens=sequence.held_tokens,
                cached_tokens=sequence.held_tokens - sequence.prefill_tokens,
                queue_s=started_s - sequence.arrived_s,
            )
            metrics.count_first_tokens(model=model, tokens=made, ttft_s=now_s - sequence.arrived_s)
        self._latest_s = now_s

    def _usage(self) -> Usage:
        knobs, prompt_tokens = self.request.knobs, self._prompt_tokens()
        cached = knobs.cached_tokens
        asked_reasoning = knobs.reasoning_tokens is not None
        is_embedding = isinstance(self.request, EmbeddingRequest)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=None if is_embedding else self.speech.tokens,
            cached_tokens=None if cached is None else min(cached, prompt_tokens),
            reasoning_tokens=self.speech.reasoning_tokens if asked_reasoning else None,
        )

    def _prompt_tokens(self) -> int:
        return sum(prompt.tokens for prompt in self.request.prompts)

    def _chunks(self, request: CompletionRequest) -> ChunkMaker:
        return ChunkMaker(
            envelope=self._envelope,
            request=request,
            marks_usage=request.includes_usage and self.report is not None,
        )
