"""Google's own SDK as a client of the gateway: generate, stream, call functions, count, embed, be refused."""

import base64
from enum import Enum

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from tests.e2e.fleet import cost_of, token_counts
from tests.e2e.test_providers import COMPLETION, STREAM
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S
from tests.fakes.provider_server import Replay, run_provider
from tests.gateway.surfaces import chats

pytestmark = pytest.mark.e2e

WEATHER = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="The weather",
            parameters=types.Schema(
                type="OBJECT", properties={"city": types.Schema(type="STRING")}, required=["city"]
            ),
        )
    ]
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Painting(BaseModel):
    colour: Colour
    other: Colour | None = None


@pytest.fixture
def client(gateway):
    """A client of the SDK with this key; `members` go into the body beside the SDK's own."""
    clients = []

    def client(key, **members):
        options = types.HttpOptions(
            base_url=gateway.url, timeout=int(CLIENT_TIMEOUT_S * 1000), extra_body=members or None
        )
        clients.append(genai.Client(api_key=key.key, http_options=options))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


def ready_key(fleet, **values):
    fleet.add_cluster(**values)
    key = fleet.issue_key()
    fleet.ready()
    return key


def test_content_is_generated_and_settled_exactly(fleet, client):
    key = ready_key(fleet)

    answer = client(key, standin_completion_tokens=5).models.generate_content(
        model=fleet.model,
        contents="one two three",
        config=types.GenerateContentConfig(
            system_instruction="four", temperature=0.5, top_p=0.9, max_output_tokens=1000
        ),
    )

    (row,) = fleet.settled_rows(key, count=1)
    assert len(answer.text.split()) == 5
    assert answer.model_dump(
        exclude_none=True, exclude={"sdk_http_response", "automatic_function_calling_history"}
    ) == {
        "candidates": [
            {
                "content": {"parts": [{"text": answer.text}], "role": "model"},
                "finish_reason": types.FinishReason.STOP,
                "index": 0,
            }
        ],
        "model_version": fleet.model,
        "response_id": row["request_id"].removeprefix("req_"),
        "usage_metadata": {
            "prompt_token_count": token_counts(row)[0],
            "candidates_token_count": 5,
            "total_token_count": token_counts(row)[0] + 5,
        },
    }
    assert (row["surface"], row["is_stream"], row["outcome"]) == ("chat", False, "ok")
    assert row["cost_nanousd"] == cost_of(row)


