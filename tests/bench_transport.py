"""What a request to a cluster costs: `python -m tests.bench_transport`. Microseconds of the client's CPU.

The upstream is an httptools stub in a process of its own, on another core where there is one. Transports take
turns, round by round; told are the least and the median. pyreqwest and httpx's own pool take part where they
are installed; they are no requirements.
"""

import asyncio
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import httptools
import httpx
import uvloop

from gateway.connection_pool import ConnectionPool
from gateway.transport import Transport, request_head

AT_ONCE = 32
ROUNDS = 7
REQUESTS = 2_000
STREAMS = 128
PACED_STREAMS = 64
CHUNKS = 200
PACE_S = 0.01
BODY = b'{"model":"llama-3-8b","messages":[{"role":"user","content":"' + b"x" * 900 + b'"}]}'
ANSWER = b'{"object":"chat.completion","content":"' + b"y" * 960 + b'"}'
PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
)
FRAME = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(FRAME), FRAME)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEADERS = [
    ("content-type", "application/json"),
    ("accept-encoding", "identity"),
    ("user-agent", "tollgate"),
    ("x-request-id", "req_0123456789abcdef"),
    ("x-gateway-attempt-id", "01890000-0000-7000-8000-000000000000"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
]

Request = Callable[[int, str], Awaitable[int]]


class Stub(asyncio.Protocol):
    """Answers /plain, /burst and /paced."""

    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_url(self, url):
        self.url = url

    def on_message_complete(self):
        if self.url == b"/plain":
            self.transport.write(PLAIN)
        elif self.url == b"/burst":
            self.transport.write(STREAM_HEAD + CHUNK * CHUNKS + b"0\r\n\r\n")
        else:
            self.transport.write(STREAM_HEAD)
            self.send_next(CHUNKS)

    def send_next(self, left):
        if left == 0:
            self.transport.write(b"0\r\n\r\n")
            return
        self.transport.write(CHUNK)
        asyncio.get_running_loop().call_later(PACE_S, self.send_next, left - 1)


def serve(pipe, core):
    if core is not None:
        os.sched_setaffinity(0, {core})

    async def run():
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


@contextlib.contextmanager
def run_stub():
    """The stub's port. It and we have a core each, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    here, there = multiprocessing.Pipe()
    stub = multiprocessing.Process(
        target=serve, args=(there, cores[1] if len(cores) > 1 else None), daemon=True
    )
    stub.start()
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    try:
        yield here.recv()
    finally:
        stub.kill()
        stub.join()


def own_transport(port):
    pool = ConnectionPool(
        host="127.0.0.1", port=port, addresses=["127.0.0.1"], tls=None, connect_timeout_s=2.0
    )
    return Transport(pool=pool)


def own(port) -> Request:
    transport = own_transport(port)
    start = f"host: 127.0.0.1:{port}\r\n"

    async def ask(path):
        headers = [("content-length", str(len(BODY))), *HEADERS]
        head = request_head(start=f"POST {path} HTTP/1.1\r\n{start}", headers=headers)
        answer = await transport.send(head=head, body=BODY)
        count = 0
        while chunk := await answer.read():
            count += len(chunk)
        await answer.aclose()
        return count

    return ask


def over_httpx(port, transport, chunks_of) -> Request:
    async def ask(path):
        request = httpx.Request("POST", f"http://127.0.0.1:{port}{path}", headers=HEADERS, content=BODY)
        response = await transport.handle_async_request(request)
        count = 0
        async for chunk in chunks_of(response):
            count += len(chunk)
        await response.stream.aclose()
        return count

    return ask


def own_over_httpx(port) -> Request:
    return over_httpx(port, own_transport(port), lambda response: response.stream)


def httpx_default(port) -> Request:
    limits = httpx.Limits(max_connections=AT_ONCE * 8, max_keepalive_connections=AT_ONCE * 8)
    return over_httpx(port, httpx.AsyncHTTPTransport(limits=limits), lambda response: response.stream)


def rust(port) -> Request:
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415 -- optional
    from pyreqwest.compatibility.httpx import HttpxTransport  # noqa: PLC0415

    class StreamingTransport(HttpxTransport):
        def _map_body(self, builder, request):
            return super()._map_body(builder, request).streamed_read_buffer_limit(0)

    async def chunks_of(response):
        reader = response.extensions["pyreqwest_response"].body_reader
        while (chunk := await reader.read_chunk()) is not None:
            yield bytes(chunk)

    builder = ClientBuilder().no_proxy().pool_max_idle_per_host(256).tcp_nodelay(enabled=True).http1_only()
    return over_httpx(port, StreamingTransport(builder.build()), chunks_of)


async def spent_us(ask, path, *, requests, at_once, size):
    """CPU microseconds of this process, all its threads, per request."""
    left = iter(range(requests))

    async def work():
        for _ in left:
            assert await ask(path) == size

    begun_s = time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return (time.process_time() - begun_s) / requests * 1e6


async def measure(port, *, has_paced):
    transports = {"own": own(port), "own, as httpx's transport": own_over_httpx(port)}
    if importlib.util.find_spec("pyreqwest"):
        transports["pyreqwest"] = rust(port)
    transports["httpx's own pool"] = httpx_default(port)
    size = CHUNKS * len(FRAME)
    works = [
        ("plain, 1 KB", "/plain", {"requests": REQUESTS, "at_once": AT_ONCE, "size": len(ANSWER)}, 1),
        (
            f"burst, per chunk of {CHUNKS}",
            "/burst",
            {"requests": STREAMS, "at_once": AT_ONCE, "size": size},
            CHUNKS,
        ),
    ]
    if has_paced:
        paced = {"requests": PACED_STREAMS, "at_once": AT_ONCE, "size": size}
        works.append(("paced at 10 ms, per chunk", "/paced", paced, CHUNKS))
    for title, path, work, units in works:
        seen = {name: [] for name in transports}
        for turn in range(ROUNDS if path != "/paced" else 2):
            for name, ask in transports.items():
                # The first turn opens the connections.
                if turn == 0 and path != "/paced":
                    await spent_us(ask, path, **{**work, "requests": AT_ONCE * 2})
                seen[name].append(await spent_us(ask, path, **work) / units)
        for name, figures in seen.items():
            least, median = min(figures), statistics.median(figures)
            sys.stdout.write(f"{title:28} {name:26} least {least:8.1f} us   median {median:8.1f} us\n")


if __name__ == "__main__":
    with run_stub() as bench_port:
        uvloop.run(measure(bench_port, has_paced="--quick" not in sys.argv))
