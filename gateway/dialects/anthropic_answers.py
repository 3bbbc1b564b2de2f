"""Anthropic's answers and event streams in OpenAI's words.

The events are those of https://platform.claude.com/docs/en/build-with-claude/streaming. Thinking becomes
`reasoning_content`; its signatures travel in `thinking_blocks`, to be sent back with the next turn.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.dialects.chats import (
    CallBlocks,
    cached_usage,
    chat_answer,
    chat_choice,
    finish_reason,
    said_or_called,
    tool_call,
)
from gateway.dialects.events import DONE, ChunkWriter, EventReader, decoded
from gateway.errors import UpstreamInvalidError

SERVICE_TIERS = {"standard": "default"}
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def openai_answer(body: bytes, *, created_s: int) -> bytes:
    """A whole message as a chat completion; raises UpstreamInvalidError for what is none."""
    message = decoded(body)
    blocks = message.get("content")
    if message.get("type") != "message" or not isinstance(blocks, list):
        raise UpstreamInvalidError("The upstream answered something that is no message.")
    blocks = [block for block in blocks if isinstance(block, dict)]
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    said = _joined(blocks, kind="text", member="text")
    answer, is_json = said_or_called(said, calls, tool_calls=[_tool_call(call) for call in calls])
    if thought := _joined(blocks, kind="thinking", member="thinking"):
        answer["reasoning_content"] = thought
    if kept := [block for block in blocks if block.get("type") in {"thinking", "redacted_thinking"}]:
        answer["thinking_blocks"] = kept
    stop_reason = message.get("stop_reason")
    if stop_reason == "refusal":
        answer["refusal"] = refusal_text(message.get("stop_details"))
    reason = finish_reason(stop_reason, reasons=FINISH_REASONS, is_json=is_json)
    usage = message.get("usage")
    return chat_answer(
        answer_id=message.get("id"),
        created_s=created_s,
        model=message.get("model"),
        choices=[chat_choice(answer, finish_reason=reason)],
        usage=openai_usage(usage),
        **service_tier(usage),
    )


def refusal_text(details: object) -> str | None:
    """Why the model refused, where Anthropic says it."""
    explanation = details.get("explanation") if isinstance(details, Mapping) else None
    return explanation if isinstance(explanation, str) else None


def service_tier(usage: object) -> dict[str, Any]:
    """The tier that served the request, as a member; nothing where it is not named."""
    tier = usage.get("service_tier") if isinstance(usage, Mapping) else None
    return {"service_tier": SERVICE_TIERS.get(tier, tier)} if isinstance(tier, str) else {}


def openai_usage(usage: object) -> dict[str, Any] | None:
    """OpenAI's `usage`: its prompt tokens include what was read from and written to the cache."""
    if not isinstance(usage, Mapping):
        return None
    writes, outputs = usage.get("cache_creation"), usage.get("output_tokens_details")
    document = cached_usage(
        fresh=usage.get("input_tokens"),
        read=usage.get("cache_read_input_tokens") or 0,
        written=usage.get("cache_creation_input_tokens") or 0,
        output=usage.get("output_tokens"),
        writes=writes if isinstance(writes, Mapping) else None,
    )
    if document and isinstance(outputs, Mapping) and isinstance(outputs.get("thinking_tokens"), int):
        document["completion_tokens_details"] = {"reasoning_tokens": outputs["thinking_tokens"]}
    return document


