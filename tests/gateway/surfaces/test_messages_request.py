"""A chat completion from an Anthropic request: whole documents, and refusals that name the member."""

import pytest

from gateway.errors import InvalidRequestError, UnsupportedError
from gateway.portable_chat import portable_chat, strict_chat
from gateway.surfaces.messages_request import chat_of_messages, shows_thinking

MARK = {"cache_control": {"type": "ephemeral"}}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PIXEL_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def asked(*messages, **members):
    listed = list(messages) or [{"role": "user", "content": "Hi"}]
    return {"model": "m", "max_tokens": 9, "messages": listed, **members}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def text(said, **more):
    return {"type": "text", "text": said, **more}


def portable(*messages, **members):
    return portable_chat(chat_of_messages(asked(*messages, **members)))


def test_simple_request_is_a_simple_chat():
    assert portable() == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


def test_everything_that_has_a_translation_is_translated():
    request = asked(
        system=[text("Be brief.", **MARK), text("Be kind.")],
        stream=True,
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        tools=[
            {"name": "f", "description": "F.", "input_schema": {"type": "object"}, **MARK},
            {"type": "custom", "name": "g", "input_schema": {}, "input_examples": [{"a": 1}], "strict": True},
        ],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 5000},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "u"},
        service_tier="standard_only",
        context_management={"edits": []},
        min_p=0.1,
    )
    functions = [
        {"name": "f", "parameters": {"type": "object"}, "description": "F."},
        {"name": "g", "parameters": {}, "description": 'Examples of input: {"a":1}', "strict": True},
    ]
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}

    assert portable_chat(chat_of_messages(request)) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe kind."},
            {"role": "user", "content": "Hi"},
        ],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "medium",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "user": "u",
        "service_tier": "default",
        "min_p": 0.1,
    }


def test_conversation_with_tools_keeps_its_order():
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    calls = [{"type": "tool_use", "id": name, "name": name, "input": {"x": 1}} for name in ("a", "b")]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": "a",
            "content": [text("1"), {"type": "image", "source": PIXEL}],
        },
        {"type": "tool_result", "tool_use_id": "b", "content": "no", "is_error": True},
    ]
    functions = [{"name": name, "arguments": '{"x":1}'} for name in ("a", "b")]

    messages = portable(
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [thought, text("I "), text("go."), *calls]},
        user(text("There:"), *results, text("And now?")),
    )["messages"]

    assert messages == [
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": "I go.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": function["name"], "type": "function", "function": function} for function in functions
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no"},
        {
            "role": "user",
            "content": [
                text("What tool call a returned besides text:"),
                PIXEL_PART,
                text("There:"),
                text("And now?"),
            ],
        },
    ]


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ({"type": "image", "source": PIXEL}, [PIXEL_PART]),
        (
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
            [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}],
        ),
        (
            {
                "type": "document",
                "title": "T",
                "source": {"type": "text", "media_type": "text/plain", "data": "d"},
            },
            [text("T\n\nd")],
        ),
        (
            {"type": "document", "context": "C", "source": {"type": "content", "content": [text("d")]}},
            [text("C"), text("d")],
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            },
            [
                {
                    "type": "file",
                    "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                }
            ],
        ),
        (
            {"type": "search_result", "source": "s", "title": "t", "content": [text("c")]},
            [text("t\n\ns\n\nc")],
        ),
    ],
)
def test_block_is_a_part(block, parts):
    messages = portable(user(text("See"), block))["messages"]

    assert messages == [{"role": "user", "content": [text("See"), *parts]}]


def test_turns_of_one_side_in_a_row_are_one():
    said = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]

    messages = portable(*({"role": role, "content": content} for role, content in said))["messages"]

    assert messages == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": "c\n\nd"},
        {"role": "user", "content": "e"},
    ]


