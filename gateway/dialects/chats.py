"""What OpenAI's chat answers are made of, for makers who send theirs in blocks: envelopes, calls, counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.dialects.events import ChunkWriter

# The tool whose arguments are the answer, for models that give JSON in no other way.
JSON_TOOL = "answer_in_json"
JSON_TOOL_DESCRIPTION = "Give the answer as JSON by calling this tool."
ANY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": True}


def chat_answer(
    *,
    answer_id: object,
    created_s: int,
    model: object,
    choices: Sequence[Mapping[str, Any]],
    usage: Mapping[str, Any] | None,
    **members: object,
) -> bytes:
    """A whole chat completion; `members` stand beside its usage."""
    return orjson.dumps(
        {
            "id": answer_id,
            "object": "chat.completion",
            "created": created_s,
            "model": model,
            "choices": choices,
            "usage": usage,
            **members,
        }
    )


def chat_choice(message: Mapping[str, Any], *, finish_reason: str, index: object = 0) -> dict[str, Any]:
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def finish_reason(stop_reason: object, *, reasons: Mapping[str, str], is_json: bool) -> str:
    """OpenAI's word; a call of the JSON tool is an answer that ended."""
    return "stop" if is_json and stop_reason == "tool_use" else reasons.get(str(stop_reason), "stop")


def said_or_called(
    text: str, calls: Sequence[Mapping[str, Any]], *, tool_calls: list[dict[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """An assistant's message, and whether its answer is the JSON tool's `input`, of the maker's own calls."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    is_json = any(call.get("name") == JSON_TOOL for call in calls)
    if is_json:
        message["content"] = orjson.dumps(calls[0].get("input")).decode()
    elif tool_calls:
        message["tool_calls"] = tool_calls
    return message, is_json


def tool_call(*, call_id: object, name: object, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def cached_usage(
    *, fresh: object, read: int, written: int, output: object, writes: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """OpenAI's `usage`, whose prompt tokens include what was read from and written to the cache.

    `writes` tells what was written by how long it is kept; None, where the maker named no counts at all.
    """
    if not isinstance(fresh, int) or not isinstance(output, int):
        return None
    prompt: dict[str, Any] = {"cached_tokens": read, "cache_creation_tokens": written}
    if writes is not None:
        prompt["cache_creation_token_details"] = dict(writes)
    total = fresh + read + written
    return {
        "prompt_tokens": total,
        "completion_tokens": output,
        "total_tokens": total + output,
        "prompt_tokens_details": prompt,
    }


class CallBlocks:
    """The tool calls of one stream, whose arguments come in blocks; each method gives what may be sent on."""

    def __init__(self, writer: ChunkWriter) -> None:
        self._writer = writer
        # By block: the position of its call, -1 for the tool whose arguments are the answer.
        self._positions: dict[int, int] = {}
        self._silent: set[int] = set()  # calls whose arguments have not come

    @property
    def is_json(self) -> bool:
        """Whether the answer is what the JSON tool was called with."""
        return -1 in self._positions.values()

    def begin(self, block: int, *, call_id: object, name: object) -> bytes:
        self._silent.add(block)
        if name == JSON_TOOL:
            self._positions[block] = -1
            return b""
        position = self._positions[block] = sum(place >= 0 for place in self._positions.values())
        call = {**tool_call(call_id=call_id, name=name, arguments=""), "index": position}
        return self._writer.delta({"tool_calls": [call]})

    def add(self, block: int, text: str) -> bytes:
        """A piece of the arguments; of a tool that the maker runs itself nothing is told."""
        if block not in self._positions:
            return b""
        self._silent.discard(block)
        if self._positions[block] < 0:
            return self._writer.delta({"content": text})
        call = {"index": self._positions[block], "function": {"arguments": text}}
        return self._writer.delta({"tool_calls": [call]})

    def end(self, block: int) -> bytes:
        """A call without arguments is a call with none: clients parse them."""
        return self.add(block, "{}") if block in self._silent else b""
