"""From a request of OpenAI's Responses API to the chat completion that asks for the same.

https://platform.openai.com/docs/api-reference/responses/create. Answers are not stored here: `store` is
accepted and answered as false, and what would need a stored answer is refused. Members that the API does not
have travel on as they came, for backends that know them.
"""

from collections.abc import Mapping
from typing import Any

from gateway.surfaces.members import Members
from gateway.surfaces.responses_input import read_conversation

# These mean the same in a chat.
SHARED = frozenset(
    {
        "temperature",
        "top_p",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    }
)
# Read here, answered as they are, or of no consequence to the answer: what bounds or shows hosted tools, and
# how events are padded.
KNOWN = frozenset(
    {
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "store",
        "metadata",
        "include",
        "max_tool_calls",
        "truncation",
        "prompt_cache_options",
        "background",
        "access_programs",
    }
)
NOT_STORED = "is not possible: answers are not stored here; send the whole conversation as `input`"
REFUSED = {
    "previous_response_id": NOT_STORED,
    "conversation": NOT_STORED,
    "background": "is not possible: answers are not stored here",
    "prompt": "is not possible: no prompts are stored here; send it as `input`",
    "context_management": "is not possible: shorten the conversation yourself",
    "moderation": "is not possible: the gateway does not moderate",
    "top_logprobs": "is not possible with this API here; use chat completions",
    # These are a chat's own: they would change the answer into one that has no counterpart.
    "n": "is not possible: an answer is one response",
    "messages": "is not a member of this API; send `input`",
}
LOGPROBS = "message.output_text.logprobs"
FORMATS = ("text", "json_schema", "json_object")
CHOICES = ("auto", "none", "required")


def chat_of_responses(given: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion; raises InvalidRequestError that names the member in the wrong."""
    document = Members(given)
    document.refuse_if_given(REFUSED)
    document.flag("store")
    if document.get("truncation") not in (None, "disabled"):
        raise document.unsupported("truncation", "may only be `disabled` here: send what fits")
    include = document.get("include")
    if include is not None and not isinstance(include, list):
        raise document.wrong("include", "must be a list")
    if include and LOGPROBS in include:
        raise document.unsupported("include", f"may not have `{LOGPROBS}` here; use chat completions")
    chat: dict[str, Any] = {
        "model": document.get("model"),
        "messages": read_conversation(document).messages,
        **{name: value for name, value in given.items() if name not in KNOWN and name not in REFUSED},
        **_tools(document),
        **_form(document),
    }
    if document.get("max_output_tokens") is not None:
        chat["max_tokens"] = document.count("max_output_tokens")
    reasoning = document.member_or_none("reasoning")
    if reasoning is not None and reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning.text("effort")
    if document.flag("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return {name: value for name, value in chat.items() if value is not None or name == "model"}


def _tools(document: Members) -> dict[str, Any]:
    tools = [_tool(tool) for tool in document.items("tools")]
    chat: dict[str, Any] = {}
    choice = document.get("tool_choice")
    if isinstance(choice, dict):
        chosen = document.member("tool_choice")
        if chosen.choice("type", ("function", "allowed_tools")) == "function":
            choice = {"type": "function", "function": {"name": chosen.text("name")}}
        else:
            choice = chosen.choice("mode", ("auto", "required"))
            allowed = {tool.text("name") for tool in chosen.items("tools")}
            tools = [tool for tool in tools if tool["function"]["name"] in allowed]
    elif choice is not None:
        choice = document.choice("tool_choice", CHOICES)
    if tools:
        chat["tools"] = tools
        # Without tools a chat refuses these; alone they say nothing.
        chat["parallel_tool_calls"] = document.get("parallel_tool_calls")
    if tools or choice not in {"auto", "none"}:
        chat["tool_choice"] = choice
    return chat


def _tool(tool: Members) -> dict[str, Any]:
    kind = tool.text("type")
    if kind != "function":
        raise tool.unsupported(
            "type", f"`{kind}` is not possible here: the gateway runs no tools, only `function` is"
        )
    tool.refuse_if_given({"defer_loading": "is not possible: there is no tool search here"})
    function: dict[str, Any] = {"name": tool.text("name")}
    if (description := tool.text_or_none("description")) is not None:
        function["description"] = description
    if (parameters := tool.member_or_none("parameters")) is not None:
        function["parameters"] = parameters.document
    if tool.get("strict") is not None:
        function["strict"] = tool.flag("strict")
    return {"type": "function", "function": function}


def _form(document: Members) -> dict[str, Any]:
    """Which form the answer's text has."""
    text = document.member_or_none("text")
    if text is None:
        return {}
    chat: dict[str, Any] = {"verbosity": text.text_or_none("verbosity")}
    form = text.member_or_none("format")
    kind = "text" if form is None else form.choice("type", FORMATS)
    if form is None or kind == "text":
        return chat
    if kind == "json_object":
        return {**chat, "response_format": {"type": kind}}
    names = ("name", "schema", "strict", "description")
    schema = {name: form.get(name) for name in names if form.get(name) is not None}
    form.member("schema")
    return {**chat, "response_format": {"type": kind, "json_schema": schema}}