def test_stream_says_the_same_and_ends_with_reason_and_usage(fleet, client):
    key = ready_key(fleet)
    models = client(key, standin_completion_tokens=5, standin_reasoning_tokens=2).models
    asked = {"model": fleet.model, "contents": "one two three"}

    plain = models.generate_content(**asked)
    chunks = list(models.generate_content_stream(**asked))

    rows = fleet.settled_rows(key, count=2)
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text
    assert [chunk.candidates[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert chunks[-1].usage_metadata == plain.usage_metadata
    assert plain.usage_metadata.thoughts_token_count == 2
    assert [(row["is_stream"], token_counts(row)) for row in rows] == [
        (is_stream, (plain.usage_metadata.prompt_token_count, 5)) for is_stream in (False, True)
    ]


def test_path_alone_says_whether_to_stream(fleet, client):
    key = ready_key(fleet)

    answer = client(key, stream=True).models.generate_content(model=fleet.model, contents="one")

    (row,) = fleet.settled_rows(key, count=1)
    assert answer.usage_metadata.prompt_token_count == token_counts(row)[0]
    assert row["is_stream"] is False


@pytest.mark.parametrize("names", [None, ["get_weather"]])
def test_function_is_called_alike_plain_and_streamed_and_answered(fleet, client, names):
    key = ready_key(fleet)
    calling = types.FunctionCallingConfig(mode="ANY", allowed_function_names=names)
    config = types.GenerateContentConfig(
        tools=[WEATHER],
        tool_config=types.ToolConfig(function_calling_config=calling),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    models = client(key).models
    asked = {"model": fleet.model, "contents": "the weather", "config": config}

    plain = models.generate_content(**asked)
    streamed = list(models.generate_content_stream(**asked))
    (call,) = plain.function_calls
    response = types.Part.from_function_response(name=call.name, response={"sky": "clear"})
    conversation = [
        types.Content(role="user", parts=[types.Part(text="the weather")]),
        plain.candidates[0].content,
        types.Content(role="user", parts=[response]),
    ]
    answered = models.generate_content(model=fleet.model, contents=conversation)

    [streamed_call] = [one for chunk in streamed for one in chunk.function_calls or []]
    assert (call.name, call.args) == (streamed_call.name, streamed_call.args)
    assert call.name == "get_weather"
    assert answered.text
    assert len(fleet.settled_rows(key, count=3)) == 3


def test_streamed_conversation_goes_on_and_its_history_is_counted(fleet, client):
    said = (
        chats.chunk({"content": text}, finish=finish) for text, finish in (("Hel", None), ("lo.", "stop"))
    )
    pieces = (*said, chats.usage_chunk(), chats.DONE)
    replays = iter([Replay(pieces=pieces, content_type=STREAM), Replay(document=COMPLETION)])
    with run_provider(lambda _request: next(replays)) as provider:
        key = ready_key(fleet, endpoint=provider.url, backend="openai")
        one = client(key)
        chat = one.chats.create(model=fleet.model)

        first = "".join(chunk.text or "" for chunk in chat.send_message_stream("Hi"))
        second = chat.send_message("And?")
        counted = one.models.count_tokens(model=fleet.model, contents=chat.get_history(curated=True))

    (_, request) = provider.received
    assert (first, second.text) == ("Hello.", "ok")
    assert request.document["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And?"},
    ]
    assert counted.total_tokens > 0
    assert len(fleet.settled_rows(key, count=2)) == 2


def test_picture_arrives_as_it_was_sent(fleet, client):
    picture = bytes(range(256))
    with run_provider(lambda _request: Replay(document=COMPLETION)) as provider:
        key = ready_key(fleet, endpoint=provider.url)
        parts = [types.Part.from_bytes(data=picture, mime_type="image/png"), "What is it?"]

        answer = client(key).models.generate_content(model=fleet.model, contents=parts)

    (request,), (row,) = provider.received, fleet.settled_rows(key, count=1)
    [message] = request.document["messages"]
    assert message["content"] == [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture).decode()}"},
        },
        {"type": "text", "text": "What is it?"},
    ]
    assert answer.text == "ok"
    assert token_counts(row) == (3, 2)


def test_answer_in_a_form_is_what_the_sdk_reads(fleet, client):
    message = {"role": "assistant", "content": '{"colour":"red","other":null}'}
    replay = Replay(document={**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]})
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_schema=Painting, top_k=40
    )
    with run_provider(lambda _request: replay) as provider:
        key = ready_key(fleet, endpoint=provider.url)

        answer = client(key).models.generate_content(model=fleet.model, contents="Hi", config=config)

    (request,) = provider.received
    colours = {"enum": ["red", "blue"], "title": "Colour", "type": "string"}
    assert request.document == {
        "model": fleet.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "top_k": 40,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": {
                    "type": "object",
                    "title": "Painting",
                    "properties": {
                        "colour": colours,
                        "other": {**colours, "enum": ["red", "blue", None], "type": ["string", "null"]},
                    },
                    "required": ["colour"],
                    "additionalProperties": False,
                },
                "strict": False,
            },
        },
    }
    assert b'"top_k":40,' in request.body
    assert answer.parsed == Painting(colour=Colour.RED)


def test_texts_are_embedded_in_their_order(fleet, client):
    key = ready_key(fleet)

    answer = client(key).models.embed_content(model=fleet.model, contents=["one", "two three"])
    direct = fleet.client(key).embeddings.create(
        model=fleet.model, input=["one", "two three"], encoding_format="float"
    )

    rows = fleet.settled_rows(key, count=2)
    assert [one.values for one in answer.embeddings] == [row.embedding for row in direct.data]
    assert [(row["surface"], token_counts(row)) for row in rows] == [
        ("embeddings", (direct.usage.prompt_tokens, 0))
    ] * 2


def test_models_are_listed_and_found(fleet, client):
    key = ready_key(fleet)
    models = client(key).models

    assert f"models/{fleet.model}" in [model.name for model in models.list()]
    assert models.get(model=fleet.model).display_name == fleet.model


