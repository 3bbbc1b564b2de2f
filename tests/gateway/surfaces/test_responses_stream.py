"""Responses' events from a chat's stream: numbered, the same whatever the chunks, honest about the end."""

import itertools

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.surfaces.responses_answer import response_of_answer
from gateway.surfaces.responses_stream import ResponseStream
from tests.gateway.surfaces.chats import (
    CIRCUMSTANCES,
    DONE,
    FAULT,
    RICH,
    call,
    chunk,
    events,
    frame,
    plain,
    usage_chunk,
)

ASKED = {"model": "asked", "input": "one", "store": True, "metadata": {"a": "b"}}


def translated(*pieces):
    stream = ResponseStream(CIRCUMSTANCES, asked=ASKED)
    return b"".join(map(stream.feed, pieces))


def test_items_come_one_after_the_other_with_their_own_events():
    found = events(translated(RICH))
    told = [
        (event["type"].removeprefix("response."), event.get("output_index"), event.get("delta"))
        for event in found
    ]

    assert told == [
        ("created", None, None),
        ("in_progress", None, None),
        ("output_item.added", 0, None),
        ("content_part.added", 0, None),
        ("reasoning_text.delta", 0, "Hm"),
        ("reasoning_text.delta", 0, "m."),
        ("reasoning_text.done", 0, None),
        ("content_part.done", 0, None),
        ("output_item.done", 0, None),
        ("output_item.added", 1, None),
        ("content_part.added", 1, None),
        ("output_text.delta", 1, "Grüße "),
        ("output_text.delta", 1, "👋"),
        ("output_text.done", 1, None),
        ("content_part.done", 1, None),
        ("output_item.done", 1, None),
        ("output_item.added", 2, None),
        ("function_call_arguments.delta", 2, '{"x":'),
        ("function_call_arguments.delta", 2, "1}"),
        ("function_call_arguments.done", 2, None),
        ("output_item.done", 2, None),
        ("output_item.added", 3, None),
        ("function_call_arguments.delta", 3, "{"),
        ("function_call_arguments.delta", 3, "}"),
        ("function_call_arguments.done", 3, None),
        ("output_item.done", 3, None),
        ("completed", None, None),
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


def test_whole_response_at_the_end_is_the_plain_one():
    calls = [call(call_id="a", name="f", arguments='{"x":1}'), call(call_id="b", name="g", arguments="{}")]
    body = plain({"reasoning": "Hmm.", "content": "Grüße 👋", "tool_calls": calls}, finish="tool_calls")

    last = events(translated(RICH))[-1]

    assert last["response"] == orjson.loads(response_of_answer(body, CIRCUMSTANCES, asked=ASKED))


def test_events_name_the_item_and_have_its_whole_at_the_end():
    data = chunk({"content": "a"}) + chunk({"content": "b"}, finish="stop") + usage_chunk() + DONE
    place = {"item_id": "msg_42_0", "output_index": 0, "content_index": 0}
    item = {"id": "msg_42_0", "type": "message", "role": "assistant"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    whole = {**part, "text": "ab"}

    assert [
        {name: value for name, value in event.items() if name != "sequence_number"}
        for event in events(translated(data))[2:-1]
    ] == [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": "a", "logprobs": []},
        {"type": "response.output_text.delta", **place, "delta": "b", "logprobs": []},
        {"type": "response.output_text.done", **place, "text": "ab", "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {**item, "status": "completed", "content": [whole]},
        },
    ]


@given(cuts=st.lists(st.integers(0, len(RICH)), max_size=40))
@settings(max_examples=200)
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    places = [0, *sorted(cuts), len(RICH)]
    pieces = [RICH[first:last] for first, last in itertools.pairwise(places)]

    assert translated(*pieces) == translated(RICH)


def test_the_end_comes_only_with_done():
    kinds = [event["type"] for event in events(translated(RICH.removesuffix(DONE)))]

    assert kinds[-1] == "response.function_call_arguments.delta"


def test_error_is_a_failed_response():
    data = chunk({"content": "a"}) + frame({"error": FAULT}) + DONE

    last = events(translated(data))[-1]

    assert last["type"] == "response.failed"
    assert (last["response"]["status"], last["response"]["error"]) == (
        "failed",
        {"code": "server_error", "message": "It broke."},
    )


def test_keep_alives_stay_comments():
    assert translated(b": ping\n\n") == b": keep-alive\n\n"


def test_refusal_has_events_of_its_own():
    data = chunk({"refusal": "No."}, finish="stop") + DONE

    kinds = [event["type"] for event in events(translated(data))]

    assert kinds[4:6] == ["response.refusal.delta", "response.refusal.done"]


def test_filtered_answer_is_incomplete():
    last = events(translated(chunk({"content": "a"}, finish="content_filter") + DONE))[-1]

    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}
