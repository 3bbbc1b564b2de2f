"""A translated chat as each OpenAI-compatible server takes it: without what only other makers can say."""

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

# Where a prompt may be kept for later, in Anthropic's words; gateway.dialects passes it on to who knows it.
CACHE_MARK = "cache_control"
THINKING = "thinking"
THINKING_BLOCKS = "thinking_blocks"
# Where Google's OpenAI-compatible API keeps a call's thought signature.
EXTRA = "extra_content"
# Between texts that stood apart.
JOINTS = {"system": "\n\n", "assistant": ""}


def portable_chat(document: Document, *, keeps_signatures: bool = False) -> dict[str, Any]:
    """A translated request's document for a server that speaks OpenAI's dialect.

    Texts become strings where they can be: every backend's chat template takes those. Signatures of calls
    are for their maker alone.
    """
    chat = _without(document, THINKING)
    chat["messages"] = [
        _message(message, keeps_signatures=keeps_signatures) for message in document["messages"]
    ]
    if "tools" in chat:
        chat["tools"] = [
            {**tool, "function": _without(tool["function"], CACHE_MARK)} for tool in chat["tools"]
        ]
    return chat


def signature_of(call: Mapping[str, Any]) -> str:
    """The thought signature that a tool call brought along; empty where it has none."""
    extra = call.get(EXTRA)
    google = extra.get("google") if isinstance(extra, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    return signature if isinstance(signature, str) else ""


def strict_chat(chat: Document) -> dict[str, Any]:
    """The same for OpenAI itself, which refuses the older name of the limit and thoughts of earlier turns."""
    strict = _without(chat, "max_tokens")
    if "max_tokens" in chat:
        strict["max_completion_tokens"] = chat["max_tokens"]
    strict["messages"] = [_without(message, "reasoning_content") for message in chat["messages"]]
    return strict


def _message(message: Document, *, keeps_signatures: bool) -> dict[str, Any]:
    portable = _without(_without(message, CACHE_MARK), THINKING_BLOCKS)
    content = message["content"]
    if isinstance(content, list):
        portable["content"] = _content(message["role"], [_without(part, CACHE_MARK) for part in content])
    if "tool_calls" in message:
        calls = [_without(call, CACHE_MARK) for call in message["tool_calls"]]
        portable["tool_calls"] = calls if keeps_signatures else [_without(call, EXTRA) for call in calls]
    return portable


def _content(role: str, parts: list[dict[str, Any]]) -> object:
    if role in JOINTS:
        return JOINTS[role].join(part["text"] for part in parts) or None
    is_text = len(parts) == 1 and parts[0]["type"] == "text"
    return parts[0]["text"] if is_text else parts


def _without(document: Document, name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
