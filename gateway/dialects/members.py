"""OpenAI's request members, read for makers that name things otherwise: known, harmless or refused."""

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import orjson

from gateway.dialects.dialect import unsupported
from gateway.errors import InvalidRequestError

# What says nothing about the answer: these are left out, nobody misses them.
HARMLESS = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "metadata",
        "store",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "safety_identifier",
        "user",
        "verbosity",
        "max_tokens",
        "max_completion_tokens",
    }
)
# Members whose value says what would be done without them.
DEFAULTS: Mapping[str, Collection[object]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "function_call": ("auto", "none"),
}
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.=+-]+)*;base64,(.*)", re.DOTALL)
SYSTEM_ROLES = frozenset({"system", "developer"})
Blocks = list[dict[str, Any]]


class BlockMaker(Protocol):
    """Writes one message of OpenAI's as a maker's blocks; `param` is its place in the request."""

    def __call__(self, message: Mapping[str, Any], *, param: str) -> Blocks: ...


def check_members(document: Mapping[str, Any], *, translated: Collection[str], maker: str) -> None:
    """Raise UnsupportedError for the first member that is neither translated, harmless nor the default."""
    for name, value in document.items():
        if value is None or name in translated or name in HARMLESS:
            continue
        if name not in DEFAULTS or value not in DEFAULTS[name]:
            raise unsupported(name, maker=maker)


def conversation(
    given: Sequence[Mapping[str, Any]],
    *,
    system: BlockMaker,
    sides: Mapping[str, tuple[str, BlockMaker]],
    member: str,
    maker: str,
) -> tuple[Blocks, Blocks]:
    """System blocks, wherever they stood, and turns; messages of one side in a row become one turn.

    Args:
        given: the messages.
        system: for those of SYSTEM_ROLES.
        sides: by each other role, the maker's word for its side, and what writes its messages.
        member: where a turn has its blocks.
        maker: whose words these are, for refusals.
    """
    systems: Blocks = []
    turns: Blocks = []
    for index, message in enumerate(given):
        role, param = message["role"], f"messages[{index}]"
        if role in SYSTEM_ROLES:
            systems += system(message, param=param)
            continue
        if role not in sides:
            raise unsupported(f"{param}.role", maker=maker, hint=f"`{role}` is unknown there")
        side, make = sides[role]
        blocks = make(message, param=param)
        if turns and turns[-1]["role"] == side:
            turns[-1][member] += blocks
        elif blocks:
            turns.append({"role": side, member: blocks})
    if not turns:
        raise InvalidRequestError("`messages` must have a message that says something.", param="messages")
    return systems, turns


def parts_of(content: object, *, param: str) -> Iterator[Mapping[str, Any]]:
    """A message's content as parts; a text becomes one, nothing becomes none."""
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, Mapping):
                place = f"{param}[{index}]"
                raise InvalidRequestError("Each part of `content` must be an object.", param=place)
            yield part


def text_of_part(part: Mapping[str, Any], *, param: str, maker: str) -> str:
    """The text of a part that must be one."""
    if part.get("type") in {"text", "refusal"}:
        text = part.get(part["type"])
        if isinstance(text, str):
            return text
        raise InvalidRequestError("A part of type `text` must have a `text`.", param=param)
    raise unsupported(param, maker=maker, hint=f"only text can stand there, not `{part.get('type')}`")


def image_url(part: Mapping[str, Any], *, param: str) -> str:
    """The URL of a part of type `image_url`."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    if not isinstance(url, str) or not url:
        raise InvalidRequestError("A part of type `image_url` must have a `url`.", param=param)
    return url


def data_of_url(url: str, *, param: str) -> tuple[str, str] | None:
    """Media type and base64 text of a data URL; None for a URL of another kind."""
    if not url.startswith("data:"):
        return None
    match = DATA_URL.fullmatch(url)
    if match is None:
        raise InvalidRequestError("A data URL must be `data:<type>;base64,<data>`.", param=param)
    try:
        base64.b64decode(match[2], validate=True)
    except binascii.Error as error:
        raise InvalidRequestError("The data URL is not valid base64.", param=param) from error
    return match[1], match[2]


def tool_functions(document: Mapping[str, Any], *, maker: str) -> list[Mapping[str, Any]]:
    """The functions of `tools`; raises UnsupportedError for tools of another type."""
    tools = document.get("tools") or []
    if not isinstance(tools, list):
        raise InvalidRequestError("`tools` must be a list.", param="tools")
    functions: list[Mapping[str, Any]] = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
            raise InvalidRequestError("Each tool must be an object with a `type`.", param=param)
        if tool["type"] != "function":
            raise unsupported(param, maker=maker, hint="only tools of type `function` are translated")
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequestError("A function must have a `name`.", param=param)
        # Some clients mark the tool, not its function, for the prompt cache.
        marked = {"cache_control": tool["cache_control"]} if "cache_control" in tool else {}
        functions.append({**marked, **function})
    return functions


def tool_choice(document: Mapping[str, Any], *, maker: str) -> tuple[str, str]:
    """(`auto` | `none` | `required` | `function` | empty where nothing is said, the function's name)."""
    choice = document.get("tool_choice")
    if choice is None:
        return "", ""
    if choice in ("auto", "none", "required"):
        return str(choice), ""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return "function", function["name"]
    raise unsupported("tool_choice", maker=maker, hint="use `auto`, `none`, `required` or one function")


def tool_calls(
    message: Mapping[str, Any], *, param: str
) -> Iterator[tuple[Mapping[str, Any], str, str, dict[str, Any]]]:
    """(the call, its id, function name, arguments as an object) of an assistant's message."""
    for index, call in enumerate(message.get("tool_calls") or []):
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        place = f"{param}.tool_calls[{index}]"
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise InvalidRequestError("Each tool call must have a function with a `name`.", param=place)
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except (orjson.JSONDecodeError, TypeError) as error:
            raise InvalidRequestError("A tool call's `arguments` must be JSON.", param=place) from error
        if not isinstance(arguments, dict):
            raise InvalidRequestError("A tool call's `arguments` must be a JSON object.", param=place)
        yield call, str(call.get("id") or ""), name, arguments


def response_schema(document: Mapping[str, Any], *, maker: str) -> tuple[str, Mapping[str, Any]]:
    """(`text` | `json_object` | `json_schema`, the named schema with its `schema`)."""
    given = document.get("response_format")
    if given is None:
        return "text", {}
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind in ("text", "json_object"):
        return str(kind), {}
    named = given.get("json_schema") if isinstance(given, Mapping) else None
    if kind == "json_schema" and isinstance(named, Mapping) and isinstance(named.get("schema"), Mapping):
        return "json_schema", named
    raise unsupported("response_format", maker=maker, hint="use `text`, `json_object` or `json_schema`")


def stop_sequences(document: Mapping[str, Any]) -> Sequence[str]:
    stop = document.get("stop")
    given = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise InvalidRequestError("`stop` must be a string or a list of strings.", param="stop")
    return given


def number(document: Mapping[str, Any], name: str) -> float | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequestError(f"`{name}` must be a number.", param=name)
    return value
