"""Bedrock's answers in OpenAI's words: whole ones, and binary event streams cut at any byte.

The exchanges are those of https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-examples.html
framed as in https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html, shortened.
"""

import binascii
import struct
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.dialects.bedrock_answers import BedrockTranslator, openai_answer, openai_usage
from gateway.errors import UpstreamInvalidError
from gateway.metering import usage_from_openai
from routing.types import Usage
from tests.gateway.dialects.calls import CREATED_S, frames, translate

MODEL = "anthropic.claude"
COUNTS = {
    "inputTokens": 20,
    "outputTokens": 15,
    "totalTokens": 47,
    "cacheReadInputTokens": 7,
    "cacheWriteInputTokens": 5,
    "cacheDetails": [{"ttl": "5m", "inputTokens": 3}, {"ttl": "1h", "inputTokens": 2}],
}
USAGE = {
    "prompt_tokens": 32,
    "completion_tokens": 15,
    "total_tokens": 47,
    "prompt_tokens_details": {
        "cached_tokens": 7,
        "cache_creation_tokens": 5,
        "cache_creation_token_details": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
    },
}


def framed(payload, **headers):
    """One message of AWS's event stream: prelude, headers, payload, each with its checksum."""
    packed = b""
    for name, value in headers.items():
        key = (":" + name.replace("_", "-")).encode()
        packed += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = orjson.dumps(payload)
    prelude = struct.pack(">II", 16 + len(packed) + len(body), len(packed))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + packed + body
    return message + struct.pack(">I", binascii.crc32(message))


def event(kind, **payload):
    return framed(payload, event_type=kind, content_type="application/json", message_type="event")


def delta(index, **members):
    return event("contentBlockDelta", contentBlockIndex=index, delta=members, p="abc")


METADATA = event("metadata", usage=COUNTS, metrics={"latencyMs": 1}, serviceTier={"type": "flex"})
STREAM = b"".join(
    [
        event("messageStart", role="assistant"),
        delta(0, reasoningContent={"text": "Hm."}),
        delta(0, reasoningContent={"signature": "EqQB"}),
        event("contentBlockStop", contentBlockIndex=0),
        delta(1, reasoningContent={"redactedContent": "AA=="}),
        delta(2, text="Größe…"),
        event("contentBlockStop", contentBlockIndex=2),
        event(
            "contentBlockStart",
            contentBlockIndex=3,
            start={"toolUse": {"toolUseId": "t1", "name": "weather"}},
        ),
        delta(3, toolUse={"input": ""}),
        delta(3, toolUse={"input": '{"city":'}),
        delta(3, toolUse={"input": '"A"}'}),
        event("contentBlockStop", contentBlockIndex=3),
        event(
            "contentBlockStart", contentBlockIndex=4, start={"toolUse": {"toolUseId": "t2", "name": "now"}}
        ),
        event("contentBlockStop", contentBlockIndex=4),
        event("messageStop", stopReason="tool_use"),
        METADATA,
    ]
)


def chunk(said, *, finish_reason=None):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [{"index": 0, "delta": said, "logprobs": None, "finish_reason": finish_reason}],
    }


def called(index, call_id, name):
    function = {"name": name, "arguments": ""}
    return {"tool_calls": [{"id": call_id, "type": "function", "function": function, "index": index}]}


def arguments(index, text):
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


LAST = [{**chunk({}), "choices": [], "usage": USAGE, "service_tier": "flex"}, "[DONE]"]
TRANSLATED = [
    chunk({"role": "assistant", "reasoning_content": "Hm."}),
    chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "EqQB"}]}),
    chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "AA=="}]}),
    chunk({"content": "Größe…"}),
    chunk(called(0, "t1", "weather")),
    chunk(arguments(0, '{"city":')),
    chunk(arguments(0, '"A"}')),
    chunk(called(1, "t2", "now")),
    chunk(arguments(1, "{}")),
    chunk({}, finish_reason="tool_calls"),
    *LAST,
]


def translator():
    return BedrockTranslator(answer_id="chatcmpl-1", created_s=CREATED_S, model=MODEL)


def test_stream_of_reasoning_text_and_tools_is_translated():
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


