"""Anthropic's answers in OpenAI's words: whole ones, and streams cut at any byte.

The exchanges are those of https://platform.claude.com/docs/en/build-with-claude/streaming and
https://platform.claude.com/docs/en/api/messages, shortened.
"""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.dialects.anthropic_answers import AnthropicTranslator, openai_answer, openai_usage
from gateway.errors import UpstreamInvalidError
from gateway.metering import usage_from_openai
from gateway.streaming import StreamRelay
from routing.types import Usage
from tests.gateway.dialects.calls import CREATED_S, LINE_BYTES_MAX, frames, sse, translate

MODEL = "claude-opus-5-5"
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": MODEL,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 20,
            "cache_read_input_tokens": 7,
            "cache_creation_input_tokens": 5,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
STOP = {"type": "message_stop"}
USAGE = {
    "prompt_tokens": 32,
    "completion_tokens": 15,
    "total_tokens": 47,
    "prompt_tokens_details": {
        "cached_tokens": 7,
        "cache_creation_tokens": 5,
        "cache_creation_token_details": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
    },
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def end(stop_reason, **delta):
    usage = {"output_tokens": 15, "output_tokens_details": {"thinking_tokens": 4}}
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason, **delta}, "usage": usage}


def block(index, content_block, *deltas):
    return [
        {"type": "content_block_start", "index": index, "content_block": content_block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def translator():
    return AnthropicTranslator(created_s=CREATED_S, model="asked", line_bytes_max=LINE_BYTES_MAX)


def chunk(delta, *, finish_reason=None):
    return {
        "id": "msg_1",
        "object": "chat.completion.chunk",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


LAST = [{**chunk({}), "choices": [], "usage": USAGE, "service_tier": "default"}, "[DONE]"]
TOOLS = sse(
    START,
    {"type": "ping"},
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": "EqQB"},
    ),
    *block(1, {"type": "redacted_thinking", "data": "x"}),
    *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Größe…"}),
    *block(
        3,
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city":'},
        {"type": "input_json_delta", "partial_json": '"A"}'},
    ),
    *block(4, {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}),
    end("tool_use"),
    STOP,
)
TRANSLATED_TOOLS = [
    chunk({"role": "assistant", "reasoning_content": "Hm."}),
    chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "EqQB"}]}),
    chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}),
    chunk({"content": "Größe…"}),
    chunk(
        {
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                    "index": 0,
                }
            ]
        }
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"A"}'}}]}),
    chunk(
        {
            "tool_calls": [
                {
                    "id": "toolu_2",
                    "type": "function",
                    "function": {"name": "now", "arguments": ""},
                    "index": 1,
                }
            ]
        }
    ),
    chunk({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
    chunk({}, finish_reason="tool_calls"),
    *LAST,
]


def test_stream_of_thinking_text_and_tools_is_translated():
    found = frames(translate(translator(), [TOOLS]))

    assert found == TRANSLATED_TOOLS
    assert [ChatCompletionChunk.model_validate(each) for each in found[:-1]]


@given(cuts=st.lists(st.integers(0, len(TOOLS)), max_size=12), crlf=st.booleans())
def test_stream_is_the_same_however_it_is_cut(cuts, crlf):
    data = TOOLS.replace(b"\n", b"\r\n") if crlf else TOOLS
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[low:high] for low, high in pairwise(edges)]

    assert frames(translate(translator(), pieces)) == TRANSLATED_TOOLS


def test_stream_byte_by_byte_is_the_same():
    pieces = [TOOLS[index : index + 1] for index in range(len(TOOLS))]

    assert translate(translator(), pieces) == translate(translator(), [TOOLS])


def test_stream_is_metered_by_disjoint_buckets():
    relay = StreamRelay(wants_usage=False, choice_count=1, line_bytes_max=LINE_BYTES_MAX)

    relay.feed(translate(translator(), [TOOLS]))

    assert (relay.is_complete, relay.is_done, relay.service_tier) == (True, True, "default")
    assert usage_from_openai(relay.reported_usage) == Usage(
        input_fresh_tokens=20,
        cache_read_tokens=7,
        cache_write_5m_tokens=3,
        cache_write_1h_tokens=2,
        output_text_tokens=11,
        reasoning_tokens=4,
    )


