"""Gemini's answers in OpenAI's words: whole ones, and streams cut at any byte.

The exchanges are those of https://ai.google.dev/api/generate-content and
https://ai.google.dev/gemini-api/docs/function-calling, shortened.
"""

import base64
import struct
from itertools import pairwise

import orjson
import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.dialects.gemini_answers import (
    GeminiTranslator,
    openai_answer,
    openai_embeddings,
    openai_usage,
)
from gateway.errors import UpstreamInvalidError
from gateway.metering import usage_from_openai
from routing.types import Usage
from tests.gateway.dialects.calls import CREATED_S, LINE_BYTES_MAX, frames, translate

MODEL = "gemini-3-pro"
METADATA = {
    "promptTokenCount": 40,
    "cachedContentTokenCount": 10,
    "candidatesTokenCount": 9,
    "thoughtsTokenCount": 6,
    "toolUsePromptTokenCount": 2,
    "totalTokenCount": 57,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 22}, {"modality": "IMAGE", "tokenCount": 18}],
}
USAGE = {
    "prompt_tokens": 42,
    "completion_tokens": 15,
    "total_tokens": 57,
    "prompt_tokens_details": {"cached_tokens": 10, "image_tokens": 18},
    "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 0},
}


def response(*parts, finish=None, metadata=None, **candidate):
    given = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **candidate}
    if finish:
        given["finishReason"] = finish
    return {
        "candidates": [given],
        "usageMetadata": metadata or {**METADATA, "candidatesTokenCount": 1},
        "modelVersion": MODEL,
        "responseId": "r1",
    }


CALL = {"functionCall": {"name": "weather", "args": {"city": "A"}}, "thoughtSignature": "c2ln"}
EVENTS = [
    response({"text": "Hm.", "thought": True}),
    response({"text": "Größe…"}),
    response(CALL),
    response({"functionCall": {"name": "now", "args": {}, "id": "own"}}),
    response({"text": ""}, finish="STOP", metadata=METADATA),
]
STREAM = b"".join(b"data: " + orjson.dumps(event) + b"\r\n\r\n" for event in EVENTS)


def chunk(delta, *, finish_reason=None, index=0):
    return {
        "id": "r1",
        "object": "chat.completion.chunk",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


def tool_call(call_id, name, arguments, **members):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **members}


SIGNED = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
LAST = [{**chunk({}), "choices": [], "usage": USAGE}, "[DONE]"]
TRANSLATED = [
    chunk({"role": "assistant", "reasoning_content": "Hm."}),
    chunk({"content": "Größe…"}),
    chunk({"tool_calls": [tool_call("call_r1_0_0", "weather", '{"city":"A"}', index=0, **SIGNED)]}),
    chunk({"tool_calls": [tool_call("own", "now", "{}", index=1)]}),
    chunk({}, finish_reason="tool_calls"),
    *LAST,
]


def translator():
    return GeminiTranslator(created_s=CREATED_S, model="asked", line_bytes_max=LINE_BYTES_MAX)


def test_exchanges_are_such_as_google_sends():
    for event in EVENTS:
        types.GenerateContentResponse.model_validate(event)


def test_stream_of_thoughts_text_and_calls_is_translated():
    found = frames(translate(translator(), [STREAM]))

    assert found == TRANSLATED
    assert [ChatCompletionChunk.model_validate(each) for each in found[:-1]]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_stream_is_the_same_however_it_is_cut(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]

    assert frames(translate(translator(), [STREAM[low:high] for low, high in pairwise(edges)])) == TRANSLATED


def test_stream_byte_by_byte_is_the_same():
    pieces = [STREAM[index : index + 1] for index in range(len(STREAM))]

    assert translate(translator(), pieces) == translate(translator(), [STREAM])


def test_usage_is_metered_by_disjoint_buckets():
    assert openai_usage(METADATA) == USAGE
    assert usage_from_openai(openai_usage(METADATA)) == Usage(
        input_fresh_tokens=14,
        cache_read_tokens=10,
        input_image_tokens=18,
        output_text_tokens=9,
        reasoning_tokens=6,
    )


@pytest.mark.parametrize("metadata", [None, {}, {"promptTokenCount": "4"}])
def test_usage_that_is_none_is_none(metadata):
    assert openai_usage(metadata) is None


