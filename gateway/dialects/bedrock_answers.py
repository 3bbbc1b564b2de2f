"""Bedrock's answers and its binary event streams in OpenAI's words.

The events are those of https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html;
botocore reads their framing, checksums included, and bounds a message (24 MiB). Reasoning becomes
`reasoning_content`; its signatures travel in `thinking_blocks`, to be sent back with the next turn.
"""

from collections.abc import Callable, Iterator, Mapping
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
from gateway.dialects.events import DONE, ChunkWriter, decoded
from gateway.errors import UpstreamInvalidError

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
CACHE_TTLS = {"5m": "ephemeral_5m_input_tokens", "1h": "ephemeral_1h_input_tokens"}


def openai_answer(body: bytes, *, answer_id: str, created_s: int, model: str) -> bytes:
    """A whole answer as a chat completion; raises UpstreamInvalidError for what is none."""
    response = decoded(body)
    message = _mapping(_mapping(response, "output"), "message")
    blocks = [block for block in message.get("content") or [] if isinstance(block, dict)]
    calls = [block["toolUse"] for block in blocks if isinstance(block.get("toolUse"), dict)]
    answer, is_json = said_or_called(_text(blocks), calls, tool_calls=[_tool_call(call) for call in calls])
    answer.update(_reasoning(blocks))
    reason = finish_reason(response.get("stopReason"), reasons=FINISH_REASONS, is_json=is_json)
    return chat_answer(
        answer_id=answer_id,
        created_s=created_s,
        model=model,
        choices=[chat_choice(answer, finish_reason=reason)],
        usage=openai_usage(response.get("usage")),
        **service_tier(response),
    )


def service_tier(response: Mapping[str, Any]) -> dict[str, Any]:
    """The tier that served the request, as a member; nothing where it is not named."""
    tier = response.get("serviceTier")
    kind = tier.get("type") if isinstance(tier, Mapping) else None
    return {"service_tier": kind} if isinstance(kind, str) else {}


def openai_usage(usage: object) -> dict[str, Any] | None:
    """OpenAI's `usage`: its prompt tokens include what was read from and written to the cache."""
    if not isinstance(usage, Mapping):
        return None
    details = [row for row in usage.get("cacheDetails") or [] if isinstance(row, Mapping)]
    writes = {
        CACHE_TTLS[row["ttl"]]: row.get("inputTokens") for row in details if row.get("ttl") in CACHE_TTLS
    }
    return cached_usage(
        fresh=usage.get("inputTokens"),
        read=usage.get("cacheReadInputTokens") or 0,
        written=usage.get("cacheWriteInputTokens") or 0,
        output=usage.get("outputTokens"),
        writes=writes or None,
    )


