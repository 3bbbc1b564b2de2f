"""Responses of the slim path: bytes and headers, without the work that Django's own do for browsers."""

from typing import Any

import orjson
from django.http import HttpResponseBase

from gateway.errors import ORIGINAL_REQUEST_HEADER
from gateway.idempotency import KeptAnswer
from gateway.outbox import Headers, Outbox, Reply
from gateway.surface_answers import TranslatedOutbox

JSON_TYPE = ("content-type", "application/json")
STREAM_TYPE = ("content-type", "text/event-stream; charset=utf-8")
STREAM_HEADERS: Headers = (STREAM_TYPE, ("cache-control", "no-cache"), ("x-accel-buffering", "no"))
REPLAYED = ("idempotency-replayed", "true")


class SlimResponse(HttpResponseBase):
    """What gateway.slim sends: `headers_sent` as they are, then `body` or the outbox's stream."""

    headers_sent: Headers = ()
    body: bytes | None = None
    outbox: Outbox | TranslatedOutbox | None = None

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

    def __init__(self, reply: Reply, outbox: Outbox | TranslatedOutbox) -> None:
        super().__init__(status=200)
        if reply.body is not None:
            self.body = reply.body
            self.headers_sent = (JSON_TYPE, *reply.headers)
        else:
            self.outbox = outbox
            self.headers_sent = (*STREAM_HEADERS, *reply.headers)


class KeptResponse(SlimResponse):
    """An answer that was given before, byte for byte; a stream's events come at once."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__(status=200)
        self.body = kept.body
        self.headers_sent = (
            *(STREAM_HEADERS if kept.is_stream else (JSON_TYPE,)),
            *kept.headers,
            REPLAYED,
            (ORIGINAL_REQUEST_HEADER, kept.request_id),
        )
