"""What a request costs in CPU over a fixed piece of work: `python -m tests.gateway.cpu_guard [--record]`.

The whole gateway runs in this process, from the bytes of a connection to those of the answer; its upstream
is the benchmark's stub in a process of its own. CPU time and not wall time; the least of many turns, in which
the requests and the fixed work take each other's place: so neither a slower machine nor a crowded one moves
the ratio much.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import django
import orjson
import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.bench.connection import request_bytes
from gateway.bench.processes import Running, free_port, wait_for_status
from gateway.bench.stub import MODEL

RECORD = Path(__file__).with_name("cpu_guard.json")
# The ratio may be so many times the recorded one.
SLACK = 1.2
REQUESTS, AT_ONCE, TURNS = 192, 32, 24
WARM_UP_TURNS = 3
PATH = "/v1/chat/completions"
PROMPT = {"messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 256}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true", help="keep the ratio for this version of Python")
    parser.add_argument("--added-us", type=float, default=0.0, help="of work in each request, as a trial")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tollgate-guard-") as folder:
        prepare_environment(folder)
        with stub_port(Path(folder)) as port:
            request = seeded_request(Path(folder), upstream_port=port)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                measured = runner.run(measure(request, added_us=options.added_us))
    recorded = json.loads(RECORD.read_text())
    version = ".".join(platform.python_version_tuple()[:2])
    if options.record:
        recorded[version] = round(measured["ratio"], 3)
        RECORD.write_text(json.dumps(recorded, indent=2) + "\n")
    json.dump({**measured, "recorded": recorded.get(version)}, sys.stdout)


def prepare_environment(folder):
    """Before Django is set up: a gateway as it is shipped, on SQLite, whatever the tests run on."""
    for name in list(os.environ):
        if name.startswith("GATEWAY_") or name in {"DATABASE_URL", "REDIS_URL", "DEBUG"}:
            del os.environ[name]
    os.environ |= {
        "GATEWAY_DATA_DIR": folder,
        "LOG_LEVEL": "ERROR",
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
    }


@contextlib.contextmanager
def stub_port(folder):
    port = free_port()
    argv = [sys.executable, "-m", "gateway.bench.stub", str(port)]
    cores = frozenset(os.sched_getaffinity(0))
    stub = Running(argv, name="stub", cores=cores, log=folder / "stub.log")
    try:
        wait_for_status(stub, port=port, path="/v1/models", timeout_s=30)
        yield port
    finally:
        stub.stop()


def seeded_request(folder, *, upstream_port):
    """The benchmark's own databases, and a request to them."""
    django.setup()
    from gateway.bench.own_gateway import SIGNING_VARIABLE, fleet_configuration  # noqa: PLC0415 -- app ready
    from gateway.management.commands.bench import seeded_keys  # noqa: PLC0415 -- app ready

    os.environ[SIGNING_VARIABLE] = "secret-of-the-guard"
    configuration = folder / "config.yaml"
    configuration.write_text(fleet_configuration(cluster_count=10, upstream_port=upstream_port))
    key = seeded_keys(configuration, key_count=1)[0]
    body = orjson.dumps({"model": MODEL, **PROMPT})
    return request_bytes(path=PATH, body=body, headers={"authorization": f"Bearer {key}"})


async def measure(request, *, added_us):
    from gateway.asgi import Application  # noqa: PLC0415 -- app ready

    application = Application()
    await application._started()
    config = Config(application, ws="none", access_log=False, log_config=None, proxy_headers=False)
    config.load()
    try:
        request_us = work_us = float("inf")
        for turn in range(WARM_UP_TURNS + TURNS):
            spent_us = work()
            batch_us = await batch(config, request, added_us=added_us)
            if turn >= WARM_UP_TURNS:
                work_us, request_us = min(work_us, spent_us), min(request_us, batch_us)
    finally:
        await application.gateway.stop()
    return {"ratio": request_us / work_us, "request_us": request_us, "work_us": work_us}


async def batch(config, request, *, added_us):
    """Microseconds of CPU, of all threads, for each of so many requests."""
    from gateway.caller import CallerProtocol  # noqa: PLC0415 -- app ready

    left = iter(range(REQUESTS))
    begun_s = time.process_time()

    async def caller():
        line = FakeLine()
        protocol = CallerProtocol(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(line)
        for _ in left:
            spin(added_us)
            protocol.data_received(request)
            assert (await line.answer()).startswith(b"HTTP/1.1 200 OK")
        protocol.connection_lost(None)

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return (time.process_time() - begun_s) / REQUESTS * 1e6


class FakeLine(asyncio.Transport):
    """A caller's end of a connection: what is written to it is the answer, in one piece."""

    def __init__(self):
        super().__init__()
        self._answers = asyncio.Queue()

    def write(self, data):
        self._answers.put_nowait(data)

    async def answer(self):
        return await self._answers.get()

    def is_closing(self):
        return False

    def close(self):
        """Nothing is open."""

    def resume_reading(self):
        """It never paused."""


def work():
    """The fixed piece of work, of the kinds that a request is made of: microseconds of CPU for one."""
    document = {
        "model": "m",
        "messages": [{"role": "user", "content": "hello " * 40}],
        "numbers": list(range(50)),
    }
    text = orjson.dumps(document)
    count = 400
    begun_s = time.process_time()
    for number in range(count):
        parsed = orjson.loads(text)
        parsed["number"] = number
        digest = hashlib.sha256(orjson.dumps(parsed)).hexdigest()
        ranked = sorted(((value * 7919 + number) % 101, value) for value in parsed["numbers"])
        table = {f"{digest[:8]}-{rank}": place for rank, (_, place) in enumerate(ranked)}
        sum(table.values())
    return (time.process_time() - begun_s) / count * 1e6


def spin(microseconds):
    end_s = time.thread_time() + microseconds / 1e6
    while microseconds and time.thread_time() < end_s:
        pass


if __name__ == "__main__":
    main()
