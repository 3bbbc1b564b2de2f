"""The transport to a cluster, alone, against a real upstream: what the pipeline relies on."""

import asyncio
import contextlib
import time

import orjson
import pytest

from clusters.demo.standin import StandinSettings
from clusters.signing import NoneSigner
from gateway.fleet import Target
from gateway.upstream import UpstreamFailure, Upstreams
from routing.types import Deployment
from tests.fakes.standin_server import run_standin

pytestmark = pytest.mark.e2e

TASKS = 100
ROUNDS = 3
CANCELLED_S_MAX = 2.0


def new_target(url):
    deployment = Deployment(
        id="1",
        cluster="site",
        cluster_kind="own",
        provider="",
        region="",
        model="llama-3-8b",
        billing="committed",
        state="active",
        health="healthy",
        health_reason="",
        context_window=8192,
        output_tokens_max=None,
        capabilities=frozenset(),
        rate=None,
        cost_per_hour_nanousd=0,
        rated_tokens_per_s=None,
        measured_tokens_per_s=None,
        queue_depth=None,
        latency_ms=None,
        in_flight_max=64,
    )
    return Target(
        deployment=deployment,
        cluster_id="1",
        endpoint=url,
        backend="vllm",
        upstream_name="llama-3-8b",
        signer=NoneSigner(),
        tls=None,
        is_private_allowed=True,
    )


@pytest.fixture
async def upstreams():
    upstreams = Upstreams(connect_timeout_s=2, clock=time.monotonic, wall_clock_s=lambda: 0)
    yield upstreams
    await upstreams.aclose()


async def send(upstreams, url, **members):
    body = {"model": "llama-3-8b", "messages": [{"role": "user", "content": "Hello"}], **members}
    return await upstreams.send(
        target=new_target(url),
        path="/v1/chat/completions",
        body=orjson.dumps(body),
        request_id="req_1",
        attempt_id="1",
    )


async def read_whole(upstreams, url, **members):
    response = await send(upstreams, url, **members)
    try:
        return b"".join([chunk async for chunk in response.chunks])
    finally:
        await response.aclose()


@contextlib.asynccontextmanager
async def endless_upstream():
    """The URL of a server, in this very loop, that never stops sending to anyone."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"5\r\nagain\r\n")
                await writer.drain()
                await asyncio.sleep(0.005)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def test_cancellation_of_a_busy_stream_is_never_lost(upstreams):
    """Nor where its data comes at the same moment."""
    loop = asyncio.get_running_loop()
    async with endless_upstream() as url:
        for _ in range(ROUNDS):
            reading = [loop.create_task(read_whole(upstreams, url)) for _ in range(TASKS)]
            await asyncio.sleep(0.4)

            for task in reading:
                task.cancel()
            done, pending = await asyncio.wait(reading, timeout=CANCELLED_S_MAX)

            for task in pending:
                task.cancel()
            assert (len(pending), {task.cancelled() for task in done}) == (0, {True})


async def test_headers_come_before_the_body(upstreams):
    with run_standin(StandinSettings()) as standin:
        standin.set_fault("stall_first")

        async with asyncio.timeout(2):
            response = await send(upstreams, standin.url, stream=True)
            await response.aclose()

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("kind", "is_stream"),
    [("short_body", False), ("reset_mid", False), ("reset_mid", True), ("eof_mid", False)],
)
async def test_body_that_breaks_off_is_a_failure_of_the_upstream(upstreams, kind, is_stream):
    with run_standin(StandinSettings()) as standin:
        standin.set_fault(kind)

        with pytest.raises(UpstreamFailure) as failed:
            await read_whole(upstreams, standin.url, stream=is_stream)

    assert (failed.value.error.code, failed.value.is_sent) == ("upstream_invalid_response", True)