@pytest.mark.parametrize(
    ("finish", "finish_reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "stop"),
    ],
)
def test_reason_of_the_end_is_openais(finish, finish_reason):
    data = b"data: " + orjson.dumps(response(finish=finish, metadata=METADATA)) + b"\n\n"

    assert frames(translate(translator(), [data])) == [
        chunk({"role": "assistant"}, finish_reason=finish_reason),
        *LAST,
    ]


def test_several_candidates_each_begin_and_end():
    events = [
        {
            **response({"text": "a"}),
            "candidates": [
                {"index": index, "content": {"parts": [{"text": "ab"[index]}]}} for index in (0, 1)
            ],
        },
        {
            **response(metadata=METADATA),
            "candidates": [{"index": index, "finishReason": "STOP"} for index in (0, 1)],
        },
    ]
    data = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)

    assert frames(translate(translator(), [data])) == [
        chunk({"role": "assistant", "content": "a"}),
        chunk({"role": "assistant", "content": "b"}, index=1),
        chunk({}, finish_reason="stop"),
        chunk({}, finish_reason="stop", index=1),
        *LAST,
    ]


def test_candidate_that_ended_says_nothing_more():
    ended = b"data: " + orjson.dumps(response(finish="STOP", metadata=METADATA)) + b"\n\n"

    assert frames(translate(translator(), [ended, ended])) == [
        chunk({"role": "assistant"}, finish_reason="stop"),
        *LAST,
    ]


def test_stream_that_breaks_off_has_no_end():
    data = STREAM[: STREAM.rfind(b"data: ")]

    assert frames(translate(translator(), [data])) == TRANSLATED[:4]


def test_error_underway_is_an_error_event():
    data = b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\n\n'

    assert frames(translate(translator(), [data])) == [
        {"error": {"message": "overloaded", "code": "UNAVAILABLE"}}
    ]


def answer(*, finish_reason="stop", **message):
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "r1",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    ("given_response", "expected"),
    [
        (response({"text": "a"}, {"text": "b"}, finish="STOP", metadata=METADATA), answer(content="ab")),
        (
            response({"text": "Hm.", "thought": True}, CALL, finish="STOP", metadata=METADATA),
            answer(
                finish_reason="tool_calls",
                reasoning_content="Hm.",
                tool_calls=[tool_call("call_r1_0_0", "weather", '{"city":"A"}', **SIGNED)],
            ),
        ),
        (
            response(
                {"inlineData": {"mimeType": "image/png", "data": "AA=="}}, finish="STOP", metadata=METADATA
            ),
            answer(images=[{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
        ),
        (response(finish="SAFETY", metadata=METADATA), answer(finish_reason="content_filter")),
        (
            {**response(metadata=METADATA), "candidates": [], "promptFeedback": {"blockReason": "SAFETY"}},
            answer(finish_reason="content_filter"),
        ),
    ],
)
def test_whole_answer_is_a_chat_completion(given_response, expected):
    found = orjson.loads(openai_answer(orjson.dumps(given_response), created_s=CREATED_S, model="asked"))

    assert found == expected
    assert ChatCompletion.model_validate(found)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"candidates":[3]}'])
def test_answer_that_is_none_is_refused(body):
    with pytest.raises(UpstreamInvalidError):
        openai_answer(body, created_s=CREATED_S, model="m")


@pytest.mark.parametrize("is_base64", [False, True])
def test_embeddings_are_listed_as_openai_does(is_base64):
    body = orjson.dumps({"embeddings": [{"values": [0.5, -1]}], "usageMetadata": {"promptTokenCount": 3}})
    vector = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode() if is_base64 else [0.5, -1]

    found = orjson.loads(openai_embeddings(body, model="m", is_base64=is_base64))

    assert found == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert is_base64 or CreateEmbeddingResponse.model_validate(found)


@pytest.mark.parametrize("body", [b"{}", b'{"embeddings":[{}]}', b'{"embeddings":[{"values":["a"]}]}'])
def test_embeddings_that_are_none_are_refused(body):
    with pytest.raises(UpstreamInvalidError):
        openai_embeddings(body, model="m", is_base64=False)
