"""Anthropic's Messages API: what is sent, what is refused, and that Anthropic's own types agree."""

import copy

import orjson
import pytest
from pydantic import TypeAdapter

from gateway.dialects.anthropic import AnthropicDialect, closed_schema, generation
from gateway.dialects.dialect import ErrorParts
from gateway.errors import InvalidRequestError, UnsupportedError
from tests.gateway.dialects.calls import call_of

DIALECT = AnthropicDialect()
SONNET = "claude-sonnet-4-5-20250929"
PNG = "iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "object", "properties": {"city": {"type": "string"}}}},
    "required": ["place"],
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA},
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}


def sent(*, upstream_name=SONNET, **members):
    """The request as Anthropic gets it, after a look that the client's own stayed as it was."""
    call = call_of(upstream_name=upstream_name, **members)
    before = copy.deepcopy(call.document)
    body = DIALECT.body(call)
    assert call.document == before
    return orjson.loads(body)


def turns(*messages):
    return sent(messages=list(messages))["messages"]


def test_request_is_translated_whole():
    request = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
            {"role": "user", "name": "ann", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"A"}'},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "rain"}]},
            {"role": "user", "content": "So?"},
        ],
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0.5,
        stop="END",
        user="u-1",
        max_completion_tokens=300,
        seed=7,
        stream=True,
    )

    assert request == {
        "model": SONNET,
        "max_tokens": 300,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "And kind."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "A"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "sun"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "content": [{"type": "text", "text": "rain"}],
                    },
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "stream": True,
    }


def test_request_is_one_by_anthropics_own_types():
    from anthropic.types.message_create_params import (  # noqa: PLC0415 -- slow import
        MessageCreateParamsNonStreaming,
    )

    mark = {"type": "ephemeral"}
    request = sent(
        upstream_name="claude-opus-5-5",
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "long", "cache_control": mark}]},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
            },
            {
                "role": "assistant",
                "content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "sun"},
        ],
        tools=[{**WEATHER, "cache_control": mark}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        response_format=JSON_SCHEMA,
        reasoning_effort="medium",
    )

    assert TypeAdapter(MessageCreateParamsNonStreaming).validate_python(request, strict=True)


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "text", "text": "t"}, {"type": "text", "text": "t"}),
        (
            {"type": "text", "text": "t", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "text", "text": "t", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
        ),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"},
            },
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                "title": "a.pdf",
            },
        ),
    ],
)
def test_part_of_a_message_becomes_a_block(part, block):
    assert turns({"role": "user", "content": [part]}) == [{"role": "user", "content": [block]}]


def test_messages_of_one_role_become_one_turn_and_empty_ones_none():
    found = turns(
        {"role": "user", "content": "a"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "b", "cache_control": {"type": "ephemeral"}},
        {"role": "assistant", "content": "c"},
    )

    assert found == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
    ]


def test_thinking_blocks_go_back_before_what_was_said():
    found = turns(
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "left out",
            "thinking_blocks": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "thinking", "thinking": "unsigned"},
                {"type": "redacted_thinking", "data": "d"},
            ],
        },
    )

    assert found[1]["content"] == [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "b"},
    ]


@pytest.mark.parametrize(
    ("upstream_name", "arguments", "limit"),
    [
        (SONNET, {}, 32_000),
        ("claude-3-haiku-20240307", {}, 4096),
        ("claude-3-5-haiku-20241022", {}, 8192),
        ("my-alias", {"output_tokens_bound": 20_000}, 20_000),
        (SONNET, {"max_tokens": 99_999}, 99_999),
        (SONNET, {"max_tokens": 50, "output_tokens_max": 20}, 20),
        ("claude-3-haiku-20240307", {"output_tokens_max": 5000}, 5000),
    ],
)
def test_limit_is_the_bound_or_what_the_generation_can(upstream_name, arguments, limit):
    assert sent(upstream_name=upstream_name, **arguments)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude-3-haiku-20240307", (3, 0)),
        ("claude-3-7-sonnet-latest", (3, 7)),
        ("claude-opus-4-20250514", (4, 0)),
        (SONNET, (4, 5)),
        ("claude-opus-4-8", (4, 8)),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", (3, 5)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-mythos-preview", (999, 0)),
    ],
)
def test_generation_is_read_from_the_name(name, expected):
    assert generation(name) == expected


