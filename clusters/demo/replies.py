"""The shapes of a stand-in's answers: OpenAI's, member for member."""

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from clusters.demo.speech import Choice, Speech, Turn
from clusters.demo.wire import CompletionRequest, EmbeddingRequest
from clusters.demo.words import seeded_random

JsonObject = dict[str, Any]
# A constant: the same list each time, whenever the server started.
MODEL_CREATED = 1_700_000_000
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer used; the details are None where the request did not ask for them."""

    prompt_tokens: int
    # None: an embedding, which has no such member.
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What the whole answer and all its chunks have in common."""

    id: str
    created: int
    model: str
    # None: no such member, as with vLLM.
    system_fingerprint: str | None

    def body(self, *, kind: str, choices: list[JsonObject]) -> JsonObject:
        shared = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        if self.system_fingerprint is not None:
            shared["system_fingerprint"] = self.system_fingerprint
        return {**shared, "choices": choices}


def frame(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def usage_body(usage: Usage) -> JsonObject:
    body: JsonObject = {"prompt_tokens": usage.prompt_tokens}
    if usage.completion_tokens is not None:
        body["completion_tokens"] = usage.completion_tokens
    body["total_tokens"] = usage.prompt_tokens + (usage.completion_tokens or 0)
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return body


def whole_body(*, envelope: Envelope, request: CompletionRequest, speech: Speech) -> JsonObject:
    """A plain answer, but for its usage."""
    if not request.is_chat:
        choices = [text_choice(choice) for choice in speech.choices]
        return envelope.body(kind="text_completion", choices=choices)
    choices = [
        {
            "index": choice.index,
            "message": message(envelope=envelope, request=request, choice=choice),
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        for choice in speech.choices
    ]
    return envelope.body(kind="chat.completion", choices=choices)


def text_choice(choice: Choice) -> JsonObject:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
    }


def message(*, envelope: Envelope, request: CompletionRequest, choice: Choice) -> JsonObject:
    body: JsonObject = {"role": "assistant", "content": choice.text}
    if choice.reasoning:
        body["reasoning_content"] = "".join(choice.reasoning)
    if request.tool is not None:
        call = {"name": request.tool.name, "arguments": choice.text}
        body["content"] = None
        body["tool_calls"] = [{"id": call_id(envelope, choice.index), "type": "function", "function": call}]
    return body


def call_id(envelope: Envelope, choice_index: int) -> str:
    return f"call_{envelope.id.removeprefix('chatcmpl-')}_{choice_index}"


class ChunkMaker:
    """Makes the chunks of one stream; each has `usage: null` if usage was asked for."""

    def __init__(self, *, envelope: Envelope, request: CompletionRequest, marks_usage: bool) -> None:
        self._envelope = envelope
        self._request = request
        self._marks_usage = marks_usage
        self._kind = "chat.completion.chunk" if request.is_chat else "text_completion"

    def opening(self, choices: Sequence[Choice]) -> Iterator[JsonObject]:
        """The chunk that names the role, for each choice; a text completion has none."""
        if not self._request.is_chat:
            return
        for choice in choices:
            delta: JsonObject = {"role": "assistant", "content": ""}
            if self._request.tool is not None:
                call = {
                    "index": 0,
                    "id": call_id(self._envelope, choice.index),
                    "type": "function",
                    "function": {"name": self._request.tool.name, "arguments": ""},
                }
                delta = {"role": "assistant", "content": None, "tool_calls": [call]}
            yield self._chunk(index=choice.index, said={"delta": delta})

    def content(self, turns: Sequence[Turn]) -> Iterator[JsonObject]:
        """One chunk for each choice that got tokens; a swallowed token makes none."""
        texts: dict[tuple[int, bool], str] = {}
        for turn in turns:
            key = (turn.choice_index, turn.is_reasoning)
            texts[key] = texts.get(key, "") + turn.text
        for (index, is_reasoning), text in texts.items():
            if text:
                said = self._said(text=text, is_reasoning=is_reasoning)
                if said is not None:
                    yield self._chunk(index=index, said=said)

    def closing(self, choices: Sequence[Choice]) -> Iterator[JsonObject]:
        for choice in choices:
            said: JsonObject = {"delta": {}} if self._request.is_chat else {"text": ""}
            chunk = self._chunk(index=choice.index, said=said)
            chunk["choices"][0]["finish_reason"] = choice.finish_reason
            yield chunk

    def usage(self, usage: JsonObject) -> JsonObject:
        return {**self._envelope.body(kind=self._kind, choices=[]), "usage": usage}

    def _said(self, *, text: str, is_reasoning: bool) -> JsonObject | None:
        if not self._request.is_chat:
            # Text completions have no place for reasoning: it counts and is not shown.
            return None if is_reasoning else {"text": text}
        if is_reasoning:
            return {"delta": {"reasoning_content": text}}
        if self._request.tool is not None:
            return {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}}
        return {"delta": {"content": text}}

    def _chunk(self, *, index: int, said: JsonObject) -> JsonObject:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": None}
        chunk = self._envelope.body(kind=self._kind, choices=[choice])
        if self._marks_usage:
            chunk["usage"] = None
        return chunk


def embedding_data(*, request: EmbeddingRequest, seed: int) -> JsonObject:
    """The answer to an embedding request, but for its usage."""
    vectors = [
        embedding(seed=seed, text=prompt.text, dimensions=request.dimensions) for prompt in request.prompts
    ]
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": encoded(vector, is_base64=request.is_base64),
            }
            for index, vector in enumerate(vectors)
        ],
    }


def embedding(*, seed: int, text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    draw = seeded_random(seed=seed, topic=f"embedding:{text}")
    vector = [draw.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.hypot(*vector)
    return [value / length for value in vector]


def encoded(vector: list[float], *, is_base64: bool) -> list[float] | str:
    """Base64 holds little-endian 32-bit floats, as OpenAI sends them."""
    if not is_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def model_body(*, alias: str, owner: str, root: str | None, context_tokens_max: int) -> JsonObject:
    """An entry of /v1/models; with a root it has vLLM's additional members."""
    body: JsonObject = {
        "id": alias,
        "object": "model",
        "created": MODEL_CREATED,
        "owned_by": owner,
    }
    if root is not None:
        body |= {"root": root, "parent": None, "max_model_len": context_tokens_max}
    return body
