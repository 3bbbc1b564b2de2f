"""From a chat completion's stream to that of Google's Gemini API.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent: each event is a response with
what is new; a call comes whole; the last has the reason and the usage, at `[DONE]`, which follows the
settlement. Google's clients take neither comments nor an end mark.
"""

from typing import Any

import orjson

from gateway.surfaces.blocks import (
    CALL,
    CLOSE,
    END,
    FAIL,
    REFUSAL,
    SAY,
    TEXT,
    THINKING,
    WAIT,
    BlockReader,
    Step,
)
from gateway.surfaces.gemini_answer import (
    call_part,
    candidate_of,
    envelope,
    finish_reason,
    text_part,
    usage_members,
)
from gateway.surfaces.gemini_errors import error_of_event
from gateway.surfaces.translation import Circumstances

Event = dict[str, Any]


class GenerateStream:
    """One stream's state."""

    def __init__(self, circumstances: Circumstances, *, shows_thinking: bool) -> None:
        self._circumstances = circumstances
        self._blocks = BlockReader(circumstances, shows_thinking=shows_thinking, has_signatures=False)

    def feed(self, data: bytes) -> bytes:
        events = (self._event(step) for step in self._blocks.feed(data))
        return b"".join(b"data: %b\r\n\r\n" % orjson.dumps(event) for event in events if event is not None)

    def _event(self, step: Step) -> Event | None:
        block = step.block
        if step.kind == FAIL:
            return error_of_event(step.document)
        if step.kind == END:
            return self._ending()
        if step.kind == WAIT:
            return self._response([])
        if step.kind == SAY and block is not None and block.kind in {THINKING, TEXT, REFUSAL}:
            return self._response([text_part(step.text, is_thought=block.kind == THINKING)])
        if step.kind == CLOSE and block is not None and block.kind == CALL and block.call is not None:
            return self._response([call_part(block.call)])
        return None

    def _response(self, parts: list[dict[str, Any]]) -> Event:
        return {"candidates": [candidate_of(parts)], **self._envelope()}

    def _ending(self) -> Event:
        blocks = self._blocks
        candidate = candidate_of([], finish_reason=finish_reason(blocks.last_choice))
        return {"candidates": [candidate], "usageMetadata": usage_members(blocks.usage), **self._envelope()}

    def _envelope(self) -> Event:
        return envelope(self._circumstances, model=self._blocks.first_chunk.get("model"))
