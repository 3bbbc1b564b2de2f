"""Ends and deaths of the gateway's process: open streams, their rows, and what is in doubt after a kill."""

import asyncio
import contextlib
import time
from collections import Counter

import httpx
import orjson
import pytest

from tests.e2e.conftest import audited_fleet
from tests.e2e.fleet import CHAT_PATH, token_counts, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway

pytestmark = pytest.mark.e2e

STREAMS = 50
EXIT_S_MAX = 4.0


@pytest.fixture
def start_gateway(control, tmp_path):
    """Start a gateway with these environment variables; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(**variables):
            gateway = RunningGateway(env={**control.env, **variables}, log_path=tmp_path / "gateway.log")
            stack.callback(gateway.close)
            return gateway.wait_until_ready()

        yield start


@pytest.fixture
def new_fleet(control, observer):
    """A fleet on a gateway of the test's own."""
    with contextlib.ExitStack() as stack:

        def new(gateway):
            return stack.enter_context(contextlib.contextmanager(audited_fleet)(control, gateway, observer))

        yield new


class Streams:
    """Many open streams of one key."""

    def __init__(self, fleet, key, *, count, tokens):
        self._headers = {"authorization": f"Bearer {key.key}"}
        self._body = fleet.chat(
            stream=True, stream_options={"include_usage": True}, standin_completion_tokens=tokens
        )
        self._fleet = fleet
        self._count = count
        self.started_count = 0

    async def _read(self, client):
        data = b""
        async with client.stream("POST", CHAT_PATH, json=self._body) as answer:
            async for piece in answer.aiter_bytes():
                self.started_count += not data
                data += piece
        return [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n") if frame]

    @contextlib.asynccontextmanager
    async def opened(self):
        """Yields a task, once every stream has begun; its result is what each of them got."""
        async with httpx.AsyncClient(
            base_url=self._fleet.gateway.url, headers=self._headers, timeout=CLIENT_TIMEOUT_S
        ) as client:
            reading = asyncio.gather(
                *(self._read(client) for _ in range(self._count)), return_exceptions=True
            )
            while self.started_count < self._count:
                assert not reading.done(), reading.result()
                await asyncio.sleep(0.01)
            yield reading
            await reading


async def test_sigterm_lets_open_streams_finish(start_gateway, new_fleet):
    gateway = start_gateway()
    fleet = new_fleet(gateway)
    fleet.add_cluster(standin={"tokens_per_s": 10_000.0, "request_tokens_per_s": 20.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    streams = Streams(fleet, key, count=STREAMS, tokens=50)
    async with streams.opened() as reading:
        gateway.terminate()
        answers = await reading
        ended_s = time.monotonic()
        exit_code = await asyncio.to_thread(gateway.wait)

    rows = fleet.settled_rows(key, count=STREAMS)
    assert exit_code == 0
    assert time.monotonic() - ended_s < EXIT_S_MAX
    assert {frames[-1] for frames in answers} == {b"[DONE]"}
    usages = [orjson.loads(frames[-2])["usage"] for frames in answers]
    assert {usage["completion_tokens"] for usage in usages} == {50}
    assert Counter((row["outcome"], *token_counts(row)) for row in rows) == {("ok", 9, 50): STREAMS}


async def test_sigterm_past_its_limit_tells_each_caller(start_gateway, new_fleet):
    gateway = start_gateway(GATEWAY_DRAIN_TIMEOUT_S="1")
    fleet = new_fleet(gateway)
    fleet.add_cluster(standin={"tokens_per_s": 10_000.0, "request_tokens_per_s": 20.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    streams = Streams(fleet, key, count=STREAMS, tokens=1000)
    async with streams.opened() as reading:
        started_s = time.monotonic()
        gateway.terminate()
        answers = await reading
        exit_code = await asyncio.to_thread(gateway.wait)

    rows = fleet.settled_rows(key, count=STREAMS)
    assert exit_code == 0
    assert 1.0 <= time.monotonic() - started_s < 1.0 + 2 * EXIT_S_MAX
    assert {orjson.loads(frames[-1])["error"]["code"] for frames in answers} == {"draining"}
    outcomes = Counter((row["outcome"], row["error_code"]) for row in rows)
    assert outcomes == {("truncated", "draining"): STREAMS}
    for frames, row in zip(sorted(answers, key=len), sorted(rows, key=token_counts), strict=True):
        assert token_counts(row)[1] >= len(frames) - 2


async def test_draining_gateway_takes_nothing_new(start_gateway, new_fleet):
    gateway = start_gateway()
    fleet = new_fleet(gateway)
    fleet.add_cluster(standin={"tokens_per_s": 1000.0, "request_tokens_per_s": 20.0})
    key = fleet.issue_key()
    fleet.ready()

    streams = Streams(fleet, key, count=1, tokens=20)
    async with streams.opened() as reading:
        gateway.terminate()
        said = []
        with contextlib.suppress(httpx.TransportError):
            while not reading.done():
                answer = await asyncio.to_thread(fleet.post, key, fleet.chat(max_tokens=1))
                said.append((answer.status_code, answer.json().get("error", {}).get("code")))
                await asyncio.sleep(0.02)
        (frames,) = await reading

    assert frames[-1] == b"[DONE]"
    assert set(said) <= {(200, None), (503, "draining")}


async def test_killed_gateway_leaves_its_attempts_in_doubt_and_nothing_lost(
    start_gateway, new_fleet, control
):
    gateway = start_gateway()
    fleet = new_fleet(gateway)
    site = fleet.add_cluster(standin={"tokens_per_s": 1000.0, "request_tokens_per_s": 20.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    assert fleet.post(key, fleet.chat(max_tokens=1)).status_code == 200

    streams = Streams(fleet, key, count=5, tokens=1000)
    async with streams.opened() as reading:
        # A running stream notes its tokens about once a second.
        wait_until(lambda: all(checkpoints(control, key)))
        await asyncio.to_thread(gateway.kill)
        answers = await reading
    before = control.call("load_reservations", key_id=key.id)
    fleet.gateway = start_gateway()
    after = control.call("load_reservations", key_id=key.id)
    (window,) = fleet.windows(key)
    assert [answer for answer in answers if not isinstance(answer, httpx.TransportError)] == []
    assert Counter(r["state"] for r in before) == {"held": 5, "settled": 1}
    assert Counter(r["state"] for r in after) == {"in_doubt": 5, "settled": 1}
    assert {r["attempt_id"] for r in after} == {line["attempt_id"] for line in site.standin.app.received}
    assert window["held_nanousd"] == sum(r["held_nanousd"] for r in after if r["state"] == "in_doubt")
    assert fleet.post(key, fleet.chat(max_tokens=1)).status_code == 200
    assert [row["outcome"] for row in fleet.settled_rows(key, count=2)] == ["ok", "ok"]
    # What is in doubt waits for its operator: the audit of settled keys is not for this one.
    fleet.keys.remove(key)


def checkpoints(control, key):
    reservations = control.call("load_reservations", key_id=key.id)
    return [r["output_tokens_checkpoint"] for r in reservations if r["state"] == "held"]


def test_cold_gateway_hides_the_fall_of_a_cluster(start_gateway, new_fleet):
    """40 requests, one after the other, to a process that has earned no re-route yet."""
    fleet = new_fleet(start_gateway())
    fleet.add_cluster(is_dead=True)
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    statuses = [fleet.post(key, fleet.chat(max_tokens=3)).status_code for _ in range(40)]

    rows = fleet.control.call("load_rows", key_id=key.id)
    assert statuses == [200] * 40
    assert Counter(row["outcome"] for row in rows) == {"ok": 40, "failed": 5}
