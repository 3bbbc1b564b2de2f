"""Calls for the tests of dialects."""

from datetime import UTC, datetime
from uuid import UUID

import orjson

from gateway.completion import CompletionRequest
from gateway.dialects.dialect import Call
from gateway.schemas import decode_completion

CREATED_S = 1_900_000_000
LINE_BYTES_MAX = 1 << 20
ASKED = [{"role": "user", "content": "hi"}]


def request_of(*, surface="chat", **members) -> CompletionRequest:
    """A request decoded as the API decodes it."""
    given = {"chat": {"messages": ASKED}, "completions": {"prompt": "hi"}, "embeddings": {"input": "hi"}}
    document = {"model": "m", **given[surface], **members}
    return decode_completion(surface=surface, body=orjson.dumps(document), depth_max=64, needs_priced=False)


def call_of(
    *,
    request=None,
    surface="chat",
    endpoint="https://api.example.com",
    upstream_name="m",
    output_tokens_max=None,
    output_tokens_bound=None,
    **members,
) -> Call:
    """A call; `output_tokens_bound` is what the client asked for, or a context window of 200,000."""
    request = request or request_of(surface=surface, **members)
    asked = request.profile.output_tokens_max
    return Call(
        request=request,
        endpoint=endpoint,
        upstream_name=upstream_name,
        output_tokens_max=output_tokens_max,
        output_tokens_bound=output_tokens_bound or output_tokens_max or asked or 200_000,
        attempt_id=UUID(int=1),
        created_at=datetime.fromtimestamp(CREATED_S, UTC),
    )


def sse(*events: dict) -> bytes:
    """Events as Anthropic and others frame them."""
    return b"".join(
        b"event: " + str(event.get("type")).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
        for event in events
    )


def translate(translator, pieces) -> bytes:
    """All that a translator makes of these pieces."""
    return b"".join([*(translator.feed(piece) for piece in pieces), translator.finish()])


def frames(data: bytes) -> list:
    """An event stream's data, decoded."""
    lines = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n") if frame]
    return [line.decode() if line == b"[DONE]" else orjson.loads(line) for line in lines]
