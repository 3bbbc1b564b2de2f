"""AWS Bedrock's Converse API: OpenAI's chat request in its words, and the dialect that ties both ways.

The source is https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html. What Converse
has no member for goes by the model's maker: thinking of Claude, effort of gpt-oss. `seed` is left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from gateway.dialects import members
from gateway.dialects.anthropic import (
    FORMAT_FROM,
    TRANSLATED,
    closed_schema,
    generation,
    sampling,
    thinking,
)
from gateway.dialects.bedrock_answers import BedrockTranslator, openai_answer
from gateway.dialects.chats import ANY_OBJECT, JSON_TOOL, JSON_TOOL_DESCRIPTION
from gateway.dialects.dialect import Call, ErrorParts, Translator, error_document, text_of, unsupported

MAKER = "Bedrock"
IMAGE_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENT_FORMATS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
SERVICE_TIERS = frozenset({"default", "flex", "priority"})
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_MARK = "cache_control"


class BedrockDialect:
    """POST /model/{model}/converse and converse-stream."""

    is_openai = False
    stream_type = "application/vnd.amazon.eventstream"

    def path(self, call: Call) -> str:
        operation = "converse-stream" if call.request.is_stream else "converse"
        return f"/model/{quote(call.upstream_name, safe='')}/{operation}"

    def body(self, call: Call) -> bytes:
        return orjson.dumps(bedrock_request(call))

    def headers(self, signed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return signed

    def answer(self, body: bytes, call: Call) -> bytes:
        return openai_answer(
            body, answer_id=call.answer_id, created_s=call.created_s, model=call.upstream_name
        )

    def translator(self, call: Call, *, line_bytes_max: int) -> Translator:
        return BedrockTranslator(answer_id=call.answer_id, created_s=call.created_s, model=call.upstream_name)

    def error_parts(self, body: bytes) -> ErrorParts:
        document = error_document(body)
        kind = text_of(document.get("__type")).rpartition("#")[2]
        return ErrorParts(
            message=text_of(document.get("message")) or text_of(document.get("Message")), code=kind or None
        )


def bedrock_request(call: Call) -> dict[str, Any]:
    """The Converse request. Raises UnsupportedError or InvalidRequestError where there is none."""
    document = call.document
    if call.request.surface != "chat":
        raise unsupported("model", maker=MAKER, hint="only its chats are translated; use another model")
    members.check_members(document, translated=TRANSLATED, maker=MAKER)
    system, messages = members.conversation(
        document["messages"], system=_text_blocks, sides=SIDES, member="content", maker=MAKER
    )
    tools, output = _tool_config(document, messages=messages), None
    kind, named = members.response_schema(document, maker=MAKER)
    if kind == "json_schema" and not _is_claude_before(call, FORMAT_FROM):
        output = _text_format(named)
    elif kind != "text":
        if tools:
            raise unsupported("response_format", maker=MAKER, hint="this model gives it only without `tools`")
        tools = _json_tool(named)
    tier = document.get("service_tier")
    request = {
        "messages": messages,
        "system": system,
        "inferenceConfig": _inference_config(call),
        "toolConfig": tools,
        "outputConfig": output,
        "serviceTier": {"type": tier} if tier in SERVICE_TIERS else None,
        "additionalModelRequestFields": _own_fields(call),
    }
    if tier not in (None, "auto") and tier not in SERVICE_TIERS:
        raise unsupported("service_tier", maker=MAKER)
    return {name: value for name, value in request.items() if value}


def _is_claude(call: Call) -> bool:
    return "claude" in call.upstream_name


def _is_claude_before(call: Call, version: tuple[int, int]) -> bool:
    return _is_claude(call) and generation(call.upstream_name) < version


def _text_blocks(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    place = f"{param}.content"
    blocks: list[dict[str, Any]] = []
    for part in members.parts_of(message.get("content"), param=place):
        if text := members.text_of_part(part, param=place, maker=MAKER):
            blocks += [{"text": text}, *_cache_point(part)]
    return [*blocks, *_cache_point(message)] if blocks else blocks


def _cache_point(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Anthropic's mark on a block is a block of its own here, after it."""
    mark = source.get(_MARK)
    if not mark:
        return []
    ttl = mark.get("ttl") if isinstance(mark, Mapping) else None
    return [{"cachePoint": {"type": "default", **({"ttl": ttl} if ttl in {"5m", "1h"} else {})}}]


