"""What a stand-in understands of a request body, and how it counts the prompt.

Counting is exact and simple: a token is a word (what `str.split()` gives), or one integer of a
token array. A chat prompt has 4 more for each message, and 3 more for the opening of the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

Value = TypeVar("Value")

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"

CHOICES_MAX = 128
INPUTS_MAX = 2048
# Of all choices together: the words are planned, and kept, before the first is sent.
OUTPUT_TOKENS_MAX = 200_000
STOPS_MAX = 16
DIMENSIONS_MAX = 4096
DIMENSIONS_DEFAULT = 64
# Of all vectors together.
VECTOR_NUMBERS_MAX = 1_000_000
FAULT_AFTER_TOKENS_DEFAULT = 3
RETRY_AFTER_S_MAX = 86_400


class RequestError(Exception):
    """A request that is answered with an error, in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind=kind, code=code, param=param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing to answer or to embed; `text` decides the answer, `tokens` the bill."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The `standin_*` members: what a test or the demo asks of this one answer."""

    # Exactly this many tokens for each choice, unless max_tokens is less.
    completion_tokens: int | None
    cached_tokens: int | None
    # How many of the completion tokens are reasoning.
    reasoning_tokens: int | None
    fault: str | None
    # Mid-stream faults strike after so many tokens.
    fault_after_tokens: int
    retry_after_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """The function that will be called; `properties` maps its parameters to their JSON types."""

    name: str
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A chat or completion request; each prompt gets `choice_count` choices."""

    path: str
    model: str
    prompts: tuple[Prompt, ...]
    choice_count: int
    tokens_max: int | None
    stops: tuple[str, ...]
    is_stream: bool
    includes_usage: bool
    tool: Tool | None
    knobs: Knobs

    @property
    def is_chat(self) -> bool:
        return self.path == CHAT_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    path: str
    model: str
    prompts: tuple[Prompt, ...]
    dimensions: int
    is_base64: bool
    knobs: Knobs

    @property
    def is_stream(self) -> bool:
        return False


def error_body(
    message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def parse_request(*, path: str, body: bytes) -> CompletionRequest | EmbeddingRequest:
    """Raises RequestError (400) that names the member in the wrong."""
    members = parse_object(body)
    if path == EMBEDDINGS_PATH:
        return parse_embedding(members)
    return parse_completion(path=path, members=members)


def parse_object(body: bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        raise RequestError("The body is not valid JSON.", code="invalid_json") from err
    if not isinstance(members, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_json")
    return members


def count_prompt(body: bytes) -> int:
    """The tokens of vLLM's /tokenize: of a chat's messages, or of a prompt."""
    members = parse_object(body)
    prompts = chat_prompts(members) if "messages" in members else input_prompts(members, name="prompt")
    return sum(prompt.tokens for prompt in prompts)


def parse_completion(*, path: str, members: Mapping[str, Any]) -> CompletionRequest:
    is_chat = path == CHAT_PATH
    stream_options = member(members, "stream_options", dict, {})
    tokens_max = whole(members, "max_completion_tokens", least=1) if is_chat else None
    if tokens_max is None:
        tokens_max = whole(members, "max_tokens", least=1)
    prompts = chat_prompts(members) if is_chat else input_prompts(members, name="prompt")
    choice_count = whole(members, "n", least=1, most=CHOICES_MAX) or 1
    if len(prompts) * choice_count > INPUTS_MAX:
        raise RequestError(f"n times the prompts must be {INPUTS_MAX} at most.", param="n")
    return CompletionRequest(
        path=path,
        model=member(members, "model", str, ""),
        prompts=prompts,
        choice_count=choice_count,
        tokens_max=tokens_max,
        stops=parse_stops(members.get("stop")),
        is_stream=member(members, "stream", bool, False),
        includes_usage=member(stream_options, "include_usage", bool, False),
        tool=parse_tool(members) if is_chat else None,
        knobs=parse_knobs(members),
    )


def parse_embedding(members: Mapping[str, Any]) -> EmbeddingRequest:
    encoding = member(members, "encoding_format", str, "float")
    if encoding not in {"float", "base64"}:
        raise RequestError("encoding_format is float or base64.", param="encoding_format")
    prompts = input_prompts(members, name="input")
    dimensions = whole(members, "dimensions", least=1, most=DIMENSIONS_MAX) or DIMENSIONS_DEFAULT
    if len(prompts) * dimensions > VECTOR_NUMBERS_MAX:
        raise RequestError("dimensions are too many for so many inputs.", param="dimensions")
    return EmbeddingRequest(
        path=EMBEDDINGS_PATH,
        model=member(members, "model", str, ""),
        prompts=prompts,
        dimensions=dimensions,
        is_base64=encoding == "base64",
        knobs=parse_knobs(members),
    )


def parse_knobs(members: Mapping[str, Any]) -> Knobs:
    after = whole(members, "standin_fault_after_tokens", least=0)
    retry_after_s = whole(members, "standin_retry_after_s", least=0, most=RETRY_AFTER_S_MAX)
    return Knobs(
        completion_tokens=whole(members, "standin_completion_tokens", most=OUTPUT_TOKENS_MAX),
        cached_tokens=whole(members, "standin_cached_tokens"),
        reasoning_tokens=whole(members, "standin_reasoning_tokens"),
        fault=member(members, "standin_fault", str, "") or None,
        fault_after_tokens=FAULT_AFTER_TOKENS_DEFAULT if after is None else after,
        retry_after_s=1 if retry_after_s is None else retry_after_s,
    )


def chat_prompts(members: Mapping[str, Any]) -> tuple[Prompt, ...]:
    messages = members.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list with at least one message.", param="messages")
    texts = [message_text(message) for message in messages]
    tokens = sum(len(text.split()) for text in texts) + 4 * len(texts) + 3
    return (Prompt(text="\n".join(texts), tokens=tokens),)


def message_text(message: object) -> str:
    """The text of a message; images and other parts count nothing."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError("Each message must be an object with a role.", param="messages")
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestError("content must be text or a list of parts.", param="messages")
    texts = [part.get("text") for part in content]
    return " ".join(text for text in texts if isinstance(text, str))


