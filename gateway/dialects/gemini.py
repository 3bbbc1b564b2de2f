"""Google's Gemini API: OpenAI's chats and embeddings in the words of generateContent and batchEmbedContents.

The source is https://ai.google.dev/api/generate-content and, for efforts and thought signatures,
https://ai.google.dev/gemini-api/docs/openai and https://ai.google.dev/gemini-api/docs/thought-signatures. A
message's `name` has no translation and is left out.
"""

import mimetypes
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.dialects import gemini_answers, members
from gateway.dialects.dialect import (
    EVENT_STREAM,
    Call,
    ErrorParts,
    Translator,
    error_object,
    text_of,
    unsupported,
)
from gateway.errors import InvalidRequestError
from gateway.portable_chat import portable_chat, signature_of

MAKER = "Gemini"
CHAT_MEMBERS = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "seed",
        "n",
        "frequency_penalty",
        "presence_penalty",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
    }
)
EMBEDDING_MEMBERS = frozenset({"input", "encoding_format", "dimensions"})
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576}
LEVELS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
THINKING_FROM, LEVEL_FROM, NEWEST = (2, 5), (3, 0), (999, 0)
# What Google documents for a call whose signature was lost: another maker's, say.
SIGNATURE_LOST = "skip_thought_signature_validator"
AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mp3"}
_GENERATION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")