def _user_turn(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    return _user_blocks(message.get("content"), param=f"{param}.content")


def _user_blocks(content: object, *, param: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for index, part in enumerate(members.parts_of(content, param=param)):
        place = f"{param}[{index}]"
        if part.get("type") == "image_url":
            blocks.append({"image": _image(members.image_url(part, param=place), param=place)})
        elif part.get("type") == "file":
            blocks.append({"document": _document(part, param=place)})
        elif text := members.text_of_part(part, param=place, maker=MAKER):
            blocks.append({"text": text})
        blocks += _cache_point(part)
    return blocks


def _assistant_blocks(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    """Reasoning with its signatures first, as it came, then what was said, then what was called."""
    blocks = [
        _reasoning(block) for block in message.get("thinking_blocks") or [] if isinstance(block, Mapping)
    ]
    blocks += _text_blocks(message, param=param)
    for _, call_id, name, arguments in members.tool_calls(message, param=param):
        blocks.append({"toolUse": {"toolUseId": call_id, "name": name, "input": arguments}})
    return blocks


def _reasoning(block: Mapping[str, Any]) -> dict[str, Any]:
    if block.get("type") == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": block.get("data")}}
    signed = {"signature": block["signature"]} if block.get("signature") else {}
    return {"reasoningContent": {"reasoningText": {"text": block.get("thinking") or "", **signed}}}


def _tool_result(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    content = _user_blocks(message.get("content"), param=f"{param}.content") or [{"text": "(nothing)"}]
    # What is in a result is no place for a mark of the cache.
    content = [block for block in content if "cachePoint" not in block]
    result = {"toolUseId": str(message.get("tool_call_id") or ""), "content": content}
    return [{"toolResult": result}, *_cache_point(message)]


SIDES: Mapping[str, tuple[str, members.BlockMaker]] = {
    "assistant": ("assistant", _assistant_blocks),
    "user": ("user", _user_turn),
    "tool": ("user", _tool_result),
}


def _image(url: str, *, param: str) -> dict[str, Any]:
    data = members.data_of_url(url, param=param)
    if data is None or data[0] not in IMAGE_FORMATS:
        raise unsupported(param, maker=MAKER, hint="send a picture as a data URL: png, jpeg, gif or webp")
    return {"format": IMAGE_FORMATS[data[0]], "source": {"bytes": data[1]}}


def _document(part: Mapping[str, Any], *, param: str) -> dict[str, Any]:
    file = part.get("file")
    file = file if isinstance(file, Mapping) else {}
    url = file.get("file_data")
    data = members.data_of_url(url, param=param) if isinstance(url, str) else None
    if data is None or data[0] not in DOCUMENT_FORMATS:
        raise unsupported(
            param, maker=MAKER, hint="send a file as a data URL: PDF, CSV, HTML, text, Markdown"
        )
    name = _NOT_IN_NAMES.sub("-", str(file.get("filename") or "document").rpartition(".")[0] or "document")
    return {"format": DOCUMENT_FORMATS[data[0]], "name": name, "source": {"bytes": data[1]}}


def _tool_config(
    document: Mapping[str, Any], *, messages: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    functions = members.tool_functions(document, maker=MAKER)
    kind, name = members.tool_choice(document, maker=MAKER)
    if not functions:
        return None
    if document.get("parallel_tool_calls") is False:
        raise unsupported("parallel_tool_calls", maker=MAKER)
    if kind == "none":
        # Without tools none is called; but calls that were made must have theirs declared.
        if any("toolUse" in block for message in messages for block in message["content"]):
            raise unsupported("tool_choice", maker=MAKER, hint="`none` cannot be said after tool calls there")
        return None
    tools: list[dict[str, Any]] = []
    for function in functions:
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        spec = {
            "name": function["name"],
            "description": function.get("description") or None,
            "inputSchema": {"json": schema},
            "strict": True if function.get("strict") else None,
        }
        tools.append({"toolSpec": {name: value for name, value in spec.items() if value is not None}})
        tools += _cache_point(function)
    choices: dict[str, dict[str, Any]] = {
        "auto": {"auto": {}},
        "required": {"any": {}},
        "function": {"tool": {"name": name}},
    }
    return {"tools": tools, **({"toolChoice": choices[kind]} if kind else {})}


def _text_format(named: Mapping[str, Any]) -> dict[str, Any]:
    schema = orjson.dumps(closed_schema(named["schema"])).decode()
    given = {"schema": schema, "name": named.get("name"), "description": named.get("description")}
    definition = {name: value for name, value in given.items() if value}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}


def _json_tool(named: Mapping[str, Any]) -> dict[str, Any]:
    """As for Anthropic's older models: one tool that must be called, whose arguments are the answer."""
    spec = {
        "name": JSON_TOOL,
        "description": named.get("description") or JSON_TOOL_DESCRIPTION,
        "inputSchema": {"json": named.get("schema") or ANY_OBJECT},
    }
    return {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": JSON_TOOL}}}


def _inference_config(call: Call) -> dict[str, Any]:
    given = sampling(call.document, maker=MAKER)
    config = {
        "maxTokens": call.output_tokens_bound if call.is_output_limited else None,
        "temperature": given.get("temperature"),
        "topP": given.get("top_p"),
        "stopSequences": list(members.stop_sequences(call.document)) or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _own_fields(call: Call) -> dict[str, Any]:
    """What only the model's maker knows."""
    document = call.document
    fields: dict[str, Any] = {}
    if document.get("top_k") is not None:
        fields["top_k"] = members.number(document, "top_k")
    if _is_claude(call):
        configured, effort = thinking(call, limit=call.output_tokens_bound, maker=MAKER)
        fields.update({"thinking": configured} if configured else {})
        fields.update({"output_config": {"effort": effort}} if effort else {})
    elif "gpt-oss" in call.upstream_name:
        fields.update({name: document[name] for name in ("reasoning_effort",) if document.get(name)})
    elif name := next((name for name in ("reasoning_effort", "thinking", "top_k") if document.get(name)), ""):
        raise unsupported(name, maker=MAKER, hint="this model is not known to take it")
    return fields
