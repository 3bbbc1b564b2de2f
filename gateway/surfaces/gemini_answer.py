"""From a chat completion's plain answer to a response of Google's Gemini API."""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import UpstreamInvalidError
from gateway.surfaces.calls import Call, whole_calls
from gateway.surfaces.chat_answer import read_answer, reasoning_of, said_of, usage_of
from gateway.surfaces.translation import Circumstances
from routing.types import Usage

FINISH_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
FINISHED = "STOP"


def response_of_answer(body: bytes, circumstances: Circumstances, *, shows_thinking: bool) -> bytes:
    """Raises UpstreamInvalidError for an answer without a message."""
    answer, choice, message = read_answer(body)
    parts: list[dict[str, Any]] = []
    if shows_thinking and (thought := reasoning_of(message)):
        parts.append(text_part(thought, is_thought=True))
    parts += [text_part(text) for name in ("content", "refusal") if (text := said_of(message, name))]
    parts += [call_part(call) for call in whole_calls(message, circumstances)]
    candidate = candidate_of(parts, finish_reason=finish_reason(choice))
    usage = usage_members(usage_of(answer, circumstances, body_bytes=len(body)))
    return orjson.dumps(
        {
            "candidates": [candidate],
            "usageMetadata": usage,
            **envelope(circumstances, model=answer.get("model")),
        }
    )


def embeddings_of_answer(body: bytes, _circumstances: Circumstances, *, is_batch: bool) -> bytes:
    """OpenAI's embeddings in their order; raises UpstreamInvalidError where there are none."""
    answer = orjson.loads(body)
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise UpstreamInvalidError("The upstream's answer has no embeddings.")
    vectors = [{"values": row.get("embedding")} for row in sorted(rows, key=lambda row: row.get("index", 0))]
    return orjson.dumps({"embeddings": vectors} if is_batch else {"embedding": vectors[0]})


def envelope(circumstances: Circumstances, *, model: object) -> dict[str, Any]:
    """What each response says of itself; the model as the upstream calls it, as in a chat."""
    version = model if isinstance(model, str) else circumstances.model
    return {"modelVersion": version, "responseId": circumstances.token}


def candidate_of(parts: list[dict[str, Any]], *, finish_reason: str | None = None) -> dict[str, Any]:
    ended = {} if finish_reason is None else {"finishReason": finish_reason}
    return {"content": {"parts": parts or [text_part("")], "role": "model"}, **ended, "index": 0}


def finish_reason(choice: Mapping[str, Any]) -> str:
    """A call of a function is an end like any other to Google."""
    return FINISH_REASONS.get(said_of(choice, "finish_reason"), FINISHED)


def text_part(text: str, *, is_thought: bool = False) -> dict[str, Any]:
    return {"text": text, "thought": True} if is_thought else {"text": text}


def call_part(call: Call) -> dict[str, Any]:
    signed = {"thoughtSignature": call.signature} if call.signature else {}
    called = {"id": call.id, "name": call.name, "args": call.arguments_object}
    return {"functionCall": called, **signed}


def usage_members(usage: Usage) -> dict[str, Any]:
    """The candidates' tokens are those without the thoughts'."""
    members = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cache_read_tokens:
        members["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.reasoning_tokens:
        members["thoughtsTokenCount"] = usage.reasoning_tokens
    return members