def test_system_message_in_the_middle_stays_there():
    messages = portable(
        {"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}
    )["messages"]

    assert [message["role"] for message in messages] == ["user", "system", "user"]


def test_attribution_of_claude_code_is_no_part_of_the_prompt():
    system = [text("x-anthropic-billing-header: cc_version=2; cch=1;"), text("Be brief.")]

    assert portable(system=system)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_marks_and_signed_thoughts_stay_for_the_makers_that_know_them():
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "d"}
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}, **MARK}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "1", **MARK}
    request = asked(
        user(text("Go", **MARK)),
        {"role": "assistant", "content": [signed, redacted, call]},
        user(result, text("So?")),
        system=[text("Be brief.", **MARK)],
        tools=[{"name": "f", "input_schema": {}, **MARK}],
        thinking={"type": "adaptive"},
        **MARK,
    )

    rich = chat_of_messages(request)

    function = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, **MARK}
    assert rich["thinking"] == {"type": "adaptive"}
    assert rich["tools"][0]["function"] == {"name": "f", "parameters": {}, **MARK}
    assert rich["messages"] == [
        {"role": "system", "content": [text("Be brief.", **MARK)]},
        {"role": "user", "content": [text("Go", **MARK)]},
        {
            "role": "assistant",
            "content": [],
            "reasoning_content": "Hm.",
            "thinking_blocks": [signed, redacted],
            "tool_calls": [function],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1", **MARK},
        {"role": "user", "content": [text("So?", **MARK)]},
    ]
    assert "cache_control" not in str(portable_chat(rich))
    assert portable_chat(rich)["messages"][2] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


def test_openai_itself_gets_the_newer_limit_and_no_thoughts():
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}

    chat = strict_chat(portable({"role": "assistant", "content": [thought, text("a")]}, user(text("b"))))

    assert chat == {
        "model": "m",
        "messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
        "max_completion_tokens": 9,
    }


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_choice_of_a_tool_is_translated(choice, wanted):
    chat = portable(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)

    assert chat["tool_choice"] == wanted


def test_choice_without_tools_says_nothing():
    assert "tool_choice" not in portable(tool_choice={"type": "auto"})


@pytest.mark.parametrize(
    ("members", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4097}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 16_385}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "xhigh"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"output_config": {"effort": "low"}}, "low"),
    ],
)
def test_thinking_is_an_effort(members, effort):
    assert portable(**members).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
        ({"type": "disabled"}, False),
    ],
)
def test_thoughts_are_shown_unless_they_are_not_wanted(thinking, shows):
    assert shows_thinking(asked(thinking=thinking)) is shows


def test_long_user_id_becomes_a_name_that_every_upstream_takes():
    name = portable(metadata={"user_id": "u" * 65})["user"]

    assert (len(name), name) == (64, portable(metadata={"user_id": "u" * 65})["user"])
    assert name != portable(metadata={"user_id": "u" * 66})["user"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"n": 2}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        (
            {"tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["code_execution_20260120"]}]},
            "tools[0].allowed_callers",
        ),
        ({"messages": [user({"type": "container_upload", "file_id": "f"})]}, "messages[0].content[0].type"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "url", "url": "https://a"}})]},
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "document",
                            "source": {"type": "text", "data": "d"},
                            "citations": {"enabled": True},
                        }
                    )
                ]
            },
            "messages[0].content[0].citations.enabled",
        ),
        ({"messages": [user(text("a")), {"role": "assistant", "content": "{"}]}, "messages[1].role"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}, user(text("a"))]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_what_no_chat_can_say_is_refused_by_name(members, param):
    with pytest.raises(UnsupportedError) as refused:
        chat_of_messages({**asked(), **members})

    assert refused.value.param == param
    assert f"`{param}`" in refused.value.message


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [user({"text": "a"})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "text"}]}, "system[0].text"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "always"}}, "thinking.type"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"service_tier": "flex"}, "service_tier"),
    ],
)
def test_what_is_wrong_is_refused_by_name(members, param):
    with pytest.raises(InvalidRequestError) as refused:
        chat_of_messages({**asked(), **members})

    assert (type(refused.value), refused.value.param) == (InvalidRequestError, param)
