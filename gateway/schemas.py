"""Wire schemas of /v1: what a body must look like, checked by hand on bytes, and described for OpenAPI."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from ninja import Schema

from gateway.affinity import session_name
from gateway.completion import CompletionRequest
from gateway.errors import InvalidJsonError, InvalidRequestError
from gateway.metering import tokens_of_bytes
from gateway.waiting import wait_asked
from routing.types import Placement, RequestProfile

MODEL_CHARACTERS_MAX = 200
COUNTED_BYTES_MAX = 16 * 1024
CHOICES_MAX = 128
# A prompt has at most one token per byte of its JSON; templates add some, media a bounded many.
TEMPLATE_TOKENS_MAX = 256
MEDIA_TOKENS_MAX = 8192
# Pictures and sound travel inside the body as text that is no prompt: a guess for each instead.
MEDIA_TOKENS_ESTIMATE = 1024
TOKENS_MAX = 10_000_000


def decode_completion(
    *,
    surface: str,
    body: bytes,
    depth_max: int,
    needs_priced: bool,
    headers: Iterable[tuple[bytes, bytes]] = (),
    placement: Placement | None = None,
) -> CompletionRequest:
    """Check a body and take out what routing and metering need; raises InvalidRequestError.

    Members that we do not know stay in the document and travel upstream as they came.
    """
    return read_completion(
        surface=surface,
        document=decode_object(body, depth_max=depth_max),
        body=body,
        needs_priced=needs_priced,
        headers=headers,
        placement=placement,
    )


def read_completion(
    *,
    surface: str,
    document: Mapping[str, Any],
    body: bytes,
    needs_priced: bool,
    headers: Iterable[tuple[bytes, bytes]] = (),
    placement: Placement | None = None,
    is_translated: bool = False,
) -> CompletionRequest:
    """The same of a document that is decoded already; raises InvalidRequestError."""
    model = document.get("model")
    if not isinstance(model, str) or not model or len(model) > MODEL_CHARACTERS_MAX:
        raise InvalidRequestError(
            f"`model` must be a string of 1 to {MODEL_CHARACTERS_MAX} characters; GET /v1/models lists them.",
            param="model",
        )
    needs = CONTENT_CHECKS[surface](document)
    is_stream = _boolean(document, "stream")
    if is_stream and surface == "embeddings":
        raise InvalidRequestError("Embeddings cannot be streamed: leave `stream` out.", param="stream")
    choice_count = _integer(document, "n", low=1, high=CHOICES_MAX) or 1
    best_of = _integer(document, "best_of", low=1, high=CHOICES_MAX) or 1
    if is_stream and best_of > choice_count:
        raise InvalidRequestError("`best_of` above `n` cannot be streamed.", param="best_of")
    media_count, media_bytes = _media(document) if surface == "chat" else (0, 0)
    text_tokens = tokens_of_bytes(len(body) - media_bytes)
    return CompletionRequest(
        surface=surface,
        model=model,
        is_stream=is_stream,
        wants_usage=_stream_options_include_usage(document),
        body=body,
        document=document,
        profile=RequestProfile(
            model=model,
            surface=surface,
            body_bytes=len(body),
            prompt_tokens_estimate=text_tokens + MEDIA_TOKENS_ESTIMATE * media_count,
            prompt_tokens_max=len(body) + TEMPLATE_TOKENS_MAX + MEDIA_TOKENS_MAX * media_count,
            output_tokens_max=_output_tokens_max(document, surface=surface),
            choice_count=max(choice_count, best_of) * _prompt_count(document, surface=surface),
            needs=needs,
            is_priced_only=needs_priced,
            placement=placement,
        ),
        wait_s_max=wait_asked(headers),
        session=session_name(headers, document),
        is_translated=is_translated,
    )


def decode_object(body: bytes, *, depth_max: int) -> dict[str, Any]:
    """A body's JSON object; raises InvalidRequestError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJsonError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    if _could_be_deeper(body, depth_max) and _is_deeper(document, depth_max):
        raise InvalidJsonError(f"The body is nested deeper than {depth_max} levels.")
    return document


def _could_be_deeper(body: bytes, depth_max: int) -> bool:
    """Fewer brackets than levels need no walk. In a long body counting them costs more than most walks."""
    return len(body) > COUNTED_BYTES_MAX or body.count(b"[") + body.count(b"{") > depth_max


