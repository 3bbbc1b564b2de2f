"""From a chat completion's plain answer to a response of OpenAI's Responses API.

https://platform.openai.com/docs/api-reference/responses/object
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.surfaces.calls import Call, whole_calls
from gateway.surfaces.chat_answer import read_answer, reasoning_of, said_of, usage_of
from gateway.surfaces.translation import Circumstances
from routing.types import Usage

Item = dict[str, Any]

COMPLETED, INCOMPLETE = "completed", "incomplete"
# What an item's id begins with.
REASONING_KIND, MESSAGE_KIND, CALL_KIND = "rs", "msg", "fc"
# Members of the request that a response repeats, and what stands there where it has none.
REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_of_answer(body: bytes, circumstances: Circumstances, *, asked: Mapping[str, Any]) -> bytes:
    """Raises UpstreamInvalidError for an answer without a message."""
    answer, choice, message = read_answer(body)
    status, details = ending(choice)
    return orjson.dumps(
        {
            **envelope(circumstances, answer=answer, asked=asked),
            "status": status,
            "incomplete_details": details,
            "output": _output(message, circumstances, status=status),
            "service_tier": answer.get("service_tier"),
            "usage": usage_members(usage_of(answer, circumstances, body_bytes=len(body))),
        }
    )


def envelope(
    circumstances: Circumstances, *, answer: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The members that are known from the start; the model as the upstream calls it, as in a chat."""
    model, created_s = said_of(answer, "model") or circumstances.model, answer.get("created")
    repeated = {
        name: default if asked.get(name) is None else asked[name] for name, default in REPEATED.items()
    }
    reasoning, text = asked.get("reasoning") or {}, asked.get("text") or {}
    return {
        "id": f"resp_{circumstances.token}",
        "object": "response",
        "created_at": created_s if isinstance(created_s, int) else 0,
        "model": model,
        "error": None,
        "background": False,
        "previous_response_id": None,
        # Whatever was asked: nothing is kept.
        "store": False,
        "truncation": "disabled",
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "text": {"format": {"type": "text"}, **text},
        **repeated,
    }


def ending(choice: Mapping[str, Any]) -> tuple[str, dict[str, str] | None]:
    """The status, and why it is incomplete if it is."""
    reason = REASONS.get(said_of(choice, "finish_reason"))
    return (COMPLETED, None) if reason is None else (INCOMPLETE, {"reason": reason})


def usage_members(usage: Usage) -> dict[str, Any]:
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": written,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def item_id(circumstances: Circumstances, *, kind: str, number: int) -> str:
    return f"{kind}_{circumstances.token}_{number}"


def reasoning_item(*, item_id: str, parts: list[Item], status: str) -> Item:
    """The thoughts as they were: nobody summarises or encrypts them."""
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": parts,
        "encrypted_content": None,
    }


def message_item(*, item_id: str, parts: list[Item], status: str) -> Item:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def call_item(*, item_id: str, call: Call, arguments: str, status: str) -> Item:
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }


def text_part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def refusal_part(text: str) -> Item:
    return {"type": "refusal", "refusal": text}


def reasoning_part(text: str) -> Item:
    return {"type": "reasoning_text", "text": text}


def _output(message: Mapping[str, Any], circumstances: Circumstances, *, status: str) -> list[Item]:
    items: list[Item] = []

    def next_id(kind: str) -> str:
        return item_id(circumstances, kind=kind, number=len(items))

    if thought := reasoning_of(message):
        parts = [reasoning_part(thought)]
        items.append(reasoning_item(item_id=next_id(REASONING_KIND), parts=parts, status=status))
    for name, part in (("content", text_part), ("refusal", refusal_part)):
        if text := said_of(message, name):
            items.append(message_item(item_id=next_id(MESSAGE_KIND), parts=[part(text)], status=status))
    for call in whole_calls(message, circumstances):
        said = call.arguments
        items.append(call_item(item_id=next_id(CALL_KIND), call=call, arguments=said, status=status))
    return items