def test_json_tool_streams_as_content():
    data = sse(
        START,
        *block(
            0,
            {"type": "tool_use", "id": "t", "name": "answer_in_json", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a":1}'},
        ),
        end("tool_use"),
        STOP,
    )

    assert frames(translate(translator(), [data])) == [
        chunk({"role": "assistant", "content": '{"a":1}'}),
        chunk({}, finish_reason="stop"),
        *LAST,
    ]


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_reason_of_the_end_is_openais(stop_reason, finish_reason):
    found = frames(translate(translator(), [sse(START, end(stop_reason), STOP)]))

    assert found == [chunk({"role": "assistant"}, finish_reason=finish_reason), *LAST]


def test_refusal_says_why():
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}

    found = frames(translate(translator(), [sse(START, end("refusal", stop_details=details), STOP)]))

    assert found[0] == chunk({"role": "assistant", "refusal": "No."}, finish_reason="content_filter")


def test_stream_without_its_last_event_is_complete_once_it_said_why_it_ended():
    found = frames(translate(translator(), [sse(START, end("end_turn"))]))

    assert found == [chunk({"role": "assistant"}, finish_reason="stop"), *LAST]


def test_stream_that_breaks_off_has_no_end():
    said = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"})

    assert frames(translate(translator(), [sse(START, *said)])) == [
        chunk({"role": "assistant", "content": "a"})
    ]


def test_error_underway_is_an_error_event():
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

    assert frames(translate(translator(), [sse(START, error)])) == [
        {"error": {"message": "Overloaded", "code": "overloaded_error"}}
    ]


@pytest.mark.parametrize(
    "data", [b"data: {\n\n", b"data: []\n\n", sse({"type": "content_block_delta", "index": 0, "delta": 3})]
)
def test_stream_that_is_none_is_refused(data):
    with pytest.raises(UpstreamInvalidError):
        translate(translator(), [data])


def test_line_without_end_is_refused():
    with pytest.raises(UpstreamInvalidError):
        translator().feed(b"x" * (LINE_BYTES_MAX + 1))


def message(*content, stop_reason="end_turn", **members):
    usage = {**START["message"]["usage"], **end("")["usage"]}
    return {
        **START["message"],
        "content": list(content),
        "stop_reason": stop_reason,
        "usage": usage,
        **members,
    }


def answer(**members):
    said = {"role": "assistant", "content": None, "refusal": None, **members.pop("message", {})}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop", **members}
    return {
        "id": "msg_1",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
        "service_tier": "default",
    }


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "A"}}


@pytest.mark.parametrize(
    ("given_message", "expected"),
    [
        (
            message({"type": "text", "text": "a"}, {"type": "text", "text": "b"}),
            answer(message={"content": "ab"}),
        ),
        (
            message(THOUGHT, CALL, stop_reason="tool_use"),
            answer(
                message={
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"A"}'},
                        }
                    ],
                    "reasoning_content": "Hm.",
                    "thinking_blocks": [THOUGHT],
                },
                finish_reason="tool_calls",
            ),
        ),
        (
            message({**CALL, "name": "answer_in_json"}, stop_reason="tool_use"),
            answer(message={"content": '{"city":"A"}'}),
        ),
        (
            message(stop_reason="refusal", stop_details={"explanation": "No."}),
            answer(message={"refusal": "No."}, finish_reason="content_filter"),
        ),
    ],
)
def test_whole_answer_is_a_chat_completion(given_message, expected):
    found = orjson.loads(openai_answer(orjson.dumps(given_message), created_s=CREATED_S))

    assert found == expected
    assert ChatCompletion.model_validate(found)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type":"message"}'])
def test_answer_that_is_none_is_refused(body):
    with pytest.raises(UpstreamInvalidError):
        openai_answer(body, created_s=CREATED_S)


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 3}, {"input_tokens": "3", "output_tokens": 1}])
def test_usage_that_is_none_is_none(usage):
    assert openai_usage(usage) is None
