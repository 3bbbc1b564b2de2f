"""A stand-in upstream at C speed: uvloop and httptools, fixed answers, streams paced or in bursts.

`python -m gateway.bench.stub PORT`. How streams go is set for all that begin later, by POST /bench/mode
with the members of Mode: the harness does so before each run, so that no peer must pass a word of it on.
"""

import asyncio
import dataclasses
import sys
import time
from dataclasses import dataclass
from typing import cast

import httptools
import orjson
import uvloop

from gateway.bench.timer import Timer

HOST = "127.0.0.1"
BACKLOG = 4096
MODEL = "bench-model"
MODE_PATH = b"/bench/mode"
# The members that say how to answer stand near one end of the body, whatever a proxy made of it.
SEEN_BYTES = 4096
# Multiples of it, without their whole part, are spread evenly however many there are.
GOLDEN = 0.618034
WORDS = "The quick brown fox jumps over the lazy dog and runs on. " * 13
USAGE = {"prompt_tokens": 52, "completion_tokens": 180, "total_tokens": 232}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How a stream goes: `chunk_count` chunks, `burst_chunks` in one write, a write each `interval_ms`.

    A held stream sends its first chunk and then nothing.
    """

    chunk_count: int = 20
    burst_chunks: int = 1
    interval_ms: float = 0.0
    is_held: bool = False


def _head(kind: bytes, length: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n" + length + b"\r\n\r\n"


def _plain(document: object) -> bytes:
    body = orjson.dumps(document)
    return _head(b"application/json", b"content-length: %d" % len(body)) + body


def _frame(payload: bytes) -> bytes:
    """A server-sent event as a chunk of HTTP's chunked coding."""
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n" % len(event) + event + b"\r\n"


def _chunk(delta: object, *, finish_reason: str | None = None, usage: object = None) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    document = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_730_000_000,
        "model": MODEL,
        "choices": choices,
    }
    return _frame(orjson.dumps({**document, "usage": usage} if usage else document))


COMPLETION = _plain(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_730_000_000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }
)
EMBEDDING = _plain(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.0625] * 128}],
        "model": MODEL,
        "usage": {"prompt_tokens": 52, "total_tokens": 52},
    }
)
MODELS = _plain({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
STREAM_HEAD = _head(b"text/event-stream; charset=utf-8", b"transfer-encoding: chunked")
FIRST_CHUNK = _chunk({"role": "assistant", "content": " word"})
# Not one chunk again and again: LiteLLM takes a hundred alike for a model that hangs, and ends the stream.
CHUNKS = tuple(
    _chunk({"content": f" {word}"}) for word in ("the", "fox", "ran", "off", "and", "hid", "far", "out")
)
LAST_CHUNK = _chunk({}, finish_reason="stop")
USAGE_CHUNK = _chunk({}, usage=USAGE)
END = _frame(b"[DONE]") + b"0\r\n\r\n"


def _chunks(left_count: int, count: int) -> bytes:
    """The next `count` chunks of a stream that has so many left."""
    return b"".join(CHUNKS[number % len(CHUNKS)] for number in range(left_count, left_count - count, -1))


class Stub:
    """What all connections share: the mode in force, and the timer that paces their streams."""

    def __init__(self) -> None:
        self.mode = Mode()
        self.timer = Timer()
        self._stream_number = 0

    def next_due_ns(self) -> int:
        """The second chunk of the next stream: spread evenly, so that no two streams keep step."""
        self._stream_number += 1
        interval_ns = self.mode.interval_ms * 1e6
        return time.monotonic_ns() + round(interval_ns * (0.5 + self._stream_number * GOLDEN % 1))

    def set_mode(self, body: bytes) -> bytes:
        self.mode = Mode(**orjson.loads(body))
        return _plain(dataclasses.asdict(self.mode))


class StubConnection(asyncio.Protocol):
    """One connection: a request at a time, its answer at once or over time."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._url = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are transports in all but their class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url, self._body = b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url, body = self._url, self._body
        if url.endswith(b"/completions"):
            seen = (
                bytes(body) if len(body) <= 2 * SEEN_BYTES else bytes(body[:SEEN_BYTES] + body[-SEEN_BYTES:])
            )
            seen = seen.replace(b" ", b"")
            if b'"stream":true' in seen:
                self._stream(is_usage_asked=b'"include_usage":true' in seen)
            else:
                self._transport.write(COMPLETION)
        elif url.endswith(b"/embeddings"):
            self._transport.write(EMBEDDING)
        elif url == MODE_PATH:
            self._transport.write(self._stub.set_mode(bytes(body)))
        else:
            self._transport.write(MODELS)

    def _stream(self, *, is_usage_asked: bool) -> None:
        mode = self._stub.mode
        end = LAST_CHUNK + (USAGE_CHUNK if is_usage_asked else b"") + END
        if mode.is_held:
            self._transport.write(STREAM_HEAD + FIRST_CHUNK)
        elif mode.interval_ms == 0:
            self._burst(mode.chunk_count, STREAM_HEAD, mode=mode, end=end)
        else:
            self._transport.write(STREAM_HEAD + _chunks(mode.chunk_count, mode.burst_chunks))
            left_count = mode.chunk_count - mode.burst_chunks
            self._wait(left_count, self._stub.next_due_ns(), mode=mode, end=end)

    def _burst(self, left_count: int, head: bytes, *, mode: Mode, end: bytes) -> None:
        """Without a pace: write after write, each in a turn of the loop of its own."""
        count = min(mode.burst_chunks, left_count)
        chunks = _chunks(left_count, count)
        left_count -= count
        self._transport.write(head + chunks + (b"" if left_count else end))
        if left_count:
            self._loop.call_soon(lambda: self._burst(left_count, b"", mode=mode, end=end))

    def _wait(self, left_count: int, due_ns: int, *, mode: Mode, end: bytes) -> None:
        self._stub.timer.call_at(due_ns, lambda: self._go_on(left_count, due_ns, mode=mode, end=end))

    def _go_on(self, left_count: int, due_ns: int, *, mode: Mode, end: bytes) -> None:
        if self._transport.is_closing():
            return
        count = min(mode.burst_chunks, left_count)
        chunks = _chunks(left_count, count)
        left_count -= count
        self._transport.write(chunks + (b"" if left_count else end))
        if left_count:
            self._wait(left_count, due_ns + round(mode.interval_ms * 1e6), mode=mode, end=end)


async def serve(*, port: int) -> None:
    stub = Stub()
    server = await asyncio.get_running_loop().create_server(
        lambda: StubConnection(stub), HOST, port, backlog=BACKLOG
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(port=int(sys.argv[1])))
