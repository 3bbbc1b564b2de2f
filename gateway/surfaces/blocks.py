"""Puts a chat's stream into blocks that come one after the other: thoughts, text, refusals and tool calls."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.metering import estimated_usage, usage_from_openai
from gateway.surfaces.calls import Call, CallTable
from gateway.surfaces.chat_answer import (
    calls_of,
    first_choice,
    reasoning_of,
    said_of,
    thinking_blocks_of,
)
from gateway.surfaces.chunks import DONE, ERROR, KEEP_ALIVE, ChunkReader
from gateway.surfaces.translation import Circumstances
from routing.types import Usage

THINKING, REDACTED, TEXT, REFUSAL, CALL = "thinking", "redacted_thinking", "text", "refusal", "call"
START, OPEN, SAY, SIGN, CLOSE = "start", "open", "say", "sign", "close"
WAIT, FAIL, END = "wait", "fail", "end"


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """One block of content; `number` counts from 0. `data` is what is redacted."""

    kind: str
    number: int
    call: Call | None = None
    data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens next: a block opens, says some `text`, closes; FAIL has the error as `document`.

    SIGN has the maker's signature of a thinking block as `text`, just before its CLOSE.
    """

    kind: str
    block: Block | None = None
    text: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)


class BlockReader:
    """One stream's state. After FAIL and after END no step follows; what is known then stands here.

    `shows_thinking`: the thoughts themselves; `has_signatures`: those of makers that sign or redact thoughts.
    """

    def __init__(self, circumstances: Circumstances, *, shows_thinking: bool, has_signatures: bool) -> None:
        self._circumstances = circumstances
        self._shows_thinking = shows_thinking
        self._has_signatures = has_signatures
        self._chunks = ChunkReader()
        self._steps: list[Step] = []
        self._is_started = False
        self._is_over = False
        self._open: Block | None = None
        self._block_count = 0
        self._calls = CallTable(circumstances)
        # Calls that began while another was not whole.
        self._waiting: deque[Call] = deque()
        self._reported_usage: object = None
        self._content_chunks = 0
        self.first_chunk: Mapping[str, Any] = {}
        self.last_choice: Mapping[str, Any] = {}
        self.service_tier: object = None
        self.has_calls = False

    @property
    def usage(self) -> Usage:
        """What was told, else the estimate that the ledger makes too."""
        return usage_from_openai(self._reported_usage) or estimated_usage(
            prompt_tokens_estimate=self._circumstances.prompt_tokens_estimate,
            output_tokens=self._content_chunks,
        )

    def feed(self, data: bytes) -> list[Step]:
        for frame in self._chunks.feed(data):
            if self._is_over:
                break
            if frame.kind == DONE:
                self._end()
            elif frame.kind == ERROR:
                self._fail(frame.document)
            elif frame.kind == KEEP_ALIVE:
                self._steps.append(Step(kind=WAIT))
            else:
                self._take(frame.document)
        steps, self._steps = self._steps, []
        return steps

    def _take(self, chunk: Mapping[str, Any]) -> None:
        if not self._is_started:
            self._is_started = True
            self.first_chunk = chunk
            self._steps.append(Step(kind=START))
        self._reported_usage = chunk.get("usage") or self._reported_usage
        self.service_tier = chunk.get("service_tier") or self.service_tier
        choice = first_choice(chunk)
        if not choice:
            return
        self._content_chunks += 1
        delta = choice.get("delta") or {}
        if self._shows_thinking and (thought := reasoning_of(delta)):
            self._say(THINKING, thought)
        if self._has_signatures:
            for block in thinking_blocks_of(delta):
                self._take_signed(block)
        for kind, name in ((TEXT, "content"), (REFUSAL, "refusal")):
            if text := said_of(delta, name):
                self._say(kind, text)
        for said in calls_of(delta):
            self._call(said)
        if choice.get("finish_reason"):
            self.last_choice = choice

    def _say(self, kind: str, text: str) -> None:
        if self._open is None or self._open.kind != kind:
            self._open_waiting()
            self._open_block(kind)
        self._steps.append(Step(kind=SAY, block=self._open, text=text))

    def _take_signed(self, block: Mapping[str, Any]) -> None:
        """A signature ends the thoughts before it; where those are not shown it stands alone."""
        if data := said_of(block, "data"):
            self._open_block(REDACTED, data=data)
            self._close_block()
        elif signature := said_of(block, "signature"):
            if self._open is None or self._open.kind != THINKING:
                self._open_block(THINKING)
            self._steps.append(Step(kind=SIGN, block=self._open, text=signature))
            self._close_block()

    def _call(self, said: Mapping[str, Any]) -> None:
        """The open call goes on; another begins once that one is whole, and waits until then."""
        call, is_new = self._calls.take(said)
        if is_new:
            self.has_calls = True
            self._waiting.append(call)
        if call.is_closed:
            self._fail({"message": "The upstream went on with a tool call that had ended."})
            return
        if self._open is not None and call is self._open.call:
            self._say_arguments(call)
        while self._waiting and self._may_open_call:
            self._open_call(self._waiting.popleft())

    @property
    def _may_open_call(self) -> bool:
        return self._open is None or self._open.call is None or self._open.call.is_whole

    def _open_waiting(self) -> None:
        while self._waiting:
            self._open_call(self._waiting.popleft())

    def _open_call(self, call: Call) -> None:
        self._open_block(CALL, call=call)
        self._say_arguments(call)

    def _say_arguments(self, call: Call) -> None:
        if untold := call.take_untold():
            self._steps.append(Step(kind=SAY, block=self._open, text=untold))

    def _open_block(self, kind: str, *, call: Call | None = None, data: str = "") -> None:
        self._close_block()
        self._open = Block(kind=kind, number=self._block_count, call=call, data=data)
        self._block_count += 1
        self._steps.append(Step(kind=OPEN, block=self._open))

    def _close_block(self) -> None:
        if self._open is None:
            return
        if self._open.call is not None:
            self._open.call.is_closed = True
        self._steps.append(Step(kind=CLOSE, block=self._open))
        self._open = None

    def _fail(self, error: Mapping[str, Any]) -> None:
        self._steps.append(Step(kind=FAIL, document=error))
        self._is_over = True

    def _end(self) -> None:
        self._open_waiting()
        self._close_block()
        self._steps.append(Step(kind=END))
        self._is_over = True
