"""From a request of Anthropic's Messages API to the chat completion that asks for the same.

https://platform.claude.com/docs/en/api/messages. Members that the API does not have travel on as they came,
for backends that know them.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.portable_chat import CACHE_MARK, THINKING
from gateway.surfaces.members import Members
from gateway.surfaces.messages_content import read_conversation

# Read here, or of no consequence to the answer: what only accounts for use, and leave to shorten a long
# conversation.
KNOWN = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "stream",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "service_tier",
        "cache_control",
        "diagnostics",
        "user_profile_id",
        "workspace_id",
        "context_management",
        "billing_policy",
        "fallback_credit_token",
        "output_format",
        "speed",
    }
)
REFUSED = {
    "container": "is not possible: there are no containers here",
    "mcp_servers": "is not possible: the gateway calls no tools itself",
    "compaction": "is not possible: shorten the conversation yourself",
    "thread": "is not possible: conversations are not stored here; send the whole of it",
    "prefill": "is not possible: backends do not agree on how to go on from it",
    "inference_geo": "is not possible: an administrator chooses the regions of a key",
    "fallbacks": "is not possible: an administrator chooses the fallbacks of a model",
    # These are a chat's own: they would change the answer into one that has no counterpart.
    "n": "is not possible: an answer has one message",
    "stream_options": "is not a member of this API",
}
TIERS = {"auto": None, "standard_only": "default"}
THINKING_TYPES = ("enabled", "adaptive", "disabled", "between_tools")
# The most tokens of thinking at which it is called so much effort.
EFFORT_BUDGETS = (("low", 4_096), ("medium", 16_384))
EFFORT_MOST = "high"
# "max" is Anthropic's own word.
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
CHOICES = ("auto", "any", "tool", "none")
# What OpenAI takes for a name of a user.
USER_CHARACTERS_MAX = 64
SCHEMA_NAME = "answer"


def chat_of_messages(given: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion; raises InvalidRequestError that names the member in the wrong."""
    document = Members(given)
    document.refuse_if_given(REFUSED)
    if document.get("speed") not in (None, "standard"):
        raise document.unsupported("speed", "may only be `standard` here")
    is_stream = document.flag("stream")
    limit = document.count("max_tokens")
    chat: dict[str, Any] = {
        "model": document.get("model"),
        "messages": _messages(document),
        "max_tokens": limit,
        **{name: value for name, value in given.items() if name not in KNOWN and name not in REFUSED},
        **_tools(document),
        **_thinking(document),
        **_user(document),
    }
    if document.get("stop_sequences"):
        chat["stop"] = document.get("stop_sequences")
    if document.get("service_tier") is not None:
        tier = TIERS[document.choice("service_tier", TIERS)]
        chat |= {} if tier is None else {"service_tier": tier}
    if is_stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def shows_thinking(given: Mapping[str, Any]) -> bool:
    """Whether the answer is to have its thinking in it, if the model thinks at all."""
    thinking = given.get("thinking")
    if not isinstance(thinking, Mapping):
        return True
    return thinking.get("type") != "disabled" and thinking.get("display") != "omitted"


def _messages(document: Members) -> list[dict[str, Any]]:
    """With the mark that stands for all of them on the last part."""
    messages = read_conversation(document).messages
    if (mark := document.member_or_none(CACHE_MARK)) is not None:
        marked = {CACHE_MARK: mark.document}
        content = messages[-1]["content"]
        if isinstance(content, list):
            content[-1] = {**content[-1], **marked}
        else:
            messages[-1] |= marked
    return messages


def _tools(document: Members) -> dict[str, Any]:
    tools = [_tool(tool) for tool in document.items("tools")]
    chat: dict[str, Any] = {"tools": tools} if tools else {}
    choice = document.member_or_none("tool_choice")
    if choice is None:
        return chat
    kind = choice.choice("type", CHOICES)
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.text("name")}}
    elif tools or kind == "any":
        chat["tool_choice"] = "required" if kind == "any" else kind
    if choice.flag("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Members) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in {None, "custom"}:
        raise tool.unsupported(
            "type",
            f"`{kind}` is not possible: a tool needs an `input_schema` of its own here",
        )
    tool.refuse_if_given({"defer_loading": "is not possible: there is no tool search here"})
    if tool.get("allowed_callers") not in (None, ["direct"]):
        raise tool.unsupported("allowed_callers", "may hold only `direct` here")
    function: dict[str, Any] = {"name": tool.text("name"), "parameters": tool.member("input_schema").document}
    if (mark := tool.member_or_none(CACHE_MARK)) is not None:
        function[CACHE_MARK] = mark.document
    description = _description(tool)
    if description:
        function["description"] = description
    if tool.get("strict") is not None:
        function["strict"] = tool.flag("strict")
    return {"type": "function", "function": function}


def _description(tool: Members) -> str:
    """With the examples, which a chat's function has no member for."""
    examples = [orjson.dumps(example.document).decode() for example in tool.items("input_examples")]
    told = [f"Examples of input: {', '.join(examples)}"] if examples else []
    return "\n\n".join(filter(None, [tool.text_or_none("description"), *told]))


def _thinking(document: Members) -> dict[str, Any]:
    """How much to think, in a chat's words, and which form the answer has."""
    chat: dict[str, Any] = {}
    thinking = document.member_or_none("thinking")
    if thinking is not None:
        # For the makers that know it; others go by the effort.
        chat[THINKING] = thinking.document
    if thinking is not None and thinking.choice("type", THINKING_TYPES) == "enabled":
        budget = thinking.count("budget_tokens")
        fitting = (effort for effort, most in EFFORT_BUDGETS if budget <= most)
        chat["reasoning_effort"] = next(fitting, EFFORT_MOST)
    form = document.member_or_none("output_format")
    output = document.member_or_none("output_config")
    if output is not None:
        form = output.member_or_none("format")
        if output.get("effort") is not None:
            chat["reasoning_effort"] = EFFORTS[output.choice("effort", EFFORTS)]
            if thinking is not None and thinking.get("type") == "adaptive":
                # The effort says as much, and more.
                del chat[THINKING]
    if form is not None:
        form.choice("type", ("json_schema",))
        schema = {"name": SCHEMA_NAME, "schema": form.member("schema").document, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _user(document: Members) -> dict[str, Any]:
    """Who asks, by a name that every upstream takes: it also says which session the request belongs to."""
    metadata = document.member_or_none("metadata")
    name = None if metadata is None else metadata.text_or_none("user_id")
    if not name:
        return {}
    if len(name) > USER_CHARACTERS_MAX:
        name = hashlib.sha256(name.encode()).hexdigest()
    return {"user": name}
