"""Responses of the slim path: what goes out as headers and body."""

import pytest

from gateway.outbox import Outbox, Reply
from gateway.responses import CompletionResponse, JsonResponse


@pytest.mark.parametrize(
    ("document", "body"), [({"a": [1, None]}, b'{"a":[1,null]}'), (b'{"b": 2}', b'{"b": 2}'), ([], b"[]")]
)
def test_json_response_has_its_document_as_bytes(document, body):
    response = JsonResponse(document, status=404, headers=(("x-a", "1"),))

    assert (response.status_code, response.headers_sent, response.body, response.outbox) == (
        404,
        (("content-type", "application/json"), ("x-a", "1")),
        body,
        None,
    )


async def test_whole_answer_is_a_json_body():
    response = CompletionResponse(Reply(headers=(("x-a", "1"),), body=b"{}"), Outbox(bytes_max=1))

    assert (response.status_code, response.headers_sent, response.body, response.outbox) == (
        200,
        (("content-type", "application/json"), ("x-a", "1")),
        b"{}",
        None,
    )


async def test_streamed_answer_is_the_outbox_and_never_cached():
    outbox = Outbox(bytes_max=1)

    response = CompletionResponse(Reply(headers=(("x-a", "1"),), body=None), outbox)

    assert (response.status_code, response.headers_sent, response.body, response.outbox) == (
        200,
        (
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            ("x-a", "1"),
        ),
        None,
        outbox,
    )
