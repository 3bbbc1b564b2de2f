"""Responses of the slim path: bytes and headers, without the work that Django's own do for browsers."""

from typing import Any

import orjson
from django.http import HttpResponseBase

from gateway.outbox import Headers, Outbox, Reply

JSON_TYPE = ("content-type", "application/json")
STREAM_TYPE = ("content-type", "text/event-stream; charset=utf-8")
STREAM_HEADERS: Headers = (STREAM_TYPE, ("cache-control", "no-cache"), ("x-accel-buffering", "no"))


class SlimResponse(HttpResponseBase):
    """What gateway.slim sends: `headers_sent` as they are, then `body` or the outbox's stream."""

    headers_sent: Headers = ()
    body: bytes | None = None
    outbox: Outbox | None = None

    def __init__(self, *, status: int) -> None:  # no super(): its headers and cookies are for browsers
        self.status_code = status
        self.streaming = False
        self.closed = False


class JsonResponse(SlimResponse):
    """A JSON document, or bytes that are one already."""

    def __init__(self, document: Any, *, status: int = 200, headers: Headers = ()) -> None:
        super().__init__(status=status)
        self.body = document if isinstance(document, bytes) else orjson.dumps(document)
        self.headers_sent = (JSON_TYPE, *headers)


class CompletionResponse(SlimResponse):
    """The answer that an outbox hands out."""

    def __init__(self, reply: Reply, outbox: Outbox) -> None:
        super().__init__(status=200)
        if reply.body is not None:
            self.body = reply.body
            self.headers_sent = (JSON_TYPE, *reply.headers)
        else:
            self.outbox = outbox
            self.headers_sent = (*STREAM_HEADERS, *reply.headers)
