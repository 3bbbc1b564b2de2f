"""Anthropic's Messages API: OpenAI's chat request in its words, and the dialect that ties both ways together.

The source is https://platform.claude.com/docs/en/api/messages. What has no translation is refused; `seed` and
a message's `name` have none and are left out, as Anthropic's own OpenAI-compatible endpoint leaves them out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.dialects import members
from gateway.dialects.anthropic_answers import AnthropicTranslator, openai_answer
from gateway.dialects.chats import ANY_OBJECT, JSON_TOOL, JSON_TOOL_DESCRIPTION
from gateway.dialects.dialect import (
    EVENT_STREAM,
    Call,
    ErrorParts,
    Translator,
    error_object,
    text_of,
    unsupported,
)

MAKER = "Anthropic"
# The version whose older models still take temperature and top_p; a later one refuses them for every model.
VERSION = "2023-06-01"
TRANSLATED = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "thinking",
        "service_tier",
        "seed",
    }
)
SERVICE_TIERS = {"auto": "auto", "default": "standard_only"}
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
# Thinking tokens by effort, for models that want a number; Google documents the same three for its own.
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
BUDGET_TOKENS_MIN = 1024
# (generation, the longest answer of its smallest model), for requests in which nobody set a limit.
OUTPUT_TOKENS = (((3, 5), 4096), ((3, 7), 8192))
OUTPUT_TOKENS_NEWER = 32_000
NEWEST = (999, 0)
THINKING_FROM, FORMAT_FROM, ADAPTIVE_FROM, DISPLAY_FROM = (3, 7), (4, 5), (4, 6), (4, 7)
_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2}))?(?=$|[-@:])")
_MARK = "cache_control"


class AnthropicDialect:
    """POST /v1/messages."""

    is_openai = False
    stream_type = EVENT_STREAM

    def path(self, call: Call) -> str:
        return "/v1/messages"

    def body(self, call: Call) -> bytes:
        return orjson.dumps(anthropic_request(call))

    def headers(self, signed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*signed, ("anthropic-version", VERSION)]

    def answer(self, body: bytes, call: Call) -> bytes:
        return openai_answer(body, created_s=call.created_s)

    def translator(self, call: Call, *, line_bytes_max: int) -> Translator:
        return AnthropicTranslator(
            created_s=call.created_s, model=call.upstream_name, line_bytes_max=line_bytes_max
        )

    def error_parts(self, body: bytes) -> ErrorParts:
        error = error_object(body)
        return ErrorParts(message=text_of(error.get("message")), code=text_of(error.get("type")) or None)


def generation(model: str) -> tuple[int, int]:
    """(4, 5) of `claude-sonnet-4-5-20250929`; a name that says none is taken for the newest."""
    match = _GENERATION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else NEWEST


def anthropic_request(call: Call) -> dict[str, Any]:
    """The Messages request. Raises UnsupportedError or InvalidRequestError where there is none."""
    document = call.document
    if call.request.surface != "chat":
        raise unsupported(
            "model", maker=MAKER, hint=f"it has no {call.request.surface}; use a model of another provider"
        )
    members.check_members(document, translated=TRANSLATED, maker=MAKER)
    system, messages = members.conversation(
        document["messages"], system=_system_blocks, sides=SIDES, member="content", maker=MAKER
    )
    tools = _tools(document)
    choice = _tool_choice(document) if tools else None
    output: dict[str, Any] = {}
    kind, named = members.response_schema(document, maker=MAKER)
    if kind == "json_schema" and generation(call.upstream_name) >= FORMAT_FROM:
        output["format"] = {"type": "json_schema", "schema": closed_schema(named["schema"])}
    elif kind != "text":
        if tools:
            raise unsupported(
                "response_format",
                maker=MAKER,
                hint="this model gives it only without `tools`; send one of them",
            )
        tools = [_json_tool(named)]
        choice = {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
    limit = _output_limit(call)
    configured, effort = thinking(call, limit=limit, maker=MAKER)
    if effort:
        output["effort"] = effort
    request = {
        "model": call.upstream_name,
        "max_tokens": limit,
        "messages": messages,
        "system": system,
        "tools": tools,
        "tool_choice": choice,
        "stop_sequences": list(members.stop_sequences(document)),
        "metadata": _metadata(document),
        "output_config": output,
        "thinking": configured,
        "service_tier": _service_tier(document),
        **sampling(document, maker=MAKER),
        "stream": call.request.is_stream or None,
    }
    return {name: value for name, value in request.items() if value not in (None, [], {})}


def closed_schema(schema: Any) -> Any:
    """The schema with `additionalProperties: false` where an object does not say: Anthropic demands it."""
    if isinstance(schema, list):
        return [closed_schema(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {name: closed_schema(value) for name, value in schema.items()}
    if closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def thinking(call: Call, *, limit: int, maker: str) -> tuple[dict[str, Any] | None, str | None]:
    """The thinking configuration and the effort; the member `thinking` goes before `reasoning_effort`."""
    document = call.document
    own, asked = document.get("thinking"), document.get("reasoning_effort")
    if own is not None:
        return dict(own) if isinstance(own, Mapping) else {}, None
    if asked is None:
        return None, None
    if asked == "none":
        return {"type": "disabled"}, None
    version = generation(call.upstream_name)
    if asked not in EFFORTS or version < THINKING_FROM:
        raise unsupported("reasoning_effort", maker=maker, hint="this model does not think by that effort")
    if version >= ADAPTIVE_FROM:
        shown = {"display": "summarized"} if version >= DISPLAY_FROM else {}
        return {"type": "adaptive", **shown}, "low" if asked == "minimal" else str(asked)
    budget = min(BUDGETS[asked], limit - BUDGET_TOKENS_MIN)
    if budget < BUDGET_TOKENS_MIN or _lost_its_thinking(document["messages"]):
        # Too short an answer to think in, or a turn that thinking may not be switched on in.
        return None, None
    return {"type": "enabled", "budget_tokens": budget}, None


def sampling(document: Mapping[str, Any], *, maker: str) -> dict[str, Any]:
    """What is the default anyway is left out: newer models refuse the members, or both together."""
    values = {name: members.number(document, name) for name in ("temperature", "top_p", "top_k")}
    if (values["temperature"] or 0) > 1:
        raise unsupported("temperature", maker=maker, hint="its temperatures end at 1")
    return {name: value for name, value in values.items() if value != 1 or name == "top_k"}


def _system_blocks(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    parts = members.parts_of(message.get("content"), param=param)
    return _marked_last(
        [
            _text(members.text_of_part(part, param=param, maker=MAKER), part)
            for part in parts
            if part.get("text")
        ],
        message,
    )


def _user_turn(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    return _user_blocks(message.get("content"), param=f"{param}.content")


def _user_blocks(content: object, *, param: str) -> list[dict[str, Any]]:
    blocks = []
    for index, part in enumerate(members.parts_of(content, param=param)):
        place = f"{param}[{index}]"
        if part.get("type") == "image_url":
            blocks.append({**_image(members.image_url(part, param=place), param=place), **_mark(part)})
        elif part.get("type") == "file":
            blocks.append({**_pdf(part, param=place), **_mark(part)})
        elif text := members.text_of_part(part, param=place, maker=MAKER):
            blocks.append(_text(text, part))
    return blocks


def _assistant_blocks(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    """Thinking with its signatures first, as it came, then what was said, then what was called."""
    thinking = message.get("thinking_blocks") or []
    blocks = [dict(block) for block in thinking if isinstance(block, Mapping) and _is_replayable(block)]
    parts = members.parts_of(message.get("content"), param=f"{param}.content")
    said = [(members.text_of_part(part, param=f"{param}.content", maker=MAKER), part) for part in parts]
    blocks += [_text(text, part) for text, part in said if text]
    for given, call_id, name, arguments in members.tool_calls(message, param=param):
        block = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
        blocks.append({**block, **_mark(given)})
    return _marked_last(blocks, message)


def _is_replayable(block: Mapping[str, Any]) -> bool:
    return bool(block.get("signature") if block.get("type") == "thinking" else block.get("data"))


def _tool_result(message: Mapping[str, Any], *, param: str) -> list[dict[str, Any]]:
    content = message.get("content")
    result = {
        "type": "tool_result",
        "tool_use_id": str(message.get("tool_call_id") or ""),
        "content": content if isinstance(content, str) else _user_blocks(content, param=f"{param}.content"),
    }
    return [{**result, **_mark(message)}]


SIDES: Mapping[str, tuple[str, members.BlockMaker]] = {
    "assistant": ("assistant", _assistant_blocks),
    "user": ("user", _user_turn),
    "tool": ("user", _tool_result),
}


def _text(text: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": text, **_mark(part)}


def _mark(source: Mapping[str, Any]) -> dict[str, Any]:
    """A mark for the prompt cache passes through as it is."""
    return {_MARK: source[_MARK]} if source.get(_MARK) else {}


def _marked_last(blocks: list[dict[str, Any]], message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A mark on the message itself counts for its last block."""
    if blocks and message.get(_MARK):
        blocks[-1] = {**blocks[-1], **_mark(message)}
    return blocks