class GeminiDialect:
    """POST /v1beta/models/{model}:generateContent and its streaming and embedding siblings."""

    is_openai = False
    stream_type = EVENT_STREAM

    def path(self, call: Call) -> str:
        if call.request.surface == "embeddings":
            return f"/v1beta/{_resource(call)}:batchEmbedContents"
        if call.request.is_stream:
            return f"/v1beta/{_resource(call)}:streamGenerateContent?alt=sse"
        return f"/v1beta/{_resource(call)}:generateContent"

    def body(self, call: Call) -> bytes:
        if call.request.surface == "embeddings":
            return orjson.dumps(embedding_request(call))
        return orjson.dumps(gemini_request(call))

    def headers(self, signed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return signed

    def answer(self, body: bytes, call: Call) -> bytes:
        if call.request.surface == "embeddings":
            is_base64 = call.document.get("encoding_format") == "base64"
            return gemini_answers.openai_embeddings(body, model=call.upstream_name, is_base64=is_base64)
        return gemini_answers.openai_answer(body, created_s=call.created_s, model=call.upstream_name)

    def translator(self, call: Call, *, line_bytes_max: int) -> Translator:
        return gemini_answers.GeminiTranslator(
            created_s=call.created_s, model=call.upstream_name, line_bytes_max=line_bytes_max
        )

    def error_parts(self, body: bytes) -> ErrorParts:
        error = error_object(body)
        details = [each for each in error.get("details") or [] if isinstance(each, dict)]
        delays = [str(each.get("retryDelay") or "") for each in details]
        waits = [float(delay[:-1]) for delay in delays if re.fullmatch(r"\d{1,6}(\.\d{1,9})?s", delay)]
        return ErrorParts(
            message=text_of(error.get("message")),
            code=text_of(error.get("status")) or None,
            is_credential=any(each.get("reason") == "API_KEY_INVALID" for each in details),
            retry_after_s=max(waits, default=0.0),
        )


def generation(model: str) -> tuple[int, int]:
    """(2, 5) of `gemini-2.5-pro`; a name that says none is taken for the newest."""
    match = _GENERATION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else NEWEST


def gemini_request(call: Call) -> dict[str, Any]:
    """The generateContent request. Raises UnsupportedError or InvalidRequestError where there is none."""
    # Marks for caches and Anthropic's words for thinking mean nothing there; the effort does.
    document = (
        portable_chat(call.document, keeps_signatures=True) if call.request.is_translated else call.document
    )
    if call.request.surface != "chat":
        raise unsupported("model", maker=MAKER, hint="it has chats and embeddings; use another model")
    members.check_members(document, translated=CHAT_MEMBERS, maker=MAKER)
    if document.get("parallel_tool_calls") is False and document.get("tools"):
        raise unsupported("parallel_tool_calls", maker=MAKER)
    system, contents = _Conversation(call).read(document["messages"])
    declared = _declarations(document)
    request = {
        "contents": contents,
        "systemInstruction": {"parts": system} if system else None,
        "tools": [{"functionDeclarations": declared}] if declared else None,
        "toolConfig": _tool_config(document) if declared else None,
        "generationConfig": _generation_config(call),
    }
    return {name: value for name, value in request.items() if value}


def embedding_request(call: Call) -> dict[str, Any]:
    """The batchEmbedContents request."""
    document = call.document
    members.check_members(document, translated=EMBEDDING_MEMBERS, maker=MAKER)
    given = document["input"]
    texts = [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in texts):
        raise unsupported("input", maker=MAKER, hint="send text, not tokens")
    size = document.get("dimensions")
    shared = {"model": _resource(call), **({"outputDimensionality": size} if size else {})}
    return {"requests": [{**shared, "content": {"parts": [{"text": text}]}} for text in texts]}


def _resource(call: Call) -> str:
    name = call.upstream_name
    return name if name.startswith(("models/", "tunedModels/")) else f"models/{name}"


class _Conversation:
    """Turns messages into contents; remembers the names of the functions that were called."""

    def __init__(self, call: Call) -> None:
        self._needs_signatures = generation(call.upstream_name) >= LEVEL_FROM
        self._names: dict[str, str] = {}

    def read(self, given: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """System parts and contents."""
        sides: Mapping[str, tuple[str, members.BlockMaker]] = {
            "assistant": ("model", self._model_parts),
            "user": ("user", _user_parts),
            "tool": ("user", self._function_response),
        }
        return members.conversation(given, system=_text_parts, sides=sides, member="parts", maker=MAKER)

    def _model_parts(self, message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
        parts = _text_parts(message, param=param)
        is_first = True
        for given, call_id, name, arguments in members.tool_calls(message, param=param):
            self._names[call_id] = name
            call = {"name": name, "args": arguments, **({"id": call_id} if call_id else {})}
            signature = signature_of(given)
            if not signature and is_first and self._needs_signatures:
                signature = SIGNATURE_LOST
            signed = {"thoughtSignature": signature} if signature else {}
            parts.append({"functionCall": call, **signed})
            is_first = False
        return parts

    def _function_response(self, message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
        call_id = str(message.get("tool_call_id") or "")
        name = self._names.get(call_id) or message.get("name")
        if not isinstance(name, str):
            raise InvalidRequestError("No tool call has this `tool_call_id`.", param=f"{param}.tool_call_id")
        text = "".join(part["text"] for part in _text_parts(message, param=param))
        response = {"name": name, "response": _as_object(text), **({"id": call_id} if call_id else {})}
        return [{"functionResponse": response}]


def _as_object(text: str) -> dict[str, Any]:
    """A function's result must be an object there."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"output": text}


def _text_parts(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    place = f"{param}.content"
    parts = members.parts_of(message.get("content"), param=place)
    texts = [members.text_of_part(part, param=place, maker=MAKER) for part in parts]
    return [{"text": text} for text in texts if text]


def _user_parts(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    content = f"{param}.content"
    for index, part in enumerate(members.parts_of(message.get("content"), param=content)):
        place = f"{content}[{index}]"
        kind = part.get("type")
        if kind == "image_url":
            parts.append(_medium(members.image_url(part, param=place), param=place))
        elif kind == "input_audio":
            parts.append(_audio(part, param=place))
        elif kind == "file":
            file = part.get("file")
            url = file.get("file_data") if isinstance(file, Mapping) else None
            if not isinstance(url, str) or not url.startswith("data:"):
                raise unsupported(place, maker=MAKER, hint="send a file as a data URL")
            parts.append(_medium(url, param=place))
        elif text := members.text_of_part(part, param=place, maker=MAKER):
            parts.append({"text": text})
    return parts


def _medium(url: str, *, param: str) -> dict[str, Any]:
    data = members.data_of_url(url, param=param)
    if data is not None:
        return {"inlineData": {"mimeType": data[0], "data": data[1]}}
    if not url.startswith("https://"):
        raise unsupported(param, maker=MAKER, hint="a picture's URL must be `https:` or `data:`")
    kind = mimetypes.guess_type(url.partition("?")[0])[0]
    return {"fileData": {"fileUri": url, **({"mimeType": kind} if kind else {})}}


def _audio(part: Mapping[str, Any], *, param: str) -> dict[str, Any]:
    audio = part.get("input_audio")
    audio = audio if isinstance(audio, Mapping) else {}
    kind, data = AUDIO_TYPES.get(str(audio.get("format"))), audio.get("data")
    if kind is None or not isinstance(data, str):
        raise InvalidRequestError("`input_audio` must have `data`, and `format` wav or mp3.", param=param)
    return {"inlineData": {"mimeType": kind, "data": data}}


def _declarations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    declared = []
    for function in members.tool_functions(document, maker=MAKER):
        schema = function.get("parameters")
        declaration = {
            "name": function["name"],
            "description": function.get("description"),
            "parametersJsonSchema": schema or None,
        }
        declared.append({name: value for name, value in declaration.items() if value is not None})
    return declared


def _tool_config(document: Mapping[str, Any]) -> dict[str, Any] | None:
    kind, name = members.tool_choice(document, maker=MAKER)
    if not kind:
        return None
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY", "function": "ANY"}
    allowed = {"allowedFunctionNames": [name]} if name else {}
    return {"functionCallingConfig": {"mode": modes[kind], **allowed}}


def _generation_config(call: Call) -> dict[str, Any]:
    document = call.document
    kind, named = members.response_schema(document, maker=MAKER)
    config = {
        "temperature": members.number(document, "temperature"),
        "topP": members.number(document, "top_p"),
        "topK": members.number(document, "top_k"),
        "seed": members.number(document, "seed"),
        "frequencyPenalty": members.number(document, "frequency_penalty") or None,
        "presencePenalty": members.number(document, "presence_penalty") or None,
        "candidateCount": document["n"] if (document.get("n") or 1) > 1 else None,
        "maxOutputTokens": call.output_tokens_bound if call.is_output_limited else None,
        "stopSequences": list(members.stop_sequences(document)) or None,
        "responseMimeType": None if kind == "text" else "application/json",
        "responseJsonSchema": named.get("schema"),
        "thinkingConfig": _thinking(call),
    }
    return {name: value for name, value in config.items() if value is not None}


def _thinking(call: Call) -> dict[str, Any] | None:
    effort = call.document.get("reasoning_effort")
    if effort is None:
        return None
    version = generation(call.upstream_name)
    known = LEVELS if version >= LEVEL_FROM else BUDGETS
    if effort not in known or version < THINKING_FROM:
        raise unsupported("reasoning_effort", maker=MAKER, hint="this model does not think by that effort")
    if version >= LEVEL_FROM:
        return {"thinkingLevel": LEVELS[effort], "includeThoughts": True}
    return {"thinkingBudget": BUDGETS[effort], "includeThoughts": effort != "none"}
