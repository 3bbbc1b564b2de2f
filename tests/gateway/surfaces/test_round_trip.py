"""Through the gateway to Anthropic itself: requests and answers arrive in its words as they were."""

import itertools

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.anthropic import AnthropicDialect
from gateway.portable_chat import portable_chat
from gateway.schemas import read_completion
from gateway.surfaces.messages import MESSAGES
from tests.gateway.dialects.calls import LINE_BYTES_MAX, call_of, sse, translate
from tests.gateway.surfaces.chats import CIRCUMSTANCES, events

MARK = {"cache_control": {"type": "ephemeral"}}
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}
USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 4}
REQUEST = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "Be brief.", **MARK}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Go"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "I go."},
                {**CALL, **MARK},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "1", **MARK},
                {"type": "text", "text": "So?", **MARK},
            ],
        },
    ],
    "tools": [{"name": "f", "description": "F.", "input_schema": {"type": "object"}, **MARK}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "top_k": 4,
    "stream": True,
}
ANSWER = [
    {
        "type": "message_start",
        "message": {"id": "msg_1", "model": "m", "usage": {**USAGE, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "d"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "I go."}},
    {"type": "content_block_stop", "index": 2},
    {"type": "content_block_start", "index": 3, "content_block": {**CALL, "input": {}}},
    {
        "type": "content_block_delta",
        "index": 3,
        "delta": {"type": "input_json_delta", "partial_json": '{"x": 1}'},
    },
    {"type": "content_block_stop", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 6}},
    {"type": "message_stop"},
]
# What a dialect finds at its end.
STREAM = sse(*ANSWER)


def call():
    document = MESSAGES.translate(REQUEST).document
    request = read_completion(
        surface="chat",
        document=document,
        body=orjson.dumps(portable_chat(document)),
        needs_priced=False,
        is_translated=True,
    )
    return call_of(request=request, upstream_name=REQUEST["model"])


def test_request_arrives_as_it_was_asked():
    assert orjson.loads(AnthropicDialect().body(call())) == REQUEST


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20))
@settings(max_examples=50)
def test_stream_arrives_as_it_was_answered(cuts):
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[first:last] for first, last in itertools.pairwise(places)]
    chat = translate(AnthropicDialect().translator(call(), line_bytes_max=LINE_BYTES_MAX), pieces)

    found = events(MESSAGES.translate(REQUEST).stream(CIRCUMSTANCES).feed(chat))

    start = {**ANSWER[1], "content_block": {"type": "thinking", "thinking": "", "signature": ""}}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {**USAGE, "output_tokens": 6},
    }
    assert found[1:] == [start, *ANSWER[2:-2], end, ANSWER[-1]]


def test_whole_answer_arrives_as_it_was_answered():
    content = [*REQUEST["messages"][1]["content"][:3], CALL]
    usage = {**USAGE, "output_tokens": 6}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {**usage, "service_tier": "standard"},
    }
    chat = AnthropicDialect().answer(orjson.dumps(message), call())

    told = orjson.loads(MESSAGES.translate(REQUEST).answer(chat, CIRCUMSTANCES))

    assert told == {**message, "id": "msg_42"}