class AnthropicTranslator:
    """One stream's state: its tool calls, what was used, and why it ended."""

    def __init__(self, *, created_s: int, model: str, line_bytes_max: int) -> None:
        self._reader = EventReader(line_bytes_max=line_bytes_max)
        self._writer = ChunkWriter(created_s=created_s, model=model)
        self._usage: dict[str, Any] = {}
        self._calls = CallBlocks(self._writer)
        self._is_finished = False
        self._is_done = False
        self._handlers: dict[str, Callable[[Mapping[str, Any]], bytes]] = {
            "message_start": self._start,
            "content_block_start": self._block,
            "content_block_delta": self._delta,
            "content_block_stop": self._block_end,
            "message_delta": self._message_delta,
            "message_stop": self._stop,
            "error": self._error,
        }

    def feed(self, chunk: bytes) -> bytes:
        return b"".join([self._event(event) for event in self._reader.feed(chunk)])

    def finish(self) -> bytes:
        rest = b"".join([self._event(event) for event in self._reader.finish()])
        # A stream that said why it ended is complete, even without its last event.
        return rest + (self._end() if self._is_finished else b"")

    def _event(self, event: dict[str, Any]) -> bytes:
        handle = self._handlers.get(str(event.get("type")))
        # Nothing comes of `ping`, nor of events that are yet to be invented.
        return b"" if handle is None else handle(event)

    def _start(self, event: Mapping[str, Any]) -> bytes:
        message = _mapping(event, "message")
        self._writer.id = str(message.get("id") or "")
        self._writer.model = str(message.get("model") or self._writer.model)
        self._note_usage(message.get("usage"))
        return b""

    def _block(self, event: Mapping[str, Any]) -> bytes:
        index, block = _index(event), _mapping(event, "content_block")
        kind = block.get("type")
        if kind == "text" and block.get("text"):
            return self._writer.delta({"content": block["text"]})
        if kind == "redacted_thinking":
            return self._writer.delta({"thinking_blocks": [dict(block)]})
        if kind != "tool_use":
            return b""
        return self._calls.begin(index, call_id=block.get("id"), name=block.get("name"))

    def _delta(self, event: Mapping[str, Any]) -> bytes:
        delta = _mapping(event, "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            return self._writer.delta({"content": delta.get("text") or ""})
        if kind == "thinking_delta":
            return self._writer.delta({"reasoning_content": delta.get("thinking") or ""})
        if kind == "signature_delta":
            block = {"type": "thinking", "thinking": "", "signature": delta.get("signature")}
            return self._writer.delta({"thinking_blocks": [block]})
        if kind == "input_json_delta" and delta.get("partial_json"):
            return self._calls.add(_index(event), str(delta["partial_json"]))
        return b""

    def _block_end(self, event: Mapping[str, Any]) -> bytes:
        return self._calls.end(_index(event))

    def _message_delta(self, event: Mapping[str, Any]) -> bytes:
        self._note_usage(event.get("usage"))
        delta = _mapping(event, "delta")
        stop_reason = delta.get("stop_reason")
        if not stop_reason or self._is_finished:
            return b""
        self._is_finished = True
        text = refusal_text(delta.get("stop_details")) if stop_reason == "refusal" else None
        said = {"refusal": text} if text else {}
        reason = finish_reason(stop_reason, reasons=FINISH_REASONS, is_json=self._calls.is_json)
        return self._writer.delta(said, finish_reason=reason)

    def _error(self, event: Mapping[str, Any]) -> bytes:
        error = _mapping(event, "error")
        message = str(error.get("message") or "it did not say why")
        return self._writer.error(message=message, code=str(error.get("type")))

    def _stop(self, _event: Mapping[str, Any]) -> bytes:
        return self._end()

    def _end(self) -> bytes:
        if self._is_done:
            return b""
        self._is_done = True
        usage = openai_usage(self._usage)
        last = b"" if usage is None else self._writer.usage(usage, **service_tier(self._usage))
        return last + DONE

    def _note_usage(self, usage: object) -> None:
        """Counts are cumulative: what comes later replaces what came before."""
        if isinstance(usage, Mapping):
            self._usage.update({name: value for name, value in usage.items() if value is not None})


def _joined(blocks: list[dict[str, Any]], *, kind: str, member: str) -> str:
    return "".join(str(block.get(member) or "") for block in blocks if block.get("type") == kind)


def _tool_call(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    return tool_call(call_id=block.get("id"), name=block.get("name"), arguments=arguments)


def _mapping(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = event.get(name)
    if not isinstance(value, Mapping):
        raise UpstreamInvalidError(f"The upstream sent an event of type {event.get('type')} without {name}.")
    return value


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0
