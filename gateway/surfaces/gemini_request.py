"""From a request of Google's Gemini API to the chat completion that asks for the same.

https://ai.google.dev/api/generate-content. The model and whether to stream stand in its path and are put into
the document before; what the API does not have travels on as it came, for backends that know it.
"""

from collections.abc import Mapping
from typing import Any

from gateway.surfaces.gemini_contents import camel, read_conversation, text_of
from gateway.surfaces.gemini_schema import camel_case, closed, is_strict, json_schema
from gateway.surfaces.members import Members

# Read here, or of no consequence to the answer: labels account for use; what to filter, an upstream decides.
KNOWN = frozenset(
    {
        "model",
        "stream",
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "generationConfig",
        "safetySettings",
        "labels",
        "store",
        "generateContentRequest",
    }
)
REFUSED = {
    "cachedContent": "is not possible: nothing is cached here under a name; send the whole of it",
    # A chat's own.
    "messages": "is not a member of this API; send `contents`",
    "n": "is not a member of this API",
    "streamOptions": "is not a member of this API",
}
READ = KNOWN | REFUSED.keys()
# These mean the same in a chat.
SAMPLING = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "stopSequences": "stop",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
GENERATION_READ = frozenset(
    {
        *SAMPLING,
        "candidateCount",
        "maxOutputTokens",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "responseModalities",
        "thinkingConfig",
        "mediaResolution",
        "enableEnhancedCivicAnswers",
    }
)
GENERATION_REFUSED = {
    "responseLogprobs": "is not possible with this API here; use chat completions",
    "logprobs": "is not possible with this API here; use chat completions",
    "speechConfig": "is not possible: answers are text",
    "imageConfig": "is not possible: answers are text",
}
MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto", "MODE_UNSPECIFIED": "auto"}
JSON_TYPE, TEXT_TYPE = "application/json", "text/plain"
SCHEMA_NAME = "answer"
# The most tokens of thinking at which it is called so much effort.
EFFORT_BUDGETS = ((0, "none"), (1024, "low"), (8192, "medium"))
EFFORT_MOST = "high"
LEVELS = ("minimal", "low", "medium", "high")


