"""Bedrock's Converse: what is sent, what is refused, and that botocore's own model of it agrees."""

import copy

import orjson
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from gateway.dialects.anthropic import closed_schema
from gateway.dialects.bedrock import BedrockDialect
from gateway.dialects.dialect import ErrorParts
from gateway.errors import InvalidRequestError, UnsupportedError
from tests.gateway.dialects.calls import call_of
from tests.gateway.dialects.test_anthropic import JSON_SCHEMA, PNG, SCHEMA, WEATHER

DIALECT = BedrockDialect()
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
OLD_CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
NOVA = "amazon.nova-pro-v1:0"
OSS = "openai.gpt-oss-120b-1:0"
MARK = {"type": "ephemeral"}


def sent(*, upstream_name=NOVA, **members):
    """The request as AWS gets it, after a look that the client's own stayed as it was."""
    call = call_of(upstream_name=upstream_name, **members)
    before = copy.deepcopy(call.document)
    body = DIALECT.body(call)
    assert call.document == before
    return orjson.loads(body)


@pytest.fixture(scope="module")
def converse_shape():
    document = Loader().load_service_model("bedrock-runtime", "service-2")
    return ServiceModel(document).operation_model("Converse").input_shape


CONVERSATION = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": MARK}]},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Weather?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {
                "type": "file",
                "file": {"filename": "a b_c.pdf", "file_data": f"data:application/pdf;base64,{PNG}"},
            },
        ],
    },
    {
        "role": "assistant",
        "content": "Hm.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": PNG},
        ],
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"A"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    {"role": "user", "content": [{"type": "text", "text": "So?", "cache_control": {**MARK, "ttl": "1h"}}]},
]


def test_request_is_translated_whole_and_botocore_agrees(converse_shape):
    request = sent(
        upstream_name=CLAUDE,
        messages=CONVERSATION,
        tools=[WEATHER],
        tool_choice="required",
        temperature=0.5,
        stop="END",
        max_tokens=30_000,
        reasoning_effort="medium",
        response_format=JSON_SCHEMA,
        service_tier="flex",
        seed=7,
    )

    assert request == {
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "Weather?"},
                    {"image": {"format": "png", "source": {"bytes": PNG}}},
                    {"document": {"format": "pdf", "name": "a-b-c", "source": {"bytes": PNG}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}},
                    {"reasoningContent": {"redactedContent": PNG}},
                    {"text": "Hm."},
                    {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "A"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "c1", "content": [{"text": "sun"}]}},
                    {"text": "So?"},
                    {"cachePoint": {"type": "default", "ttl": "1h"}},
                ],
            },
        ],
        "inferenceConfig": {"maxTokens": 30_000, "temperature": 0.5, "stopSequences": ["END"]},
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "weather", "description": "of a city", "inputSchema": {"json": SCHEMA}}}
            ],
            "toolChoice": {"any": {}},
        },
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {
                    "jsonSchema": {"name": "p", "schema": orjson.dumps(closed_schema(SCHEMA)).decode()}
                },
            }
        },
        "serviceTier": {"type": "flex"},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 8192}},
    }
    report = ParamValidator().validate({"modelId": CLAUDE, **request}, converse_shape)
    assert report.generate_report() == ""


@pytest.mark.parametrize(
    ("is_stream", "path"),
    [
        (False, "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse"),
        (True, "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse-stream"),
    ],
)
def test_path_has_the_models_name_in_it_quoted(is_stream, path):
    call = call_of(
        upstream_name="arn:aws:bedrock:eu-west-1:1:inference-profile/x",
        **({"stream": True} if is_stream else {}),
    )

    assert DIALECT.path(call) == path


def test_limit_is_written_only_where_there_is_one():
    assert "inferenceConfig" not in sent()
    assert sent(max_tokens=5)["inferenceConfig"] == {"maxTokens": 5}


@pytest.mark.parametrize(
    ("upstream_name", "members", "fields"),
    [
        (OSS, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            "anthropic.claude-opus-4-8",
            {"reasoning_effort": "low"},
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
        ),
        (CLAUDE, {"top_k": 5}, {"top_k": 5}),
        (NOVA, {}, None),
    ],
)
def test_what_only_the_maker_knows_goes_beside(upstream_name, members, fields):
    assert sent(upstream_name=upstream_name, **members).get("additionalModelRequestFields") == fields


@pytest.mark.parametrize(
    ("upstream_name", "response_format", "schema"),
    [
        (OLD_CLAUDE, JSON_SCHEMA, SCHEMA),
        (NOVA, {"type": "json_object"}, {"type": "object", "additionalProperties": True}),
    ],
)
def test_json_is_a_forced_tool_where_there_is_no_format(upstream_name, response_format, schema):
    config = sent(upstream_name=upstream_name, response_format=response_format)["toolConfig"]

    assert (config["tools"][0]["toolSpec"]["inputSchema"], config["toolChoice"]) == (
        {"json": schema},
        {"tool": {"name": "answer_in_json"}},
    )


@pytest.mark.parametrize(
    ("members", "config"),
    [
        ({}, {}),
        ({"tool_choice": "auto"}, {"toolChoice": {"auto": {}}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"toolChoice": {"tool": {"name": "weather"}}},
        ),
    ],
)
def test_tool_choice_is_said_in_bedrocks_words(members, config):
    found = sent(tools=[WEATHER], **members)["toolConfig"]

    assert {name: value for name, value in found.items() if name != "tools"} == config


def test_no_tool_shall_be_called_by_declaring_none():
    assert "toolConfig" not in sent(tools=[WEATHER], tool_choice="none")


def test_marked_tool_is_followed_by_a_cache_point():
    tools = sent(tools=[{**WEATHER, "cache_control": MARK}])["toolConfig"]["tools"]

    assert [next(iter(tool)) for tool in tools] == ["toolSpec", "cachePoint"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 1.5}, "temperature"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"parallel_tool_calls": False, "tools": [WEATHER]}, "parallel_tool_calls"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"top_k": 3}, "top_k"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"surface": "embeddings"}, "model"),
        ({"response_format": {"type": "json_object"}, "tools": [WEATHER]}, "response_format"),
        ({"tool_choice": "none", "tools": [WEATHER], "messages": CONVERSATION}, "tool_choice"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a"}}]}
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


def test_conversation_without_a_turn_is_refused():
    with pytest.raises(InvalidRequestError):
        sent(messages=[{"role": "system", "content": "only"}])


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b'{"message":"Input is too long"}', ErrorParts(message="Input is too long")),
        (
            b'{"Message":"no","__type":"com.amazon#ValidationException"}',
            ErrorParts(message="no", code="ValidationException"),
        ),
        (b"<html>", ErrorParts()),
    ],
)
def test_error_parts_are_awss_own(body, parts):
    assert DIALECT.error_parts(body) == parts
