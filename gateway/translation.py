"""Puts a maker's dialect between the socket and the reader: an answer that comes out of here is OpenAI's."""

from collections.abc import AsyncIterator

from msgspec.structs import replace

from gateway.dialects.dialect import EVENT_STREAM, Call, Dialect
from gateway.errors import InvalidRequestError, UpstreamError
from gateway.upstream import UpstreamFailure, UpstreamResponse, failed_answer, read_body

EVENT_STREAM_HEADERS = {"content-type": EVENT_STREAM}


def sent_body(dialect: Dialect, call: Call) -> bytes:
    """The body to send; raises UpstreamFailure where the dialect has no words for the request.

    Nothing was sent then and the cluster is well: one of another maker may take the request.
    """
    try:
        return dialect.body(call)
    except InvalidRequestError as refusal:
        raise UpstreamFailure(refusal, is_sent=False, is_counted=False) from refusal


def translated(
    response: UpstreamResponse, *, dialect: Dialect, call: Call, answer_bytes_max: int, line_bytes_max: int
) -> UpstreamResponse:
    """The answer in OpenAI's dialect: itself where it is so already, else with its bytes translated."""
    if dialect.is_openai:
        return response
    if not call.request.is_stream:
        return replace(response, chunks=_plain(response, dialect, call, bytes_max=answer_bytes_max))
    content_type = response.headers.get("content-type", "")
    headers = EVENT_STREAM_HEADERS if content_type.startswith(dialect.stream_type) else response.headers
    chunks = _stream(response, dialect, call, line_bytes_max=line_bytes_max)
    return replace(response, headers=headers, chunks=chunks)


async def _plain(
    response: UpstreamResponse, dialect: Dialect, call: Call, *, bytes_max: int
) -> AsyncIterator[bytes]:
    body = await read_body(response, bytes_max=bytes_max)
    try:
        yield dialect.answer(body, call)
    except UpstreamError as error:
        raise failed_answer(error) from error


async def _stream(
    response: UpstreamResponse, dialect: Dialect, call: Call, *, line_bytes_max: int
) -> AsyncIterator[bytes]:
    """Chunk for chunk: an empty one says that the upstream is alive."""
    translator = dialect.translator(call, line_bytes_max=line_bytes_max)
    async for chunk in response.chunks:
        yield translator.feed(chunk)
    yield translator.finish()
