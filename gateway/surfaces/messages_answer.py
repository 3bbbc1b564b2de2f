"""From a chat completion's plain answer to a message of Anthropic's Messages API."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.surfaces.calls import whole_calls
from gateway.surfaces.chat_answer import (
    read_answer,
    reasoning_of,
    said_of,
    thinking_blocks_of,
    usage_of,
)
from gateway.surfaces.translation import Circumstances
from routing.types import Usage

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
TIERS = {"default": "standard", "standard": "standard", "priority": "priority"}


def message_of_answer(body: bytes, circumstances: Circumstances, *, shows_thinking: bool) -> bytes:
    """Raises UpstreamInvalidError for an answer without a message."""
    answer, choice, message = read_answer(body)
    content = _blocks(message, circumstances, shows_thinking=shows_thinking)
    usage = usage_members(usage_of(answer, circumstances, body_bytes=len(body)))
    tier = TIERS.get(said_of(answer, "service_tier"))
    return orjson.dumps(
        {
            **envelope(circumstances, model=answer.get("model")),
            "content": content,
            **ending(choice, has_calls=any(block["type"] == "tool_use" for block in content)),
            "usage": {**usage, "service_tier": tier},
        }
    )


def envelope(circumstances: Circumstances, *, model: object) -> dict[str, Any]:
    """The members that are known from the start; the model as the upstream calls it, as in a chat."""
    return {
        "id": f"msg_{circumstances.token}",
        "type": "message",
        "role": "assistant",
        "model": model if isinstance(model, str) else circumstances.model,
    }


def ending(choice: Mapping[str, Any], *, has_calls: bool) -> dict[str, Any]:
    """Why it ended. Which stop sequence it was only some backends say: vLLM and SGLang, each by its name."""
    reason = STOP_REASONS.get(said_of(choice, "finish_reason"), "end_turn")
    if reason == "end_turn" and has_calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    matched = said_of(choice, "stop_reason") or said_of(choice, "matched_stop")
    if reason == "end_turn" and matched:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": reason, "stop_sequence": None}


def usage_members(usage: Usage) -> dict[str, Any]:
    """`input_tokens` are those that no cache had to do with; the output's have all kinds in them."""
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    members: dict[str, Any] = {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        members["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return members


def _blocks(
    message: Mapping[str, Any], circumstances: Circumstances, *, shows_thinking: bool
) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if signed := thinking_blocks_of(message):
        hidden = {} if shows_thinking else {"thinking": ""}
        blocks += [block if "data" in block else {**block, **hidden} for block in signed]
    elif shows_thinking and (thought := reasoning_of(message)):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    blocks += [
        {"type": "text", "text": text} for name in ("content", "refusal") if (text := said_of(message, name))
    ]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments_object}
        for call in whole_calls(message, circumstances)
    ]
    return blocks