@pytest.mark.parametrize(
    ("upstream_name", "members", "changes"),
    [
        (SONNET, {"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        (SONNET, {"tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
        (
            SONNET,
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"tool_choice": {"type": "tool", "name": "weather"}},
        ),
        (
            SONNET,
            {"parallel_tool_calls": False},
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (SONNET, {"parallel_tool_calls": True}, {}),
    ],
)
def test_tool_choice_is_said_in_anthropics_words(upstream_name, members, changes):
    without = sent(upstream_name=upstream_name, tools=[WEATHER])

    assert sent(upstream_name=upstream_name, tools=[WEATHER], **members) == {**without, **changes}


@pytest.mark.parametrize(
    ("upstream_name", "effort", "changes"),
    [
        ("claude-opus-5-5", "minimal", ({"type": "adaptive", "display": "summarized"}, "low")),
        ("claude-sonnet-4-6", "high", ({"type": "adaptive"}, "high")),
        (SONNET, "medium", ({"type": "enabled", "budget_tokens": 8192}, None)),
        ("claude-opus-5-5", "none", ({"type": "disabled"}, None)),
    ],
)
def test_effort_is_thinking_as_the_generation_knows_it(upstream_name, effort, changes):
    thinking, kept_effort = changes

    request = sent(upstream_name=upstream_name, reasoning_effort=effort)

    assert request.get("thinking") == thinking
    assert request.get("output_config") == ({"effort": kept_effort} if kept_effort else None)


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 2047},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "x"},
            ]
        },
    ],
)
def test_thinking_stays_off_where_it_would_be_refused(members):
    assert "thinking" not in sent(reasoning_effort="high", **members)


def test_thinking_leaves_room_for_the_answer():
    thinking = sent(reasoning_effort="high", max_tokens=2048)["thinking"]

    assert thinking == {"type": "enabled", "budget_tokens": 1024}


def test_schema_is_the_output_format_of_models_that_have_one():
    assert sent(response_format=JSON_SCHEMA)["output_config"] == {
        "format": {"type": "json_schema", "schema": closed_schema(SCHEMA)}
    }


def test_schema_is_closed_where_it_does_not_say():
    assert closed_schema(
        {"anyOf": [{"type": "object"}, {"type": "object", "additionalProperties": True}]}
    ) == {
        "anyOf": [
            {"type": "object", "additionalProperties": False},
            {"type": "object", "additionalProperties": True},
        ]
    }


def test_schema_is_a_forced_tool_of_older_models():
    request = sent(upstream_name="claude-3-5-haiku-20241022", response_format=JSON_SCHEMA)

    assert (request["tools"][0]["input_schema"], request["tool_choice"]) == (
        SCHEMA,
        {"type": "tool", "name": "answer_in_json", "disable_parallel_tool_use": True},
    )


def test_json_object_is_a_tool_of_any_object():
    request = sent(response_format={"type": "json_object"})

    assert request["tools"][0]["input_schema"] == {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 1, "top_p": 1},
        {"n": 1, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False},
        {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "k", "verbosity": "low", "x": None},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto"},
    ],
)
def test_members_that_change_nothing_are_left_out(members):
    assert sent(**members) == sent()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"temperature": 1.5}, "temperature"),
        ({"guided_json": {}}, "guided_json"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0]"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [WEATHER]}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "tools": [WEATHER]}, "response_format"),
        ({"reasoning_effort": "high", "upstream_name": "claude-3-haiku-20240307"}, "reasoning_effort"),
        ({"surface": "embeddings"}, "model"),
        ({"surface": "completions"}, "model"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}
                ]
            },
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_has_no_translation_is_refused_by_name(members, param):
    with pytest.raises(UnsupportedError) as refusal:
        sent(**members)

    assert (refusal.value.param, refusal.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": [{"role": "system", "content": "only"}]}, "messages"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0]",
        ),
        ({"temperature": "hot"}, "temperature"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}],
                    }
                ]
            },
            "messages[0].content[0]",
        ),
        ({"stop": [1]}, "stop"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x,y"}}]}
                ]
            },
            "messages[0].content[0]",
        ),
    ],
)
def test_what_is_wrong_in_itself_is_refused_by_name(members, param):
    with pytest.raises(InvalidRequestError) as refusal:
        sent(**members)

    assert (refusal.value.param, refusal.value.code) == (param, "invalid_request_error")


def test_headers_name_the_version_beside_the_key():
    assert DIALECT.headers([("x-api-key", "k")]) == [("x-api-key", "k"), ("anthropic-version", "2023-06-01")]


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (
            b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}',
            ErrorParts(message="prompt is too long", code="invalid_request_error"),
        ),
        (b"<html>", ErrorParts()),
        (b'{"error":"no"}', ErrorParts()),
    ],
)
def test_error_parts_are_anthropics_own(body, parts):
    assert DIALECT.error_parts(body) == parts
