"""The relay of event streams: the same whatever the chunks, and honest about how a stream ended."""

import itertools
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError, UpstreamInvalidError
from gateway.streaming import StreamRelay

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"


def frame(event, *, spaced=False):
    text = orjson.dumps(event)
    if spaced:
        text = text.replace(b'":', b'": ').replace(b',"', b', "')
    return b"data: " + text + b"\n\n"


def delta(text="x", *, index=0, finish=None, **more):
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **more}


def relay_of(*, wants_usage=False, choice_count=1, line_bytes_max=1 << 20):
    return StreamRelay(wants_usage=wants_usage, choice_count=choice_count, line_bytes_max=line_bytes_max)


def run(relay, *chunks):
    return b"".join(relay.feed(chunk) for chunk in chunks) + relay.finish()


def state(relay):
    return (relay.is_complete, relay.is_done, relay.content_frames, relay.reported_usage)


STREAMS = {
    "vllm": b"".join(
        [
            frame(delta("", usage=None)),
            frame(delta("Grüße 👋", usage=None)),
            frame(delta("", finish="stop", usage=None)),
            frame({"id": "c1", "choices": [], "usage": USAGE}),
            DONE,
        ]
    ),
    "spaced": b"".join(
        [
            frame(delta("a", usage=None), spaced=True),
            frame(delta("", finish="stop"), spaced=True),
            frame({"choices": [], "usage": USAGE}, spaced=True),
            DONE,
        ]
    ),
    "llamacpp": b"".join(
        [
            frame(delta("a")),
            frame(delta("", finish="length")),
            frame({"choices": [], "usage": USAGE, "timings": {"prompt_n": 5, "predicted_ms": 1.25}}),
            DONE,
        ]
    ),
    "continuous usage": b"".join(
        [
            frame(delta("a", usage={**USAGE, "completion_tokens": 1})),
            frame(delta("", finish="stop", usage=USAGE)),
            DONE,
        ]
    ),
    "azure": b"".join(
        [
            frame({"choices": [], "prompt_filter_results": [{"index": 0}]}),
            frame(delta("é")),
            frame(delta("", finish="stop")),
            frame({"usage": USAGE}),
            DONE,
        ]
    ),
    "comments": b": a\n\n" + frame(delta("a")) + b": ping\n\n" + frame(delta("", finish="stop")) + DONE,
    "extra blank lines": frame(delta("a")) + b"\n\n\n" + frame(delta("", finish="stop")) + b"\n" + DONE,
    "no done": frame(delta("a")) + frame(delta("", finish="stop")),
    "last frame without its blank line": frame(delta("a")) + frame(delta("", finish="stop")).rstrip(b"\n"),
}
STREAMS.update({name + " crlf": data.replace(b"\n", b"\r\n") for name, data in list(STREAMS.items())})


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_stream_in_single_bytes_is_relayed_as_the_whole(name, wants_usage):
    data = STREAMS[name]
    whole, split = relay_of(wants_usage=wants_usage), relay_of(wants_usage=wants_usage)

    expected = run(whole, data)
    given_out = run(split, *(data[at : at + 1] for at in range(len(data))))

    assert given_out == expected
    assert state(split) == state(whole)
    assert whole.is_complete


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STREAMS)),
    cuts=st.lists(st.integers(0, 900), max_size=12),
    wants_usage=st.booleans(),
)
def test_stream_is_relayed_the_same_whatever_its_chunks(name, cuts, wants_usage):
    data = STREAMS[name]
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    whole, split = relay_of(wants_usage=wants_usage), relay_of(wants_usage=wants_usage)

    expected = run(whole, data)
    given_out = run(split, *(data[a:b] for a, b in itertools.pairwise(edges)))

    assert given_out == expected
    assert state(split) == state(whole)


@pytest.mark.parametrize("name", ["vllm", "spaced", "llamacpp", "azure", "continuous usage"])
def test_stream_for_a_client_that_wants_usage_is_unchanged_but_for_done(name):
    data = STREAMS[name]

    given_out = run(relay_of(wants_usage=True), data)

    assert given_out + DONE == data


def test_usage_that_the_client_did_not_ask_for_is_taken_out():
    relay = relay_of()

    given_out = run(relay, STREAMS["vllm"])

    assert given_out == frame(delta("")) + frame(delta("Grüße 👋")) + frame(delta("", finish="stop"))
    assert state(relay) == (True, True, 3, USAGE)


def test_usage_in_a_chunk_with_choices_is_taken_out_and_the_last_one_counts():
    relay = relay_of()

    given_out = run(relay, STREAMS["continuous usage"])

    assert given_out == frame(delta("a")) + frame(delta("", finish="stop"))
    assert relay.reported_usage == USAGE


def test_usage_in_a_chunk_without_choices_is_noted_and_dropped():
    relay = relay_of()

    given_out = run(relay, STREAMS["azure"])

    assert given_out == STREAMS["azure"].removesuffix(frame({"usage": USAGE}) + DONE)
    assert relay.reported_usage == USAGE