def input_prompts(members: Mapping[str, Any], *, name: str) -> tuple[Prompt, ...]:
    """Text, a list of texts, a list of token ids, or a list of such lists."""
    given = members.get(name)
    inputs = given if isinstance(given, list) and not all_integers(given) else [given]
    if not 1 <= len(inputs) <= INPUTS_MAX:
        raise RequestError(f"{name} must hold 1 to {INPUTS_MAX} inputs.", param=name)
    prompts = []
    for one in inputs:
        if isinstance(one, str):
            prompts.append(Prompt(text=one, tokens=len(one.split())))
        elif isinstance(one, list) and one and all_integers(one):
            prompts.append(Prompt(text=" ".join(map(str, one)), tokens=len(one)))
        else:
            raise RequestError(f"{name} must be text or token ids, or a list of such.", param=name)
    return tuple(prompts)


def all_integers(values: list[Any]) -> bool:
    return bool(values) and all(type(value) is int for value in values)


def parse_stops(given: object) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given
    if stops is None:
        return ()
    if (
        not isinstance(stops, list)
        or len(stops) > STOPS_MAX
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise RequestError(f"stop must be text or up to {STOPS_MAX} texts.", param="stop")
    return tuple(stops)


def parse_tool(members: Mapping[str, Any]) -> Tool | None:
    """The tool to call: the one that tool_choice names, else the first, if one is to be called."""
    functions = [inner_object(one) for one in member(members, "tools", list, [])]
    choice = members.get("tool_choice")
    if not functions or choice == "none":
        return None
    name = inner_object(choice).get("name") if isinstance(choice, dict) else None
    is_forced = name is not None or choice == "required"
    if not is_forced and "tool" not in message_text(members["messages"][-1]):
        return None
    for function in functions:
        if name is None or function.get("name") == name:
            return tool_of(function)
    raise RequestError("tool_choice names no tool of the request.", param="tool_choice")


def inner_object(tool: object) -> dict[str, Any]:
    """The `function` of `{"type": "function", "function": {...}}`."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError("A tool must be an object with a function and its name.", param="tools")
    return function


def tool_of(function: Mapping[str, Any]) -> Tool:
    rules = member(member(function, "parameters", dict, {}), "properties", dict, {})
    types = {
        name: str(rule.get("type")) if isinstance(rule, dict) else "string" for name, rule in rules.items()
    }
    return Tool(name=function["name"], properties=types)


def member(members: Mapping[str, Any], name: str, kind: type[Value], default: Value) -> Value:
    """A member of the given type; absent and null give the default."""
    value = members.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(f"{name} has the wrong type.", param=name)
    return value


def whole(members: Mapping[str, Any], name: str, *, least: int = 0, most: int = 2**31) -> int | None:
    """A whole number between the bounds, both included; absent and null give None."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}.", param=name)
    return value
