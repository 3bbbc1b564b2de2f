"""Gemini's generateContent and batchEmbedContents: what is sent and refused; Google's types agree."""

import copy

import orjson
import pytest
from google.genai import types

from gateway.dialects.dialect import ErrorParts
from gateway.dialects.gemini import GeminiDialect, generation
from gateway.errors import InvalidRequestError, UnsupportedError
from tests.gateway.dialects.calls import call_of
from tests.gateway.dialects.test_anthropic import JSON_SCHEMA, PNG, SCHEMA, WEATHER

DIALECT = GeminiDialect()
FLASH = "gemini-2.5-flash"
PRO = "gemini-3-pro-preview"


def sent(*, upstream_name=FLASH, **members):
    """The request as Google gets it, after a look that the client's own stayed as it was."""
    call = call_of(upstream_name=upstream_name, **members)
    before = copy.deepcopy(call.document)
    body = DIALECT.body(call)
    assert call.document == before
    return orjson.loads(body)


def config(**members):
    return sent(**members).get("generationConfig", {})


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"A"}'},
                "extra_content": {"google": {"thought_signature": "sig"}},
            },
            {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": '{"sky":"blue"}'},
    {"role": "tool", "tool_call_id": "c2", "content": "noon"},
    {"role": "user", "content": "So?"},
]


def test_request_is_translated_whole():
    request = sent(
        messages=CONVERSATION,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0.5,
        top_p=0.9,
        seed=7,
        n=2,
        presence_penalty=0.1,
        stop=["END"],
        max_tokens=300,
        response_format=JSON_SCHEMA,
        reasoning_effort="medium",
    )

    assert request == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Weather?"}]},
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {"id": "c1", "name": "weather", "args": {"city": "A"}},
                        "thoughtSignature": "sig",
                    },
                    {"functionCall": {"id": "c2", "name": "now", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"sky": "blue"}}},
                    {"functionResponse": {"id": "c2", "name": "now", "response": {"output": "noon"}}},
                    {"text": "So?"},
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "of a city", "parametersJsonSchema": SCHEMA}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "seed": 7,
            "candidateCount": 2,
            "presencePenalty": 0.1,
            "stopSequences": ["END"],
            "maxOutputTokens": 300,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
            "thinkingConfig": {"thinkingBudget": 8192, "includeThoughts": True},
        },
    }
    for content in [request["systemInstruction"], *request["contents"]]:
        # Signatures are base64 on the wire; this one is only a word.
        without = orjson.loads(orjson.dumps(content).replace(b'"sig"', b'"c2ln"'))
        types.Content.model_validate(without)
    types.Tool.model_validate(request["tools"][0])
    types.ToolConfig.model_validate(request["toolConfig"])
    types.GenerationConfig.model_validate(request["generationConfig"])


@pytest.mark.parametrize(
    ("surface", "is_stream", "path"),
    [
        ("chat", False, f"/v1beta/models/{FLASH}:generateContent"),
        ("chat", True, f"/v1beta/models/{FLASH}:streamGenerateContent?alt=sse"),
        ("embeddings", False, f"/v1beta/models/{FLASH}:batchEmbedContents"),
    ],
)
def test_path_names_the_model_and_what_is_asked(surface, is_stream, path):
    members = {"stream": True} if is_stream else {}

    assert DIALECT.path(call_of(surface=surface, upstream_name=FLASH, **members)) == path
    assert DIALECT.path(call_of(surface=surface, upstream_name=f"models/{FLASH}", **members)) == path


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/b.jpeg?c=d"}},
            {"fileData": {"fileUri": "https://a.example/b.jpeg?c=d", "mimeType": "image/jpeg"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": PNG}},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}"}},
            {"inlineData": {"mimeType": "application/pdf", "data": PNG}},
        ),
    ],
)
def test_medium_becomes_a_part(part, expected):
    assert sent(messages=[{"role": "user", "content": [part]}])["contents"][0]["parts"] == [expected]


