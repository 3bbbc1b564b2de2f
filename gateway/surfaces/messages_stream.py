"""From a chat completion's stream to the events of Anthropic's Messages API.

https://platform.claude.com/docs/en/build-with-claude/streaming: message_start, then for each block of content
its start, its deltas and its stop, then message_delta with the reason and the usage, then message_stop. Those
two come only at `[DONE]`, which follows the settlement; after an error event nothing comes.
"""

from typing import Any

import orjson

from gateway.surfaces.blocks import (
    CALL,
    CLOSE,
    FAIL,
    OPEN,
    REDACTED,
    REFUSAL,
    SAY,
    SIGN,
    START,
    TEXT,
    THINKING,
    WAIT,
    Block,
    BlockReader,
    Step,
)
from gateway.surfaces.messages_answer import ending, envelope, usage_members
from gateway.surfaces.messages_errors import error_of_event
from gateway.surfaces.translation import Circumstances

Event = dict[str, Any]

NOTHING_USED = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
STARTS: dict[str, Event] = {
    THINKING: {"type": "thinking", "thinking": "", "signature": ""},
    TEXT: {"type": "text", "text": ""},
    REFUSAL: {"type": "text", "text": ""},
}
# A delta's type and the member with what it says.
DELTAS = {
    THINKING: ("thinking_delta", "thinking"),
    TEXT: ("text_delta", "text"),
    REFUSAL: ("text_delta", "text"),
    CALL: ("input_json_delta", "partial_json"),
}
SIGNATURE = ("signature_delta", "signature")


class MessageStream:
    """One stream's state."""

    def __init__(self, circumstances: Circumstances, *, shows_thinking: bool) -> None:
        self._circumstances = circumstances
        self._blocks = BlockReader(circumstances, shows_thinking=shows_thinking, has_signatures=True)

    def feed(self, data: bytes) -> bytes:
        events = [event for step in self._blocks.feed(data) for event in self._events(step)]
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events
        )

    def _events(self, step: Step) -> list[Event]:
        if step.kind == START:
            return [{"type": "message_start", "message": self._beginning()}]
        if step.kind == WAIT:
            return [{"type": "ping"}]
        if step.kind == FAIL:
            return [error_of_event(step.document, request_id=self._circumstances.request_id)]
        if step.block is not None:
            return [_block_event(step, step.block)]
        return self._ending()

    def _beginning(self) -> Event:
        return {
            **envelope(self._circumstances, model=self._blocks.first_chunk.get("model")),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # What the prompt was is known at the end: message_delta tells it.
            "usage": NOTHING_USED,
        }

    def _ending(self) -> list[Event]:
        blocks = self._blocks
        delta = ending(blocks.last_choice, has_calls=blocks.has_calls)
        usage = usage_members(blocks.usage)
        return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def _block_event(step: Step, block: Block) -> Event:
    if step.kind == OPEN:
        return {"type": "content_block_start", "index": block.number, "content_block": _start(block)}
    if step.kind in {SAY, SIGN}:
        kind, member = SIGNATURE if step.kind == SIGN else DELTAS[block.kind]
        delta = {"type": kind, member: step.text}
        return {"type": "content_block_delta", "index": block.number, "delta": delta}
    assert step.kind == CLOSE, "there is no other step of a block"
    return {"type": "content_block_stop", "index": block.number}


def _start(block: Block) -> Event:
    if block.call is not None:
        return {"type": "tool_use", "id": block.call.id, "name": block.call.name, "input": {}}
    return {"type": REDACTED, "data": block.data} if block.kind == REDACTED else STARTS[block.kind]
