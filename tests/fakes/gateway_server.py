"""A real gateway for tests: processes of their own on databases of their own, over loopback."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import orjson
import psycopg

from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START_S_MAX = 25.0
STOP_S_MAX = 15.0
# A test that waits for a limit of a gateway with short waits gets its answer well within this.
CLIENT_TIMEOUT_S = 15.0
POLL_S = 0.02
# Ends with the process that started it, whatever ends that one.
LAUNCHER = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(1, 9)
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""


class Control:
    """tests.e2e.control in a process of its own; `call` one of its functions."""

    def __init__(self, env):
        self.env = env
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.control"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout.readline() == b"ready\n"

    def call(self, function, /, **arguments):
        question = {"call": function, "arguments": arguments}
        self._process.stdin.write(orjson.dumps(question, default=str) + b"\n")
        self._process.stdin.flush()
        answer = orjson.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(STOP_S_MAX)
        self._process.stdout.close()


class RunningGateway:
    """`manage.py serve` on a free port; `settings_module` may shorten what tests would wait for."""

    def __init__(self, *, env, log_path, settings_module="gateway.settings", options=()):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, "serve", "--port", str(self.port), *options],
                cwd=ROOT,
                env={**env, "DJANGO_SETTINGS_MODULE": settings_module},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.client = httpx.Client(base_url=self.url, timeout=CLIENT_TIMEOUT_S)
        # The official SDK; made once, because that alone takes a tenth of a second.
        self.sdk = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=CLIENT_TIMEOUT_S)

    def wait_until_ready(self):
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s:
            assert self.process.poll() is None, self.log_path.read_text()
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/health/ready").status_code == 200:
                    return self
            time.sleep(POLL_S)
        raise AssertionError(self.log_path.read_text())

    def get(self, path, **options):
        return self.client.get(path, **options)

    def metrics(self):
        """Samples by their text, as `name{label="value"}`."""
        lines = self.client.get("/metrics").text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def logged_errors(self, *, since=0):
        """Lines of level error or above: the bugs that no caller may see."""
        with self.log_path.open("rb") as log:
            log.seek(since)
            return [line for line in log.read().decode().splitlines() if is_error(line)]

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()
        self.process.wait(STOP_S_MAX)

    def wait(self):
        return self.process.wait(STOP_S_MAX)

    def close(self):
        """End it, if it has not ended yet; give back the exit code."""
        self.client.close()
        self.sdk.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


def is_error(line):
    try:
        entry = orjson.loads(line)
        return entry["level"] in {"error", "critical"} and not is_expected(entry)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        # A traceback, or another word that went past the log.
        return "Traceback" in line


def is_expected(entry):
    """Django reports each 503 of /health, uvicorn each caller whom we cut off because he reads nothing."""
    is_answer = entry["logger"] == "django.request" and "/health" in entry["event"]
    is_cut = entry["event"] == "ASGI callable returned without completing response."
    return is_answer or is_cut


@contextlib.contextmanager
def new_databases(folder):
    """The environment of a gateway with a data folder and empty databases of its own.

    On PostgreSQL (DATABASE_URL) it is a new database of the same server.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    env = {**ours, "GATEWAY_DATA_DIR": str(folder), "LOG_LEVEL": "WARNING"}
    url = os.environ.get("DATABASE_URL", "")
    if not url.startswith("postgres"):
        env.pop("DATABASE_URL", None)
        yield env
        return
    name = f"tollgate_e2e_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield {**env, "DATABASE_URL": f"{url.rpartition('/')[0]}/{name}"}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