def chat_of_generate(given: Mapping[str, Any], *, is_answered: bool = True) -> dict[str, Any]:
    """The chat completion, or one to count; raises InvalidRequestError that names the member in the wrong."""
    document = camel(Members(given))
    document.refuse_if_given(REFUSED)
    chat: dict[str, Any] = {
        "model": document.get("model"),
        "messages": read_conversation(document, is_answered=is_answered).messages,
        **{name: value for name, value in given.items() if camel_case(name) not in READ},
        **_tools(document),
        **_generation(document),
    }
    if document.flag("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def shows_thinking(given: Mapping[str, Any]) -> bool:
    """Whether the answer is to have its thoughts in it: only on request, unlike other APIs."""
    thinking = _thinking_config(camel(Members(given)))
    return thinking is not None and thinking.flag("includeThoughts")


def counted_request(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is to be counted: contents alone, or a whole request within."""
    whole = camel(Members(given)).member_or_none("generateContentRequest")
    return given if whole is None else whole.document


def embedding_input(given: Mapping[str, Any]) -> dict[str, Any]:
    """The embeddings request of OpenAI's that asks for the same as `requests`, or as one by itself."""
    document = camel(Members(given))
    requests = [camel(one) for one in document.items("requests")] or [document]
    sizes = {_dimensions(one) for one in requests}
    if len(sizes) > 1:
        raise document.unsupported("requests", "must ask for one `outputDimensionality`")
    asked: dict[str, Any] = {
        "model": document.get("model"),
        "input": [text_of(camel(one.member("content"))) for one in requests],
        "encoding_format": "float",
    }
    size = sizes.pop()
    return asked if size is None else {**asked, "dimensions": size}


def _dimensions(request: Members) -> int | None:
    for holder in (request, request.member_or_none("embedContentConfig")):
        if holder is not None and (camelled := camel(holder)).get("outputDimensionality") is not None:
            return camelled.count("outputDimensionality")
    return None


def _tools(document: Members) -> dict[str, Any]:
    tools = [tool for given in document.items("tools") for tool in _functions(camel(given))]
    config = document.member_or_none("toolConfig")
    calling = None if config is None else camel(config).member_or_none("functionCallingConfig")
    if calling is None:
        return {"tools": tools} if tools else {}
    calling = camel(calling)
    choice: object = MODES[calling.choice("mode", MODES)] if calling.get("mode") is not None else "auto"
    allowed = calling.get("allowedFunctionNames")
    if allowed:
        declared = [tool["function"]["name"] for tool in tools]
        if not isinstance(allowed, list) or not all(name in declared for name in allowed):
            raise calling.wrong("allowedFunctionNames", "must be a list of names of declared functions")
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
        if choice == "required" and len(tools) == 1:
            choice = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
    if choice == "required" and not tools:
        raise calling.wrong("mode", "may be `ANY` only where functions are declared")
    return {"tools": tools, "tool_choice": choice} if tools else {}


def _functions(tool: Members) -> list[dict[str, Any]]:
    others = {
        name for name, value in tool.document.items() if name != "functionDeclarations" and value is not None
    }
    for name in sorted(others):
        raise tool.unsupported(name, "is not possible here: the gateway runs no tools, only functions are")
    return [_function(camel(declared)) for declared in tool.items("functionDeclarations")]


def _function(declared: Members) -> dict[str, Any]:
    function: dict[str, Any] = {"name": declared.text("name")}
    if (description := declared.text_or_none("description")) is not None:
        function["description"] = description
    if (schema := declared.member_or_none("parametersJsonSchema")) is not None:
        function["parameters"] = schema.document
    elif (parameters := declared.member_or_none("parameters")) is not None:
        function["parameters"] = json_schema(parameters.document)
    return {"type": "function", "function": function}


def _generation(document: Members) -> dict[str, Any]:
    given = document.member_or_none("generationConfig")
    if given is None:
        return {}
    config = camel(given)
    config.refuse_if_given(GENERATION_REFUSED)
    for name, value in config.document.items():
        if name not in GENERATION_READ and name not in GENERATION_REFUSED and value is not None:
            raise config.unsupported(name, "is not known here")
    if config.get("candidateCount") is not None and config.count("candidateCount") > 1:
        raise config.unsupported("candidateCount", "may only be 1 here")
    if config.get("responseModalities") not in (None, [], ["TEXT"]):
        raise config.unsupported("responseModalities", "may only be `TEXT` here")
    chat = {ours: _whole(config.get(name)) for name, ours in SAMPLING.items() if config.get(name) is not None}
    if config.get("maxOutputTokens") is not None:
        chat["max_tokens"] = config.count("maxOutputTokens")
    return chat | _form(config) | _thinking(document)


def _whole(value: object) -> object:
    """Google's SDK sends `topK` as 40.0, which not every backend takes for 40."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _form(config: Members) -> dict[str, Any]:
    """Which form the answer's text has."""
    kind = config.text_or_none("responseMimeType") or TEXT_TYPE
    schema = config.member_or_none("responseJsonSchema")
    form = None if schema is None else schema.document
    if form is None and (schema := config.member_or_none("responseSchema")) is not None:
        form = closed(json_schema(schema.document))
    if kind not in (JSON_TYPE, TEXT_TYPE):
        raise config.unsupported("responseMimeType", f"may only be {JSON_TYPE} or {TEXT_TYPE} here")
    if form is not None and kind != JSON_TYPE:
        raise config.wrong("responseMimeType", f"must be {JSON_TYPE} where a schema is given")
    if form is not None:
        is_kept = form.get("type") == "object" and is_strict(form)
        named = {"name": SCHEMA_NAME, "schema": form, "strict": is_kept}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"response_format": {"type": "json_object"}} if kind == JSON_TYPE else {}


def _thinking_config(document: Members) -> Members | None:
    config = document.member_or_none("generationConfig")
    thinking = None if config is None else camel(config).member_or_none("thinkingConfig")
    return None if thinking is None else camel(thinking)


def _thinking(document: Members) -> dict[str, Any]:
    """How much to think, in a chat's words; the budget of -1 leaves it to the model."""
    thinking = _thinking_config(document)
    if thinking is None:
        return {}
    level = thinking.text_or_none("thinkingLevel")
    if level is not None and level.lower() in LEVELS:
        return {"reasoning_effort": level.lower()}
    if level not in (None, "THINKING_LEVEL_UNSPECIFIED"):
        raise thinking.wrong("thinkingLevel", f"must be one of {', '.join(LEVELS)}")
    budget = thinking.get("thinkingBudget")
    if budget is None or budget == -1:
        return {}
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise thinking.wrong("thinkingBudget", "must be a whole number from -1")
    fitting = (effort for most, effort in EFFORT_BUDGETS if budget <= most)
    return {"reasoning_effort": next(fitting, EFFORT_MOST)}