def test_json_tool_streams_as_content():
    data = b"".join(
        [
            event(
                "contentBlockStart",
                contentBlockIndex=0,
                start={"toolUse": {"toolUseId": "t", "name": "answer_in_json"}},
            ),
            delta(0, toolUse={"input": '{"a":1}'}),
            event("contentBlockStop", contentBlockIndex=0),
            event("messageStop", stopReason="tool_use"),
            METADATA,
        ]
    )

    assert frames(translate(translator(), [data])) == [
        chunk({"role": "assistant", "content": '{"a":1}'}),
        chunk({}, finish_reason="stop"),
        *LAST,
    ]


def test_stream_without_counts_is_complete_and_one_that_breaks_off_is_not():
    stop = event("messageStop", stopReason="end_turn")

    assert frames(translate(translator(), [stop]))[-1] == "[DONE]"
    assert frames(translate(translator(), [delta(0, text="a"), stop[:-1]])) == [
        chunk({"role": "assistant", "content": "a"})
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (
            framed({"message": "slow"}, exception_type="throttlingException", message_type="exception"),
            {"message": "slow", "code": "throttlingException"},
        ),
        (
            framed({}, error_code="InternalError", error_message="broken", message_type="error"),
            {"message": "broken", "code": "InternalError"},
        ),
    ],
)
def test_error_underway_is_an_error_event(data, error):
    assert frames(translate(translator(), [data])) == [{"error": error}]


@pytest.mark.parametrize("data", [b"data: {}\n\n" * 3, STREAM[:30] + b"x" + STREAM[31:]])
def test_stream_that_is_none_is_refused(data):
    with pytest.raises(UpstreamInvalidError):
        translate(translator(), [data])


def test_usage_is_metered_by_disjoint_buckets():
    assert openai_usage(COUNTS) == USAGE
    assert usage_from_openai(openai_usage(COUNTS)) == Usage(
        input_fresh_tokens=20,
        cache_read_tokens=7,
        cache_write_5m_tokens=3,
        cache_write_1h_tokens=2,
        output_text_tokens=15,
    )


@pytest.mark.parametrize("counts", [None, {}, {"inputTokens": 3}, {"inputTokens": "3", "outputTokens": 1}])
def test_usage_that_is_none_is_none(counts):
    assert openai_usage(counts) is None


def response(*content, stop_reason="end_turn"):
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": stop_reason,
        "usage": COUNTS,
        "metrics": {"latencyMs": 1},
    }


def answer(*, finish_reason="stop", **message):
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}],
        "usage": USAGE,
    }


CALL = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "A"}}}


@pytest.mark.parametrize(
    ("given_response", "expected"),
    [
        (
            response({"text": "a"}, {"citationsContent": {"content": [{"text": "b"}], "citations": []}}),
            answer(content="ab"),
        ),
        (
            response(
                {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "EqQB"}}},
                {"reasoningContent": {"redactedContent": "AA=="}},
                CALL,
                stop_reason="tool_use",
            ),
            answer(
                finish_reason="tool_calls",
                tool_calls=[
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"A"}'},
                    }
                ],
                reasoning_content="Hm.",
                thinking_blocks=[
                    {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
                    {"type": "redacted_thinking", "data": "AA=="},
                ],
            ),
        ),
        (
            response({"toolUse": {**CALL["toolUse"], "name": "answer_in_json"}}, stop_reason="tool_use"),
            answer(content='{"city":"A"}'),
        ),
        (response(stop_reason="guardrail_intervened"), answer(finish_reason="content_filter")),
        (response({"text": "a"}, stop_reason="max_tokens"), answer(content="a", finish_reason="length")),
    ],
)
def test_whole_answer_is_a_chat_completion(given_response, expected):
    body = orjson.dumps(given_response)

    found = orjson.loads(openai_answer(body, answer_id="chatcmpl-1", created_s=CREATED_S, model=MODEL))

    assert found == expected
    assert ChatCompletion.model_validate(found)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output":{}}'])
def test_answer_that_is_none_is_refused(body):
    with pytest.raises(UpstreamInvalidError):
        openai_answer(body, answer_id="c", created_s=CREATED_S, model=MODEL)