class BedrockTranslator:
    """One stream's state: its tool calls, and how far the message has come."""

    def __init__(self, *, answer_id: str, created_s: int, model: str) -> None:
        from botocore.eventstream import EventStreamBuffer  # noqa: PLC0415 -- optional: of Bedrock alone

        self._buffer = EventStreamBuffer()
        self._writer = ChunkWriter(created_s=created_s, model=model)
        self._writer.id = answer_id
        self._calls = CallBlocks(self._writer)
        self._is_finished = False
        self._is_done = False
        self._handlers: dict[str, Callable[[Mapping[str, Any]], bytes]] = {
            "contentBlockStart": self._start,
            "contentBlockDelta": self._delta,
            "contentBlockStop": self._block_end,
            "messageStop": self._stop,
            "metadata": self._metadata,
        }

    def feed(self, chunk: bytes) -> bytes:
        self._buffer.add_data(chunk)
        return b"".join([self._message(headers, payload) for headers, payload in self._messages()])

    def finish(self) -> bytes:
        """A message that said why it ended is complete, even without its counts."""
        return DONE if self._is_finished and not self._is_done else b""

    def _messages(self) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        from botocore.eventstream import ParserError  # noqa: PLC0415 -- optional: of Bedrock alone

        try:
            for message in self._buffer:
                yield message.headers, message.payload
        except ParserError as error:
            raise UpstreamInvalidError("The upstream sent something that is no event stream.") from error

    def _message(self, headers: Mapping[str, Any], payload: bytes) -> bytes:
        if headers.get(":message-type") == "event":
            handle = self._handlers.get(str(headers.get(":event-type")))
            # Nothing comes of `messageStart`, nor of events that are yet to be invented.
            return b"" if handle is None else handle(decoded(payload))
        code = str(headers.get(":exception-type") or headers.get(":error-code") or "error")
        message = headers.get(":error-message")
        if not message and payload:
            message = decoded(payload).get("message")
        return self._writer.error(message=str(message or "it did not say why"), code=code)

    def _start(self, event: Mapping[str, Any]) -> bytes:
        called = _mapping(event, "start").get("toolUse")
        if not isinstance(called, Mapping):
            return b""
        return self._calls.begin(_index(event), call_id=called.get("toolUseId"), name=called.get("name"))

    def _delta(self, event: Mapping[str, Any]) -> bytes:
        delta = _mapping(event, "delta")
        if isinstance(delta.get("text"), str):
            return self._writer.delta({"content": delta["text"]})
        if isinstance(delta.get("toolUse"), Mapping):
            text = delta["toolUse"].get("input")
            return self._calls.add(_index(event), text) if isinstance(text, str) and text else b""
        if isinstance(delta.get("reasoningContent"), Mapping):
            return self._reasoning(delta["reasoningContent"])
        return b""

    def _reasoning(self, reasoning: Mapping[str, Any]) -> bytes:
        if isinstance(reasoning.get("text"), str):
            return self._writer.delta({"reasoning_content": reasoning["text"]})
        if reasoning.get("signature"):
            block = {"type": "thinking", "thinking": "", "signature": reasoning["signature"]}
        else:
            block = {"type": "redacted_thinking", "data": reasoning.get("redactedContent")}
        return self._writer.delta({"thinking_blocks": [block]})

    def _block_end(self, event: Mapping[str, Any]) -> bytes:
        return self._calls.end(_index(event))

    def _stop(self, event: Mapping[str, Any]) -> bytes:
        self._is_finished = True
        stop_reason = event.get("stopReason")
        reason = finish_reason(stop_reason, reasons=FINISH_REASONS, is_json=self._calls.is_json)
        return self._writer.delta({}, finish_reason=reason)

    def _metadata(self, event: Mapping[str, Any]) -> bytes:
        """The last event: what was used."""
        usage = openai_usage(event.get("usage"))
        last = b"" if usage is None else self._writer.usage(usage, **service_tier(event))
        self._is_done = self._is_finished
        return last + (DONE if self._is_done else b"")


def _text(blocks: list[dict[str, Any]]) -> str:
    """What was said; with citations it is a level deeper."""
    said: list[str] = []
    for block in blocks:
        cited = block.get("citationsContent")
        parts = cited.get("content") or [] if isinstance(cited, Mapping) else [block]
        said += [
            part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        ]
    return "".join(said)


def _reasoning(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """`reasoning_content` and `thinking_blocks`, where there is any."""
    found = [block["reasoningContent"] for block in blocks if isinstance(block.get("reasoningContent"), dict)]
    kept: list[dict[str, Any]] = []
    thought = ""
    for each in found:
        text = each.get("reasoningText")
        if isinstance(text, dict):
            said_text = str(text.get("text") or "")
            thought += said_text
            kept.append({"type": "thinking", "thinking": said_text, "signature": text.get("signature")})
        else:
            kept.append({"type": "redacted_thinking", "data": each.get("redactedContent")})
    said = {"reasoning_content": thought, "thinking_blocks": kept}
    return {name: value for name, value in said.items() if value}


def _tool_call(called: Mapping[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(called.get("input") or {}).decode()
    return tool_call(call_id=called.get("toolUseId"), name=called.get("name"), arguments=arguments)


def _mapping(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    if not isinstance(value, Mapping):
        raise UpstreamInvalidError(f"The upstream sent something without {name}.")
    return value


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("contentBlockIndex")
    return index if isinstance(index, int) else 0
