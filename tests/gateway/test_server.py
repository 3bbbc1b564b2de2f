import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import server as serving
from gateway.server import DrainingServer
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent

# An application with streams of a given length, as a script: signals and exit codes are a process's own.
SCRIPT = """
import asyncio, json, sys
from gateway import server
from gateway.server import run_server

class Application:
    drains = []
    is_lifespan_ended = False
    cut = None

    def begin_drain(self, *, timeout_s):
        self.drains.append(timeout_s)
        self.cut = asyncio.get_running_loop().time() + timeout_s

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            if "--broken" in sys.argv:
                await send({"type": "lifespan.startup.failed", "message": "no database"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.is_lifespan_ended = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(b"x-scheme", scope["scheme"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(int(scope["path"].strip("/") or 0)):
            await send({"type": "http.response.body", "body": b"tick\\n", "more_body": True})
            if self.cut and asyncio.get_running_loop().time() > self.cut:
                await send({"type": "http.response.body", "body": b"error: draining\\n"})
                return
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"done\\n"})

application = Application()
run_server(application=application, host="127.0.0.1", port=int(sys.argv[1]), drain_timeout_s=int(sys.argv[2]))
print(json.dumps({"drains": application.drains, "lifespan_ended": application.is_lifespan_ended}))
"""


@contextmanager
def serving_process(*, drain_timeout_s, flags=()):
    port = free_port()
    argv = [sys.executable, "-c", SCRIPT, str(port), str(drain_timeout_s), *flags]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, port
        finally:
            process.kill()


def connected(port, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.02)


@contextmanager
def open_stream(port, ticks):
    with connected(port) as client:
        client.sendall(f"GET /{ticks} HTTP/1.1\r\nHost: gateway\r\nX-Forwarded-Proto: https\r\n\r\n".encode())
        with client.makefile("r", newline="\r\n") as lines:
            yield lines


def read_until(lines, *words):
    seen = []
    for line in lines:
        seen.append(line.strip())
        if seen[-1] in words:
            return seen
    return seen


def test_stream_that_is_open_at_the_stop_is_finished():
    with serving_process(drain_timeout_s=10) as (process, port), open_stream(port, ticks=20) as lines:
        read_until(lines, "tick")
        process.send_signal(signal.SIGTERM)
        seen = read_until(lines, "done")
        output, _ = process.communicate(timeout=10)

    assert seen[-1] == "done"
    assert seen.count("tick") == 19
    assert process.returncode == 0
    assert json.loads(output) == {"drains": [10], "lifespan_ended": True}


def test_stream_past_the_drain_limit_gets_the_applications_error():
    with serving_process(drain_timeout_s=1) as (process, port), open_stream(port, ticks=2000) as lines:
        read_until(lines, "tick")
        process.send_signal(signal.SIGTERM)
        seen = read_until(lines, "error: draining", "done")
        process.communicate(timeout=10)

    assert seen[-1] == "error: draining"
    assert process.returncode == 0


def test_idle_server_ends_at_once():
    with serving_process(drain_timeout_s=30) as (process, port):
        connected(port).close()
        begun_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)

    assert process.returncode == 0
    assert time.monotonic() - begun_s < 3


def test_second_signal_cuts_what_still_runs():
    with serving_process(drain_timeout_s=60) as (process, port), open_stream(port, ticks=2000) as lines:
        read_until(lines, "tick")
        process.send_signal(signal.SIGTERM)
        read_until(lines, "tick")
        begun_s = time.monotonic()
        # The first is taken up at the server's next tick; only then is another one a second.
        while process.poll() is None and time.monotonic() - begun_s < 10:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        process.communicate(timeout=10)

    assert process.returncode == 0
    assert time.monotonic() - begun_s < 10


def test_forwarded_headers_of_strangers_are_not_believed():
    with serving_process(drain_timeout_s=5) as (_, port), open_stream(port, ticks=0) as lines:
        seen = read_until(lines, "done")

    assert "x-scheme: http" in seen
    assert not any(line.startswith("server:") for line in seen)
    assert any(line.startswith("date:") for line in seen)


def test_application_that_cannot_start_ends_the_process_with_3():
    with serving_process(drain_timeout_s=5, flags=("--broken",)) as (process, _):
        _, errors = process.communicate(timeout=10)

    assert process.returncode == 3
    assert "no database" in errors


def test_signals_are_left_alone_outside_the_main_thread():
    server = DrainingServer(Config(app=lambda: None), application=None, drain_timeout_s=1)
    before = signal.getsignal(signal.SIGTERM)

    async def enter():
        return await asyncio.to_thread(handler_inside)

    def handler_inside():
        with server.capture_signals():
            return signal.getsignal(signal.SIGTERM)

    assert asyncio.run(enter()) == before


def test_options_of_uvicorn(monkeypatch):
    seen = {}
    monkeypatch.setattr(DrainingServer, "run", lambda self: seen.update(vars(self.config)))

    serving.run_server(
        application=None, host="127.0.0.1", port=8000, drain_timeout_s=30, trusted_proxies=["10.0.0.1"]
    )

    names = ("loop", "http", "ws", "lifespan", "access_log", "proxy_headers", "forwarded_allow_ips")
    assert {name: seen[name] for name in names} == {
        "loop": "uvloop",
        "http": HttpToolsProtocol,
        "ws": "websockets-sansio",
        "lifespan": "on",
        "access_log": False,
        "proxy_headers": True,
        "forwarded_allow_ips": ["10.0.0.1"],
    }
    assert (seen["timeout_keep_alive"], seen["backlog"], seen["timeout_graceful_shutdown"]) == (75, 2048, 35)


def test_processes_share_a_port_and_strangers_do_not():
    port = free_port()
    with (
        serving.shared_socket(host="127.0.0.1", port=port) as first,
        serving.shared_socket(host="127.0.0.1", port=port) as second,
    ):
        assert first.getsockname() == second.getsockname() == ("127.0.0.1", port)


def test_port_that_another_holds_alone_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(SystemExit) as ended:
            serving.shared_socket(host="127.0.0.1", port=other.getsockname()[1])
    assert ended.value.code == serving.STARTUP_EXIT_CODE
