"""From a chat completion's stream to the events of OpenAI's Responses API.

https://platform.openai.com/docs/api-reference/responses-streaming: response.created and in_progress, then
each item from output_item.added to output_item.done with its deltas between, then response.completed, or
incomplete, with the whole. That last one comes only at `[DONE]`, which follows the settlement; after
response.failed nothing comes.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.surfaces.blocks import (
    CALL,
    CLOSE,
    FAIL,
    OPEN,
    REFUSAL,
    SAY,
    START,
    TEXT,
    THINKING,
    WAIT,
    Block,
    BlockReader,
    Step,
)
from gateway.surfaces.responses_answer import (
    CALL_KIND,
    COMPLETED,
    MESSAGE_KIND,
    REASONING_KIND,
    call_item,
    ending,
    envelope,
    item_id,
    message_item,
    reasoning_item,
    reasoning_part,
    refusal_part,
    text_part,
    usage_members,
)
from gateway.surfaces.translation import Circumstances

Event = dict[str, Any]

IN_PROGRESS, FAILED = "in_progress", "failed"
KEEP_ALIVE = b": keep-alive\n\n"
PARTS = {THINKING: reasoning_part, TEXT: text_part, REFUSAL: refusal_part}
# The events of what a block says, and the member of the last one that has all of it.
SAYINGS = {
    THINKING: ("response.reasoning_text", "text"),
    TEXT: ("response.output_text", "text"),
    REFUSAL: ("response.refusal", "refusal"),
    CALL: ("response.function_call_arguments", "arguments"),
}
ID_KINDS = {THINKING: REASONING_KIND, TEXT: MESSAGE_KIND, REFUSAL: MESSAGE_KIND, CALL: CALL_KIND}
ERROR_CODES = {"rate_limit_error": "rate_limit_exceeded"}
ERROR_CODE = "server_error"


class ResponseStream:
    """One stream's state: what the open block said so far, and the items that are done."""

    def __init__(self, circumstances: Circumstances, *, asked: Mapping[str, Any]) -> None:
        self._circumstances = circumstances
        self._asked = asked
        self._blocks = BlockReader(circumstances, shows_thinking=True, has_signatures=False)
        self._said: list[str] = []
        self._items: list[Event] = []
        self._event_count = 0

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._frames(step) for step in self._blocks.feed(data))

    def _frames(self, step: Step) -> bytes:
        return KEEP_ALIVE if step.kind == WAIT else b"".join(map(self._frame, self._events(step)))

    def _frame(self, event: Event) -> bytes:
        event["sequence_number"] = self._event_count
        self._event_count += 1
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def _events(self, step: Step) -> list[Event]:
        if step.block is not None:
            return self._block_events(step, step.block)
        if step.kind == START:
            kinds = ("response.created", "response.in_progress")
            return [{"type": kind, "response": self._response(IN_PROGRESS)} for kind in kinds]
        if step.kind == FAIL:
            return [{"type": "response.failed", "response": self._failed(step.document)}]
        return [self._ended()]

    def _block_events(self, step: Step, block: Block) -> list[Event]:
        if step.kind == OPEN:
            return self._opened(block)
        if step.kind == SAY:
            return [self._delta(block, step.text)]
        assert step.kind == CLOSE, "there is no other step of a block"
        return self._closed(block)

    def _response(self, status: str) -> Event:
        start = envelope(self._circumstances, answer=self._blocks.first_chunk, asked=self._asked)
        tier = self._blocks.service_tier
        rest = {"incomplete_details": None, "service_tier": tier, "usage": None}
        return {**start, "status": status, "output": list(self._items), **rest}

    def _ended(self) -> Event:
        status, details = ending(self._blocks.last_choice)
        usage = usage_members(self._blocks.usage)
        whole = {**self._response(status), "incomplete_details": details, "usage": usage}
        return {"type": f"response.{status}", "response": whole}

    def _failed(self, error: Mapping[str, Any]) -> Event:
        code = ERROR_CODES.get(str(error.get("type")), ERROR_CODE)
        return {**self._response(FAILED), "error": {"code": code, "message": str(error.get("message"))}}

    def _opened(self, block: Block) -> list[Event]:
        self._said = []
        item = self._item(block, parts=[], arguments="", status=IN_PROGRESS)
        events: list[Event] = [
            {"type": "response.output_item.added", "output_index": block.number, "item": item}
        ]
        if block.call is None:
            part = PARTS[block.kind]("")
            events.append({"type": "response.content_part.added", **self._place(block), "part": part})
        return events

    def _delta(self, block: Block, text: str) -> Event:
        self._said.append(text)
        return {
            "type": f"{SAYINGS[block.kind][0]}.delta",
            **self._place(block),
            "delta": text,
            **_more(block),
        }

    def _closed(self, block: Block) -> list[Event]:
        text = "".join(self._said)
        kind, member = SAYINGS[block.kind]
        done = {"type": f"{kind}.done", **self._place(block), member: text, **_more(block)}
        if block.call is None:
            parts = [PARTS[block.kind](text)]
            item = self._item(block, parts=parts, arguments="", status=COMPLETED)
            part = {"type": "response.content_part.done", **self._place(block), "part": parts[0]}
            events = [done, part]
        else:
            item = self._item(block, parts=[], arguments=text, status=COMPLETED)
            events = [{**done, "name": block.call.name}]
        self._items.append(item)
        return [*events, {"type": "response.output_item.done", "output_index": block.number, "item": item}]

    def _place(self, block: Block) -> Event:
        place = {"item_id": self._item_id(block), "output_index": block.number}
        return place if block.call is not None else {**place, "content_index": 0}

    def _item_id(self, block: Block) -> str:
        return item_id(self._circumstances, kind=ID_KINDS[block.kind], number=block.number)

    def _item(self, block: Block, *, parts: list[Event], arguments: str, status: str) -> Event:
        own_id = self._item_id(block)
        if block.call is not None:
            return call_item(item_id=own_id, call=block.call, arguments=arguments, status=status)
        item = reasoning_item if block.kind == THINKING else message_item
        return item(item_id=own_id, parts=parts, status=status)


def _more(block: Block) -> Event:
    """Text has room for its tokens' probabilities, which are not told here."""
    return {"logprobs": []} if block.kind == TEXT else {}
