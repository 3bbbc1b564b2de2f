"""A chat completion from a Responses request: whole documents, and refusals that name the member."""

import pytest

from gateway.errors import InvalidRequestError, UnsupportedError
from gateway.portable_chat import portable_chat
from gateway.surfaces.responses_request import chat_of_responses

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def portable(given="Hi", **members):
    return portable_chat(chat_of_responses({"model": "m", "input": given, **members}))


def text(said):
    return {"type": "text", "text": said}


def test_simple_request_is_a_simple_chat():
    assert portable() == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_everything_that_has_a_translation_is_translated():
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}

    assert portable(
        instructions="Be brief.",
        stream=True,
        stream_options={"include_obfuscation": False},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        tools=[{**TOOL, "description": "F.", "strict": False}],
        tool_choice="required",
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", **schema}, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        store=True,
        truncation="disabled",
        prompt_cache_key="k",
        user="u",
        service_tier="flex",
        min_p=0.1,
    ) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "F.",
                    "parameters": {"type": "object"},
                    "strict": False,
                },
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "verbosity": "low",
        "reasoning_effort": "high",
        "prompt_cache_key": "k",
        "user": "u",
        "service_tier": "flex",
        "min_p": 0.1,
    }


def test_items_are_messages_in_their_order():
    picture = {"type": "input_image", "image_url": "https://a/b.png", "detail": "low"}
    part = {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}}
    calls = [
        {"type": "function_call", "call_id": name, "name": name, "arguments": "{}"} for name in ("a", "b")
    ]

    messages = portable(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Go"}, picture]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I go."}]},
            *calls,
            {"type": "function_call_output", "call_id": "a", "output": [picture]},
            {"type": "function_call_output", "call_id": "b", "output": "1"},
        ],
        instructions="Be kind.",
    )["messages"]

    assert messages == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        {"role": "user", "content": [text("Go"), part]},
        {
            "role": "assistant",
            "content": "I go.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
                for name in ("a", "b")
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": "1"},
        {"role": "user", "content": [text("What tool call a returned besides text:"), part]},
    ]


def test_file_travels_as_data():
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}

    (message,) = portable([{"role": "user", "content": [file]}])["messages"]

    assert message["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    ]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", {"tools": [FUNCTION], "tool_choice": "auto"}),
        (
            {"type": "function", "name": "f"},
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            {"tools": [FUNCTION], "tool_choice": "required"},
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": []},
            {},
        ),
    ],
)
def test_choice_of_a_tool_is_translated(choice, wanted):
    others = [{**TOOL, "name": "g"}] if isinstance(choice, dict) and "tools" in choice else []

    chat = portable(tools=[TOOL, *others], tool_choice=choice)

    assert {name: chat[name] for name in ("tools", "tool_choice") if name in chat} == wanted


@pytest.mark.parametrize("form", [{"type": "json_object"}, {"type": "text"}])
def test_form_without_a_schema_is_translated(form):
    wanted = None if form["type"] == "text" else form

    assert portable(text={"format": form}).get("response_format") == wanted


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"n": 2}, "n"),
        ({"messages": [{}]}, "messages"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "i"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a"}]}]},
            "input[0].content[0].file_url",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
    ],
)
def test_what_no_chat_can_say_is_refused_by_name(members, param):
    with pytest.raises(UnsupportedError) as refused:
        portable(
            **{"given": members.get("input", "Hi"), **{n: v for n, v in members.items() if n != "input"}}
        )

    assert refused.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"instructions": 1}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"store": "no"}, "store"),
        ({"include": "all"}, "include"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
    ],
)
def test_what_is_wrong_is_refused_by_name(members, param):
    with pytest.raises(InvalidRequestError) as refused:
        chat_of_responses({"model": "m", "input": "Hi", **members})

    assert (type(refused.value), refused.value.param) == (InvalidRequestError, param)