def test_lost_signature_is_replaced_where_the_model_demands_one():
    messages = copy.deepcopy(CONVERSATION)
    del messages[2]["tool_calls"][0]["extra_content"]

    def signatures(upstream_name):
        parts = sent(upstream_name=upstream_name, messages=messages)["contents"][1]["parts"]
        return [part.get("thoughtSignature") for part in parts]

    assert signatures(FLASH) == [None, None]
    assert signatures(PRO) == ["skip_thought_signature_validator", None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [(FLASH, (2, 5)), (PRO, (3, 0)), ("gemini-3.1-flash", (3, 1)), ("gemma-3", (999, 0))],
)
def test_generation_is_read_from_the_name(name, expected):
    assert generation(name) == expected


@pytest.mark.parametrize(
    ("upstream_name", "effort", "thinking"),
    [
        (FLASH, "none", {"thinkingBudget": 0, "includeThoughts": False}),
        (FLASH, "minimal", {"thinkingBudget": 1024, "includeThoughts": True}),
        (FLASH, "high", {"thinkingBudget": 24_576, "includeThoughts": True}),
        (PRO, "low", {"thinkingLevel": "low", "includeThoughts": True}),
    ],
)
def test_effort_is_a_budget_or_a_level(upstream_name, effort, thinking):
    assert config(upstream_name=upstream_name, reasoning_effort=effort)["thinkingConfig"] == thinking


@pytest.mark.parametrize(
    ("members", "mode"), [({"tool_choice": "auto"}, "AUTO"), ({"tool_choice": "none"}, "NONE"), ({}, None)]
)
def test_tool_choice_is_a_mode(members, mode):
    request = sent(tools=[WEATHER], **members)

    assert request.get("toolConfig") == (mode and {"functionCallingConfig": {"mode": mode}})


def test_limit_is_written_only_where_there_is_one():
    assert config() == {}
    assert config(max_completion_tokens=5)["maxOutputTokens"] == 5
    assert config(output_tokens_max=9)["maxOutputTokens"] == 9


def test_json_object_is_a_media_type():
    assert config(response_format={"type": "json_object"}) == {"responseMimeType": "application/json"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"parallel_tool_calls": False, "tools": [WEATHER]}, "parallel_tool_calls"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning_effort": "none", "upstream_name": PRO}, "reasoning_effort"),
        ({"reasoning_effort": "low", "upstream_name": "gemini-2.0-flash"}, "reasoning_effort"),
        ({"surface": "completions"}, "model"),
        ({"surface": "embeddings", "input": [1, 2]}, "input"),
        ({"surface": "embeddings", "user_profile": 1}, "user_profile"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://a"}}]}
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
    ("messages", "param"),
    [
        ([{"role": "system", "content": "only"}], "messages"),
        ([{"role": "tool", "tool_call_id": "unknown", "content": "x"}], "messages[0].tool_call_id"),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "midi"}}]}],
            "messages[0].content[0]",
        ),
    ],
)
def test_what_is_wrong_in_itself_is_refused_by_name(messages, param):
    with pytest.raises(InvalidRequestError) as refusal:
        sent(messages=messages)

    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("members", "texts", "extra"),
    [
        ({"input": "a"}, ["a"], {}),
        (
            {"input": ["a", "b"], "dimensions": 3, "encoding_format": "base64"},
            ["a", "b"],
            {"outputDimensionality": 3},
        ),
    ],
)
def test_embeddings_are_asked_for_together(members, texts, extra):
    assert sent(surface="embeddings", upstream_name="gemini-embedding-001", **members) == {
        "requests": [
            {"model": "models/gemini-embedding-001", **extra, "content": {"parts": [{"text": text}]}}
            for text in texts
        ]
    }


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"},
            ErrorParts(message="too long", code="INVALID_ARGUMENT"),
        ),
        (
            {"message": "no", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]},
            ErrorParts(message="no", code="INVALID_ARGUMENT", is_credential=True),
        ),
        (
            {"message": "slow", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "43.5s"}, "x"]},
            ErrorParts(message="slow", code="RESOURCE_EXHAUSTED", retry_after_s=43.5),
        ),
        ("no", ErrorParts()),
    ],
)
def test_error_parts_are_googles_own(error, parts):
    assert DIALECT.error_parts(orjson.dumps({"error": error})) == parts
