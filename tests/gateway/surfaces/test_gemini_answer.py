"""Responses of Google's API from a chat's answer, plain and streamed, and refusals in Google's words."""

import itertools

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import (
    InsufficientQuotaError,
    InvalidApiKeyError,
    InvalidRequestError,
    OverloadedError,
    UpstreamInvalidError,
    UpstreamTimeoutError,
)
from gateway.surfaces.gemini_answer import embeddings_of_answer, response_of_answer
from gateway.surfaces.gemini_errors import error_document
from gateway.surfaces.gemini_stream import GenerateStream
from tests.gateway.surfaces.chats import CIRCUMSTANCES, DONE, FAULT, RICH, call, chunk, frame, plain

ENVELOPE = {"modelVersion": "m", "responseId": "42"}
USED = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 4,
    "totalTokenCount": 16,
    "cachedContentTokenCount": 4,
    "thoughtsTokenCount": 2,
}


def response(*, shows_thinking=True, **answer):
    return orjson.loads(response_of_answer(plain(**answer), CIRCUMSTANCES, shows_thinking=shows_thinking))


def events(data):
    return [orjson.loads(part.removeprefix(b"data: ")) for part in data.split(b"\r\n\r\n") if part]


def translated(*pieces, shows_thinking=True):
    stream = GenerateStream(CIRCUMSTANCES, shows_thinking=shows_thinking)
    return b"".join(map(stream.feed, pieces))


def said(*parts, **ended):
    return {
        "candidates": [{"content": {"parts": list(parts), "role": "model"}, **ended, "index": 0}],
        **ENVELOPE,
    }


def called(call_id, name, arguments, **more):
    return {"functionCall": {"id": call_id, "name": name, "args": arguments}, **more}


@pytest.mark.parametrize("shows_thinking", [True, False])
def test_answer_is_a_response(shows_thinking):
    signed = {
        **call(call_id="t", name="f", arguments='{"x": 1}'),
        "extra_content": {"google": {"thought_signature": "s"}},
    }
    message = {"content": "a", "reasoning_content": "Hm.", "tool_calls": [signed]}
    thoughts = [{"text": "Hm.", "thought": True}] if shows_thinking else []

    assert response(message=message, finish="tool_calls", shows_thinking=shows_thinking) == {
        **said(
            *thoughts, {"text": "a"}, called("t", "f", {"x": 1}, thoughtSignature="s"), finishReason="STOP"
        ),
        "usageMetadata": USED,
    }


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "STOP"), ("length", "MAX_TOKENS"), ("content_filter", "SAFETY")]
)
def test_reason_is_googles(finish, reason):
    [candidate] = response(message={"content": "a"}, finish=finish)["candidates"]

    assert candidate["finishReason"] == reason


def test_arguments_that_are_no_object_are_kept():
    [candidate] = response(message={"tool_calls": [call(name="f", arguments="[1]")]})["candidates"]

    assert candidate["content"]["parts"] == [called("call_42_0", "f", {"INVALID_JSON": "[1]"})]


def test_stream_tells_what_is_new_and_at_last_reason_and_usage():
    assert events(translated(RICH)) == [
        said({"text": "Hm", "thought": True}),
        said({"text": ""}),
        said({"text": "m.", "thought": True}),
        said({"text": "Grüße "}),
        said({"text": "👋"}),
        said(called("a", "f", {"x": 1})),
        said(called("b", "g", {})),
        {**said({"text": ""}, finishReason="STOP"), "usageMetadata": USED},
    ]


def test_thoughts_are_not_streamed_unasked():
    texts = [
        part.get("text")
        for event in events(translated(RICH, shows_thinking=False))
        for part in event["candidates"][0]["content"]["parts"]
    ]

    assert "".join(filter(None, texts)) == "Grüße 👋"


@given(cuts=st.lists(st.integers(0, len(RICH)), max_size=40))
@settings(max_examples=100)
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    places = [0, *sorted(cuts), len(RICH)]
    pieces = [RICH[first:last] for first, last in itertools.pairwise(places)]

    assert translated(*pieces) == translated(RICH)


def test_fault_in_a_stream_is_its_last_event():
    told = events(translated(chunk({"content": "a"}), frame({"error": FAULT}), DONE))

    assert told == [
        said({"text": "a"}),
        {"error": {"code": 502, "message": "It broke.", "status": "UNAVAILABLE"}},
    ]


def test_embeddings_come_in_the_order_of_their_numbers():
    body = orjson.dumps({"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]})

    together, alone = (
        orjson.loads(embeddings_of_answer(body, CIRCUMSTANCES, is_batch=is_batch))
        for is_batch in (True, False)
    )
    assert together == {"embeddings": [{"values": [1.0]}, {"values": [2.0]}]}
    assert alone == {"embedding": {"values": [1.0]}}
    with pytest.raises(UpstreamInvalidError):
        embeddings_of_answer(b'{"data": []}', CIRCUMSTANCES, is_batch=True)


@pytest.mark.parametrize(
    ("error", "code", "status", "details"),
    [
        (InvalidRequestError("No."), 400, "INVALID_ARGUMENT", None),
        (InvalidApiKeyError("No."), 401, "UNAUTHENTICATED", None),
        (InsufficientQuotaError("No."), 429, "RESOURCE_EXHAUSTED", None),
        (UpstreamInvalidError("No."), 502, "UNAVAILABLE", None),
        (UpstreamTimeoutError("No."), 504, "DEADLINE_EXCEEDED", None),
        (
            OverloadedError("No.", retry_after_s=2.5),
            503,
            "UNAVAILABLE",
            [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3s"}],
        ),
    ],
)
def test_refusal_is_in_googles_words(error, code, status, details):
    told = {"code": code, "message": "No.", "status": status}

    assert orjson.loads(error_document(error)) == {
        "error": told if details is None else {**told, "details": details}
    }
