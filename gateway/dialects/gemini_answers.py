"""Gemini's answers, event streams and embeddings in OpenAI's words.

Thoughts become `reasoning_content`. The signature of a call travels where Google's own OpenAI-compatible
endpoint puts it: `extra_content.google.thought_signature`, to be sent back with the call.
"""

import base64
import struct
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.dialects.chats import chat_answer, chat_choice, tool_call
from gateway.dialects.events import DONE, ChunkWriter, EventReader, decoded
from gateway.errors import UpstreamInvalidError

FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "LANGUAGE",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)


def openai_answer(body: bytes, *, created_s: int, model: str) -> bytes:
    """A whole answer as a chat completion; raises UpstreamInvalidError for what is none."""
    response = decoded(body)
    candidates = _candidates(response)
    answer_id = str(response.get("responseId") or "")
    choices = []
    for position, candidate in enumerate(candidates):
        said = _said(candidate, answer_id=answer_id, first_call=0)
        message = {"role": "assistant", "content": said.pop("content", None), "refusal": None, **said}
        reason = finish_reason(candidate, has_calls="tool_calls" in said) or "stop"
        choices.append(chat_choice(message, finish_reason=reason, index=candidate.get("index", position)))
    return chat_answer(
        answer_id=answer_id,
        created_s=created_s,
        model=response.get("modelVersion") or model,
        choices=choices,
        usage=openai_usage(response.get("usageMetadata")),
    )


def openai_embeddings(body: bytes, *, model: str, is_base64: bool) -> bytes:
    """Vectors as OpenAI lists them; little-endian floats where base64 was asked for."""
    response = decoded(body)
    embeddings = response.get("embeddings")
    if not isinstance(embeddings, list):
        raise UpstreamInvalidError("The upstream answered something that has no embeddings.")
    rows = []
    for index, embedding in enumerate(embeddings):
        values = embedding.get("values") if isinstance(embedding, dict) else None
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise UpstreamInvalidError("The upstream answered an embedding that is no list of numbers.")
        packed = struct.pack(f"<{len(values)}f", *values) if is_base64 else b""
        vector = base64.b64encode(packed).decode() if is_base64 else values
        rows.append({"object": "embedding", "index": index, "embedding": vector})
    metadata = response.get("usageMetadata")
    count = metadata.get("promptTokenCount") if isinstance(metadata, Mapping) else None
    usage = {"prompt_tokens": count, "total_tokens": count} if isinstance(count, int) else None
    return orjson.dumps({"object": "list", "data": rows, "model": model, "usage": usage})


def finish_reason(candidate: Mapping[str, Any], *, has_calls: bool) -> str | None:
    """OpenAI's word; None while the candidate goes on."""
    reason = candidate.get("finishReason")
    if not reason or reason == "FINISH_REASON_UNSPECIFIED":
        return None
    if reason in FILTERED:
        return "content_filter"
    if reason == "MAX_TOKENS":
        return "length"
    return "tool_calls" if has_calls else "stop"