def _is_deeper(document: object, depth_max: int) -> bool:
    level: list[Any] = [document]
    for _ in range(depth_max):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _check_chat(document: Mapping[str, Any]) -> frozenset[str]:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("`messages` must be a list with at least one message.", param="messages")
    needs = {"chat"}
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequestError(
                "Each message must be an object with a `role`.", param=f"messages[{index}]"
            )
        content = message.get("content")
        if isinstance(content, list):
            if any(isinstance(part, dict) and part.get("type") == "image_url" for part in content):
                needs.add("vision")
        elif content is not None and not isinstance(content, str):
            raise InvalidRequestError(
                "`content` must be a string, a list of parts or null.", param=f"messages[{index}].content"
            )
    if document.get("tools"):
        needs.add("tools")
    response_format = document.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        needs.add("json_schema")
    return frozenset(needs)


def _check_prompt(document: Mapping[str, Any]) -> frozenset[str]:
    prompt = document.get("prompt")
    # Of one kind: the hold counts the prompts, and a mixed list has no count.
    is_list = isinstance(prompt, list) and any(
        all(type(item) is kind for item in prompt) for kind in (str, int, list)
    )
    if not (isinstance(prompt, str) or is_list) or not prompt:
        raise InvalidRequestError(
            "`prompt` must be a string, a list of strings or of tokens.", param="prompt"
        )
    return frozenset({"completions"})


def _check_input(document: Mapping[str, Any]) -> frozenset[str]:
    given = document.get("input")
    if not isinstance(given, str | list) or not given:
        raise InvalidRequestError("`input` must be a string, a list of strings or of tokens.", param="input")
    return frozenset({"embeddings"})


MEDIA_TYPES = ("image_url", "input_audio", "audio_url", "video_url", "file")
CONTENT_CHECKS = {"chat": _check_chat, "completions": _check_prompt, "embeddings": _check_input}


def _media(document: Mapping[str, Any]) -> tuple[int, int]:
    """How many pictures and the like a conversation has, and the bytes of those that are embedded."""
    contents = (message.get("content") for message in document["messages"])
    parts = [
        part
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict) and part.get("type") in MEDIA_TYPES
    ]
    # A medium is one level down: {"type": "image_url", "image_url": {"url": "data:..."}}.
    media = [value for part in parts for value in part.values() if isinstance(value, dict)]
    data = [text for medium in media for text in medium.values() if isinstance(text, str)]
    return len(parts), sum(map(len, data))


def _prompt_count(document: Mapping[str, Any], *, surface: str) -> int:
    """A list of prompts is answered prompt by prompt: max_tokens holds for each (WIRE 13)."""
    prompt = document.get("prompt")
    if surface == "completions" and isinstance(prompt, list) and not isinstance(prompt[0], int):
        return len(prompt)
    return 1


def _output_tokens_max(document: Mapping[str, Any], *, surface: str) -> int | None:
    if surface == "embeddings":
        return 0
    limits = [
        _integer(document, name, low=1, high=TOKENS_MAX) for name in ("max_completion_tokens", "max_tokens")
    ]
    # Which of the two an upstream obeys differs, and the client's bytes pass unchanged: the hold covers both.
    return max((limit for limit in limits if limit is not None), default=None)


def _stream_options_include_usage(document: Mapping[str, Any]) -> bool:
    options = document.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequestError("`stream_options` must be an object or null.", param="stream_options")
    return options.get("include_usage") is True


def _boolean(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"`{name}` must be true or false.", param=name)
    return bool(value)


def _integer(document: Mapping[str, Any], name: str, *, low: int, high: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequestError(f"`{name}` must be a whole number from {low} to {high}.", param=name)
    return value


# --- For the OpenAPI document only: the hot path never builds these.


class Message(Schema):
    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionBody(Schema):
    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None


class CompletionBody(Schema):
    model: str
    prompt: str | list[str] | list[int] | list[list[int]]
    stream: bool = False
    max_tokens: int | None = None
    n: int | None = None


class EmbeddingsBody(Schema):
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


class CountedMessagesBody(Schema):
    """As Anthropic's Messages API has it."""

    model: str
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class MessagesBody(CountedMessagesBody):
    max_tokens: int
    stream: bool = False
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None


class CountedResponsesBody(Schema):
    """As OpenAI's Responses API has it."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None


class ResponsesBody(CountedResponsesBody):
    stream: bool = False
    max_output_tokens: int | None = None
    store: bool | None = None