def _image(url: str, *, param: str) -> dict[str, Any]:
    data = members.data_of_url(url, param=param)
    if data is not None:
        return {"type": "image", "source": {"type": "base64", "media_type": data[0], "data": data[1]}}
    if not url.startswith("https://"):
        raise unsupported(param, maker=MAKER, hint="a picture's URL must be `https:` or `data:`")
    return {"type": "image", "source": {"type": "url", "url": url}}


def _pdf(part: Mapping[str, Any], *, param: str) -> dict[str, Any]:
    file = part.get("file")
    url = file.get("file_data") if isinstance(file, Mapping) else None
    data = members.data_of_url(url, param=param) if isinstance(url, str) else None
    if data is None or data[0] != "application/pdf":
        raise unsupported(param, maker=MAKER, hint="send a file as a data URL of type application/pdf")
    source = {"type": "base64", "media_type": data[0], "data": data[1]}
    title = file.get("filename") if isinstance(file, Mapping) else None
    return {"type": "document", "source": source, **({"title": title} if isinstance(title, str) else {})}


def _tools(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = []
    for function in members.tool_functions(document, maker=MAKER):
        tool = {
            "name": function["name"],
            "description": function.get("description") or None,
            "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
            "strict": True if function.get("strict") else None,
            _MARK: function.get(_MARK) or None,
        }
        tools.append({name: value for name, value in tool.items() if value is not None})
    return tools


def _tool_choice(document: Mapping[str, Any]) -> dict[str, Any] | None:
    kind, name = members.tool_choice(document, maker=MAKER)
    types = {"": "auto", "auto": "auto", "none": "none", "required": "any", "function": "tool"}
    is_single = document.get("parallel_tool_calls") is False and kind != "none"
    choice: dict[str, Any] = {"type": types[kind], **({"name": name} if name else {})}
    if is_single:
        choice["disable_parallel_tool_use"] = True
    return choice if kind or is_single else None


def _json_tool(named: Mapping[str, Any]) -> dict[str, Any]:
    """Models without structured output are made to call this one tool; its arguments are the answer."""
    return {
        "name": JSON_TOOL,
        "description": named.get("description") or JSON_TOOL_DESCRIPTION,
        "input_schema": named.get("schema") or ANY_OBJECT,
    }


def _output_limit(call: Call) -> int:
    """Anthropic wants one: the bound where anybody set one, else what each model of the generation can."""
    if call.is_output_limited:
        return call.output_tokens_bound
    version = generation(call.upstream_name)
    most = next((tokens for below, tokens in OUTPUT_TOKENS if version < below), OUTPUT_TOKENS_NEWER)
    return min(most, call.output_tokens_bound)


def _lost_its_thinking(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether tools were called in the running turn and the client kept none of the thinking before it."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            return bool(message.get("tool_calls")) and not message.get("thinking_blocks")
        if message["role"] != "tool":
            return False
    return False


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    user = document.get("safety_identifier") or document.get("user")
    return {"user_id": user} if isinstance(user, str) else {}


def _service_tier(document: Mapping[str, Any]) -> str | None:
    tier = document.get("service_tier")
    if tier is not None and tier not in SERVICE_TIERS:
        raise unsupported("service_tier", maker=MAKER, hint="use `auto` or `default`")
    return None if tier is None else SERVICE_TIERS[tier]
