"""Anthropic's events from a chat's stream: the same whatever the chunks, and honest about the end."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.surfaces.messages_stream import MessageStream
from tests.gateway.surfaces.chats import (
    CIRCUMSTANCES,
    DONE,
    FAULT,
    RICH,
    call,
    chunk,
    events,
    frame,
    usage_chunk,
)

NOTHING = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
USED = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": 4,
    "output_tokens": 6,
    "output_tokens_details": {"thinking_tokens": 2},
}


def translated(*pieces, shows_thinking=True):
    stream = MessageStream(CIRCUMSTANCES, shows_thinking=shows_thinking)
    return b"".join(map(stream.feed, pieces))


def start(index, block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, kind, **said):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **said}}


def stop(index):
    return {"type": "content_block_stop", "index": index}


def end(reason, *, usage=USED, sequence=None):
    ending = {"stop_reason": reason, "stop_sequence": sequence}
    return [{"type": "message_delta", "delta": ending, "usage": usage}, {"type": "message_stop"}]


START = {
    "type": "message_start",
    "message": {
        "id": "msg_42",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": NOTHING,
    },
}


def test_blocks_come_one_after_the_other_with_their_own_events():
    assert events(translated(RICH)) == [
        START,
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="Hm"),
        {"type": "ping"},
        delta(0, "thinking_delta", thinking="m."),
        stop(0),
        start(1, {"type": "text", "text": ""}),
        delta(1, "text_delta", text="Grüße "),
        delta(1, "text_delta", text="👋"),
        stop(1),
        start(2, {"type": "tool_use", "id": "a", "name": "f", "input": {}}),
        delta(2, "input_json_delta", partial_json='{"x":'),
        delta(2, "input_json_delta", partial_json="1}"),
        stop(2),
        start(3, {"type": "tool_use", "id": "b", "name": "g", "input": {}}),
        delta(3, "input_json_delta", partial_json="{"),
        delta(3, "input_json_delta", partial_json="}"),
        stop(3),
        *end("tool_use"),
    ]


@given(cuts=st.lists(st.integers(0, len(RICH)), max_size=40))
@settings(max_examples=200)
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    places = [0, *sorted(cuts), len(RICH)]
    pieces = [RICH[first:last] for first, last in itertools.pairwise(places)]

    assert translated(*pieces) == translated(RICH)


def test_the_end_comes_only_with_done():
    before = translated(RICH.removesuffix(DONE))

    assert [event["type"] for event in events(before)][-1] == "content_block_delta"


def test_error_ends_the_stream():
    data = chunk({"content": "a"}) + frame({"error": FAULT}) + chunk({"content": "b"}) + DONE

    assert events(translated(data)) == [
        START,
        start(0, {"type": "text", "text": ""}),
        delta(0, "text_delta", text="a"),
        {"type": "error", "error": {"type": "api_error", "message": "It broke."}, "request_id": "req_42"},
    ]


def test_thoughts_that_are_not_asked_for_are_left_out_and_counted():
    data = chunk({"reasoning_content": "Hm"}) + chunk({"content": "a"}, finish="stop") + usage_chunk() + DONE

    assert events(translated(data, shows_thinking=False)) == [
        START,
        start(0, {"type": "text", "text": ""}),
        delta(0, "text_delta", text="a"),
        stop(0),
        *end("end_turn"),
    ]


@pytest.mark.parametrize("shows_thinking", [True, False])
def test_signatures_and_redacted_thoughts_are_passed_on(shows_thinking):
    data = b"".join(
        [
            chunk({"reasoning_content": "Hm"}),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}),
            chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "d"}]}),
            chunk({"content": "a"}, finish="stop"),
            usage_chunk(),
            DONE,
        ]
    )
    thought = [delta(0, "thinking_delta", thinking="Hm")] if shows_thinking else []

    assert events(translated(data, shows_thinking=shows_thinking)) == [
        START,
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        *thought,
        delta(0, "signature_delta", signature="s"),
        stop(0),
        start(1, {"type": "redacted_thinking", "data": "d"}),
        stop(1),
        start(2, {"type": "text", "text": ""}),
        delta(2, "text_delta", text="a"),
        stop(2),
        *end("end_turn"),
    ]


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids():
    data = b"".join(
        [
            chunk({"tool_calls": [call(0, call_id="a", name="f", arguments="{}")]}),
            chunk({"tool_calls": [call(0, call_id="b", name="g", arguments="{}")]}, finish="stop"),
            usage_chunk(),
            DONE,
        ]
    )

    starts = [event for event in events(translated(data)) if event["type"] == "content_block_start"]

    assert [event["content_block"]["id"] for event in starts] == ["a", "b"]
    assert events(translated(data))[-2:] == end("tool_use")


def test_calls_without_an_id_get_one():
    data = chunk({"tool_calls": [call(0, name="f", arguments="{}")]}, finish="stop") + DONE

    assert events(translated(data))[1] == start(
        0, {"type": "tool_use", "id": "call_42_0", "name": "f", "input": {}}
    )


def test_call_that_goes_on_after_its_end_is_an_error():
    data = b"".join(
        [
            chunk({"tool_calls": [call(0, call_id="a", name="f", arguments="{")]}),
            chunk({"content": "a"}),
            chunk({"tool_calls": [call(0, arguments="}")]}),
            DONE,
        ]
    )

    last = events(translated(data))[-1]

    assert (last["type"], last["error"]["type"]) == ("error", "api_error")


def test_usage_that_nobody_told_is_estimated():
    data = chunk({"content": "a"}) + chunk({"content": "b"}, finish="stop") + DONE

    assert events(translated(data))[-2:] == end(
        "end_turn", usage={**NOTHING, "input_tokens": 7, "output_tokens": 2}
    )


@pytest.mark.parametrize(
    ("finish", "more", "reason", "sequence"),
    [
        ("stop", {}, "end_turn", None),
        ("stop", {"stop_reason": "END"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": 128_009}, "end_turn", None),
        ("stop", {"matched_stop": "END"}, "stop_sequence", "END"),
        ("length", {}, "max_tokens", None),
        ("content_filter", {}, "refusal", None),
        ("function_call", {}, "tool_use", None),
    ],
)
def test_end_has_its_reason(finish, more, reason, sequence):
    data = chunk({"content": "a"}) + chunk(finish=finish, **more) + usage_chunk() + DONE

    assert events(translated(data))[-2:] == end(reason, sequence=sequence)