@pytest.mark.parametrize(
    ("model", "key_text", "code", "status"),
    [
        (None, "tg_nothing", 401, "UNAUTHENTICATED"),
        ("no-such-model", None, 404, "NOT_FOUND"),
    ],
)
def test_refusals_are_googles(fleet, client, gateway, model, key_text, code, status):
    key = ready_key(fleet)
    asked = (
        client(key)
        if key_text is None
        else genai.Client(api_key=key_text, http_options=types.HttpOptions(base_url=gateway.url))
    )

    with pytest.raises(errors.ClientError) as caught:
        asked.models.generate_content(model=model or fleet.model, contents="one")

    assert (caught.value.code, caught.value.status) == (code, status)
    assert caught.value.message


def test_limit_says_when_to_try_again(fleet, client):
    fleet.add_cluster()
    key = fleet.issue_key(rpm_max=1)
    fleet.ready()
    models = client(key).models

    models.generate_content(model=fleet.model, contents="one")
    with pytest.raises(errors.ClientError) as caught:
        models.generate_content(model=fleet.model, contents="one")

    [info] = caught.value.details["error"]["details"]
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert info["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
    assert 0 < int(info["retryDelay"].removesuffix("s")) <= 61


def test_stream_that_breaks_off_raises_in_the_sdk(fleet, client):
    key = ready_key(fleet)
    models = client(key, standin_fault="eof_mid", standin_fault_after_tokens=2).models

    with pytest.raises(errors.ServerError) as caught:
        list(models.generate_content_stream(model=fleet.model, contents="one two three"))

    assert (caught.value.code, caught.value.status) == (502, "UNAVAILABLE")
    assert [row["outcome"] for row in fleet.settled_rows(key, count=1)] == ["truncated"]


@pytest.mark.parametrize(
    ("path", "headers", "status", "word", "part"),
    [
        (":generateContent?key=tg_x", {}, 401, "UNAUTHENTICATED", "in a URL it would stand in the logs"),
        (":streamGenerateContent", {}, 400, "INVALID_ARGUMENT", "ask with `?alt=sse`"),
        (":predict", {}, 404, "NOT_FOUND", "There is no method"),
        (":generateContent", {"x-goog-api-key": "tg_x"}, 401, "UNAUTHENTICATED", "Incorrect API key"),
    ],
)
def test_what_is_not_possible_is_said_in_googles_shape(fleet, path, headers, status, word, part):
    key = ready_key(fleet)
    given = {"x-goog-api-key": key.key, **headers}
    body = {"contents": [{"parts": [{"text": "one"}]}]}

    answer = fleet.gateway.client.post(f"/v1beta/models/{fleet.model}{path}", headers=given, json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (status, status, word)
    assert part in error["message"]


def test_llamacpp_generates_streams_counts_and_embeds(fleet, client, llama_url):
    fleet.add_cluster(endpoint=llama_url, backend="llamacpp", context_window=8192)
    key = fleet.issue_key()
    fleet.ready()
    models = client(key).models
    asked = {"model": fleet.model, "contents": "the gateway"}
    config = {"config": types.GenerateContentConfig(max_output_tokens=12, temperature=0)}

    plain = models.generate_content(**asked, **config)
    streamed = list(models.generate_content_stream(**asked, **config))
    counted = models.count_tokens(**asked)
    history = [types.UserContent("the gateway"), plain.candidates[0].content]
    whole = models.count_tokens(model=fleet.model, contents=history)
    embedded = models.embed_content(**asked)

    rows = fleet.settled_rows(key, count=3)
    assert "".join(chunk.text or "" for chunk in streamed) == plain.text
    assert counted.total_tokens == plain.usage_metadata.prompt_token_count
    assert counted.total_tokens < whole.total_tokens
    assert whole.sdk_http_response.headers["x-gateway-token-count"] == "exact"
    assert [
        (used.prompt_token_count, used.candidates_token_count)
        for used in (plain.usage_metadata, streamed[-1].usage_metadata)
    ] == [token_counts(row) for row in rows[:2]]
    assert len(embedded.embeddings[0].values) == 576
    assert not any(row["is_estimate"] for row in rows)