def test_chunk_with_llamacpp_timings_keeps_them_beside_content():
    relay = relay_of()
    event = delta("", finish="stop", usage=USAGE, timings={"prompt_n": 5, "predicted_ms": 1.25})

    given_out = run(relay, frame(event))

    assert given_out == frame(delta("", finish="stop", timings={"prompt_n": 5, "predicted_ms": 1.25}))
    assert relay.reported_usage == USAGE


def test_empty_usage_is_cut_without_rewriting_the_rest_of_its_chunk():
    # A number beyond 64 bits and odd spacing would not survive a rewrite.
    text = b'data: {"choices": [{"index":0, "delta":{}}],"seed":12345678901234567890123, "usage": null}\n\n'
    relay = relay_of()

    given_out = run(relay, text + frame({"choices": [], "usage": USAGE}))

    assert given_out == text.replace(b', "usage": null', b"")


def test_comments_pass_once_the_answer_has_begun():
    # Before it they would commit us to an answer that may yet be an error.
    given_out = run(relay_of(), STREAMS["comments"].replace(DONE, b": ping\n\n" + DONE))

    assert given_out == frame(delta("a")) + b": ping\n\n" + frame(delta("", finish="stop")) + b": ping\n\n"


@pytest.mark.parametrize(
    "text",
    [
        'she said "usage":{"prompt_tokens":1}',
        '"error": {"message":"no"}',
        '"finish_reason":"stop"',
        ',"usage":null',
        "data: [DONE]\n\ndata: {",
        "}\n\ndata: {",
        '\\"usage\\":null \\\\"error"',
    ],
)
@pytest.mark.parametrize("wants_usage", [True, False])
def test_text_that_looks_like_protocol_passes_untouched(text, wants_usage):
    relay = relay_of(wants_usage=wants_usage)
    data = frame(delta(text)) * 3

    given_out = run(relay, frame(delta("")), data)

    assert given_out == frame(delta("")) + data
    assert state(relay) == (False, False, 4, None)


def test_unknown_members_and_odd_spacing_pass_untouched():
    data = (
        b'data:  {"choices" : [ {"index" : 0,"delta":{}} ],"obfuscation":"aZ9","service_tier": null}\n\n'
        b'event: x\nid: 7\ndata: {"choices":[],\ndata: "system_fingerprint":"fp"}\n\n'
    )

    assert run(relay_of(), data) == data


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"error": {"message": "CUDA out of memory", "code": 500}}, "CUDA out of memory"),
        ({"error": "overloaded", "error_type": "overloaded"}, "overloaded"),
        ({"object": "error", "message": "engine died", "code": 500}, "engine died"),
        ({"object": "error", "message": "engine died", "choices": [{"index": 0}]}, "engine died"),
        ({"error": {"code": 500}}, "it did not say why"),
        ({"error": {"message": "x" * 999}}, "x" * 300),
    ],
)
@pytest.mark.parametrize("before", [b"", frame(delta("a"))])
def test_error_inside_a_stream_is_raised(payload, told, before):
    relay = relay_of()

    assert relay.feed(before) == before
    with pytest.raises(UpstreamError) as caught:
        relay.feed(frame(payload))

    assert caught.value.message == f"The upstream failed while answering: {told}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"data: {not json}\n\n", "The upstream sent an event that is not JSON."),
        (b'data: {"choices":[\n\n', "The upstream sent an event that is not JSON."),
        (b'data: {"a":NaN}\n\n', "The upstream sent an event that is not JSON."),
        (b"data: \xff\xfe\n\n", "The upstream sent an event that is not JSON."),
        (b"data: [1]\n\n", "The upstream sent an event that is not an object."),
        (b"data: 7\n\n", "The upstream sent an event that is not an object."),
        (b'data: {"choices":{"0":1}}\n\n', "The upstream sent choices that are not a list."),
        (b'data: {"choices":7}\n\n', "The upstream sent choices that are not a list."),
        (b"<html>Bad gateway</html>\n\n", "The upstream sent something that is no event stream."),
        (b'{"choices":[]}\n\n', "The upstream sent something that is no event stream."),
        (b'error: {"code":500}\n\n', "The upstream sent something that is no event stream."),
    ],
)
def test_first_event_that_makes_no_sense_is_raised(data, message):
    with pytest.raises(UpstreamInvalidError) as caught:
        relay_of().feed(data)

    assert caught.value.message == message


@pytest.mark.parametrize("wrong", [b"data: {not json}\n\n", frame({"error": {"message": "died"}})])
def test_good_frames_in_front_of_a_wrong_one_are_given_first(wrong):
    before = frame(delta("a")) + frame(delta("b"))
    relay = relay_of()

    given = relay.feed(before + wrong)

    assert (given, relay.content_frames) == (before, 2)
    assert isinstance(relay.fault, UpstreamError)


def test_event_cut_in_the_middle_is_raised_at_the_end():
    relay = relay_of()
    relay.feed(frame(delta("a")) + b'data: {"choices":[{"ind')

    with pytest.raises(UpstreamInvalidError):
        relay.finish()