def openai_usage(metadata: object) -> dict[str, Any] | None:
    """OpenAI's `usage`: completion tokens include thoughts, which Google counts apart."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("promptTokenCount"), int):
        return None
    prompt = metadata["promptTokenCount"] + (metadata.get("toolUsePromptTokenCount") or 0)
    thoughts = metadata.get("thoughtsTokenCount") or 0
    completion = (metadata.get("candidatesTokenCount") or 0) + thoughts
    details = {"cached_tokens": metadata.get("cachedContentTokenCount") or 0}
    cached = _media_counts(metadata.get("cacheTokensDetails"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            **details,
            **_media_counts(metadata.get("promptTokensDetails")),
            **({"cached_tokens_details": cached} if cached else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": thoughts,
            "audio_tokens": _media_counts(metadata.get("candidatesTokensDetails")).get("audio_tokens", 0),
        },
    }


class GeminiTranslator:
    """One stream's state: how many calls each candidate made, what was used, and who has ended."""

    def __init__(self, *, created_s: int, model: str, line_bytes_max: int) -> None:
        self._reader = EventReader(line_bytes_max=line_bytes_max)
        self._writer = ChunkWriter(created_s=created_s, model=model)
        self._calls: dict[int, int] = {}
        self._ended: set[int] = set()
        self._usage: object = None

    def feed(self, chunk: bytes) -> bytes:
        return b"".join([self._event(event) for event in self._reader.feed(chunk)])

    def finish(self) -> bytes:
        """The stream has no last event: it was complete if a candidate said why it ended."""
        rest = b"".join([self._event(event) for event in self._reader.finish()])
        if not self._ended:
            return rest
        usage = openai_usage(self._usage)
        return rest + (b"" if usage is None else self._writer.usage(usage)) + DONE

    def _event(self, event: dict[str, Any]) -> bytes:
        error = event.get("error")
        if isinstance(error, Mapping):
            message, code = error.get("message") or "it did not say why", error.get("status")
            return self._writer.error(message=str(message), code=str(code))
        self._writer.id = str(event.get("responseId") or self._writer.id)
        self._writer.model = str(event.get("modelVersion") or self._writer.model)
        # Cumulative: the last one counts.
        self._usage = event.get("usageMetadata") or self._usage
        found = event.get("candidates") or event.get("promptFeedback")
        return b"".join([self._candidate(each) for each in _candidates(event)]) if found else b""

    def _candidate(self, candidate: dict[str, Any]) -> bytes:
        index = candidate.get("index", 0)
        index = index if isinstance(index, int) else 0
        made = self._calls.get(index, 0)
        delta = _said(candidate, answer_id=self._writer.id, first_call=made)
        calls = delta.get("tool_calls", ())
        for position, call in enumerate(calls):
            call["index"] = made + position
        self._calls[index] = made + len(calls)
        reason = finish_reason(candidate, has_calls=self._calls[index] > 0)
        if index in self._ended or not (delta or reason):
            return b""
        if reason:
            self._ended.add(index)
        return self._writer.delta(delta, index=index, finish_reason=reason)


def _candidates(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates; a prompt that was blocked has none, and is one that a filter emptied."""
    candidates = response.get("candidates")
    if isinstance(candidates, list) and candidates and all(isinstance(each, dict) for each in candidates):
        return candidates
    feedback = response.get("promptFeedback")
    if isinstance(feedback, Mapping) and feedback.get("blockReason"):
        return [{"finishReason": "SAFETY"}]
    raise UpstreamInvalidError("The upstream answered something that has no candidates.")


def _said(candidate: Mapping[str, Any], *, answer_id: str, first_call: int) -> dict[str, Any]:
    """The members of a message or delta; those that would be empty are not there."""
    content = candidate.get("content")
    given = content.get("parts") if isinstance(content, Mapping) else None
    parts = [part for part in given or [] if isinstance(part, dict)]
    spoken = [part for part in parts if isinstance(part.get("text"), str)]
    calls = [part for part in parts if isinstance(part.get("functionCall"), dict)]
    pictures = [part["inlineData"] for part in parts if isinstance(part.get("inlineData"), dict)]
    said = {
        "content": "".join(part["text"] for part in spoken if not part.get("thought")),
        "reasoning_content": "".join(part["text"] for part in spoken if part.get("thought")),
        "tool_calls": [
            _tool_call(
                part, fallback_id=f"call_{answer_id}_{candidate.get('index', 0)}_{first_call + number}"
            )
            for number, part in enumerate(calls)
        ],
        "images": [
            {
                "type": "image_url",
                "image_url": {"url": f"data:{data.get('mimeType')};base64,{data.get('data')}"},
            }
            for data in pictures
        ],
    }
    return {name: value for name, value in said.items() if value}


def _tool_call(part: Mapping[str, Any], *, fallback_id: str) -> dict[str, Any]:
    called = part["functionCall"]
    arguments = orjson.dumps(called.get("args") or {}).decode()
    call = tool_call(call_id=called.get("id") or fallback_id, name=called.get("name"), arguments=arguments)
    signature = part.get("thoughtSignature")
    if signature:
        call["extra_content"] = {"google": {"thought_signature": signature}}
    return call


def _media_counts(details: object) -> dict[str, int]:
    """Tokens by the modalities that are priced apart."""
    rows = [row for row in details if isinstance(row, Mapping)] if isinstance(details, list) else []
    names = {"AUDIO": "audio_tokens", "IMAGE": "image_tokens"}
    counts: dict[str, int] = {}
    for row in rows:
        name, count = names.get(str(row.get("modality"))), row.get("tokenCount")
        if name and isinstance(count, int):
            counts[name] = counts.get(name, 0) + count
    return counts