def test_stream_without_finish_reason_is_not_complete():
    relay = relay_of()

    run(relay, frame(delta("a")) + DONE)

    assert state(relay) == (False, True, 1, None)


@pytest.mark.parametrize(
    "text",
    [
        b'"finish_reason":"stop"',
        b'"finish_reason": "stop"',
        b'"finish_reason" : "stop"',
        b'"finish_reason":\t"stop"',
    ],
)
def test_finish_reason_is_seen_however_it_is_spaced(text):
    relay = relay_of()

    run(relay, frame(delta("a")), b'data: {"choices":[{"index":0,"delta":{},' + text + b"}]}\n\n")

    assert relay.is_complete


def test_done_ends_a_stream_of_an_upstream_that_ignores_n():
    relay = relay_of(choice_count=2)

    run(relay, frame(delta("", index=0, finish="stop")) + DONE)

    assert relay.is_complete


def test_two_choices_are_complete_when_both_have_finished():
    relay = relay_of(choice_count=2)

    relay.feed(
        frame(delta("a", index=0)) + frame(delta("b", index=1)) + frame(delta("", index=0, finish="stop"))
    )
    after_one = relay.is_complete
    relay.feed(frame(delta("", index=1, finish="length")))

    assert (after_one, relay.is_complete) == (False, True)


def test_finish_reason_that_is_repeated_counts_for_its_choice_alone():
    relay = relay_of(choice_count=2)

    relay.feed(frame(delta("", index=0, finish="stop")) * 3)

    assert not relay.is_complete


@pytest.mark.parametrize("index", [None, [], {}, "0", 1.5, True])
def test_choice_with_an_impossible_index_counts_as_the_first(index):
    relay = relay_of()

    relay.feed(frame(delta("", index=index, finish="stop")))

    assert relay.is_complete


@pytest.mark.parametrize("done", [DONE, b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE] \n\n"])
def test_nothing_after_done_is_relayed(done):
    relay = relay_of()

    given_out = run(
        relay, frame(delta("", finish="stop")) + done + frame(delta("late")), frame(delta("later"))
    )

    assert given_out == frame(delta("", finish="stop"))
    assert state(relay) == (True, True, 1, None)


def test_line_may_be_as_long_as_the_limit_and_no_longer():
    relay = relay_of(line_bytes_max=100)

    relay.feed(b": " + b"x" * 98)
    with pytest.raises(UpstreamInvalidError) as caught:
        relay.feed(b"x")

    assert caught.value.message == "The upstream sent a line longer than 100 bytes."


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: {", b"}\n\n", b'"usage"', b"\r", b"\n"])))
def test_any_bytes_raise_nothing_but_an_upstream_error(chunks):
    relay = relay_of()

    try:
        given_out = run(relay, *chunks)
    except UpstreamError:
        return

    assert len(given_out) <= sum(map(len, chunks)) + 2


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["choices", "usage", "error", "object", "id"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["index", "finish_reason", "message"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_event_raises_nothing_but_an_upstream_error(event):
    try:
        run(relay_of(), frame(event))
    except UpstreamError:
        return


def test_two_objects_in_one_event_are_no_event():
    event = b'data: {"choices":[{"index":0}]},{"choices":[{"index":0}]}\n\n'

    with pytest.raises(UpstreamInvalidError):
        relay_of().feed(event)


@pytest.mark.parametrize("null", [b'"usage":null', b'"usage" : null '])
def test_empty_usage_is_taken_out_wherever_it_stands(null):
    event = b"data: {" + null + b',"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'

    out = run(relay_of(), event)

    assert orjson.loads(out[6:]) == {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    assert run(relay_of(wants_usage=True), event) == event


@pytest.mark.parametrize("wants_usage", [True, False])
def test_usage_keeps_its_amounts_of_money_exact(wants_usage):
    relay = relay_of(wants_usage=wants_usage)
    usage = b'{"prompt_tokens":5,"completion_tokens":2,"cost":0.10000000000000000001}'

    run(relay, frame(delta(finish="stop")), b'data: {"choices":[],"usage":' + usage + b"}\n\n", DONE)

    assert relay.reported_usage == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "cost": Decimal("0.10000000000000000001"),
    }


@pytest.mark.parametrize(
    ("events", "service_tier"),
    [
        ([delta(service_tier="flex"), delta(finish="stop", service_tier="flex")], "flex"),
        # A stream that is cut has said it in its first event.
        ([delta(service_tier="flex"), delta()], "flex"),
        ([delta(service_tier="auto"), delta(finish="stop", service_tier="priority")], "priority"),
        ([delta(), delta(finish="stop"), {"choices": [], "usage": USAGE, "service_tier": "flex"}], "flex"),
        ([delta(service_tier="flex"), delta(finish="stop", service_tier=None)], "flex"),
        ([delta(), delta(finish="stop")], None),
    ],
)
def test_service_tier_is_what_the_stream_said_at_last(events, service_tier):
    for frames in ([b"".join(map(frame, events))], [frame(event) for event in events]):
        relay = relay_of()

        run(relay, *frames)

        assert relay.service_tier == service_tier
