"""`up` and `serve` as processes: they start, answer, stop in order, and leave nothing behind."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from gateway.management.commands.up import base_url
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
READY = "Try it:"


@pytest.fixture
def data_dir():
    """Short, so that the embedded Valkey's socket fits in it."""
    with tempfile.TemporaryDirectory(prefix="tg-up-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def environment(data_dir):
    """An installation of its own: its folder, its port and, on PostgreSQL, its database."""
    dropped = ("REDIS_URL", "GATEWAY_ADMIN_PASSWORD", "GATEWAY_CONFIG_FILE", "PYTEST_CURRENT_TEST")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"GATEWAY_DATA_DIR": str(data_dir), "GATEWAY_DEMO": "0", "GATEWAY_PORT": str(free_port())}
    url = env.get("DATABASE_URL", "")
    if not url.startswith("postgres"):
        yield env
        return
    name = f"up_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield env | {"DATABASE_URL": url.rpartition("/")[0] + f"/{name}"}
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running(environment, *arguments):
    argv = [sys.executable, str(ROOT / "manage.py"), *arguments]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(environment, *arguments):
    argv = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def read_banner(process):
    """All that `up` said up to the end of its banner, which is a curl command of three lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  -d "):
            return "".join(lines)
    raise AssertionError("up ended: " + "".join(lines))


def family_of(data_dir):
    """The processes of an installation, by its data folder in their environment or (Valkey's) title."""
    wanted = str(data_dir).encode()
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            title = (folder / "cmdline").read_bytes()
            if wanted in title or wanted in (folder / "environ").read_bytes():
                found[int(folder.name)] = title.replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
    return found


def wait_until_grown(data_dir, count, timeout_s=15.0):
    deadline_s = time.monotonic() + timeout_s
    while len(family := family_of(data_dir)) != count:
        assert time.monotonic() < deadline_s, family
        time.sleep(0.05)


def wait_until_gone(data_dir, timeout_s=15.0):
    deadline_s = time.monotonic() + timeout_s
    while family := family_of(data_dir):
        assert time.monotonic() < deadline_s, family
        time.sleep(0.05)


def ask(environment, key, *, model, tokens):
    body = {
        "model": model,
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    try:
        return urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{environment['GATEWAY_PORT']}/v1/chat/completions",
                data=json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            ),
            timeout=20,
        )
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read()) from error


pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(90)
def test_up_serves_the_demo_fleet_and_finishes_open_streams_when_stopped(environment, data_dir):
    environment["GATEWAY_DEMO"] = "1"
    with running(environment, "up") as process:
        said = read_banner(process)
        key = re.search(r"Key: +(tg_\w+)", said)[1]
        with ask(environment, key, model="tiny-bigram", tokens=5) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        names = {path.stem for path in (data_dir / "logs").iterdir()}
        second = finished(environment, "up")

        with ask(environment, key, model="llama-3-8b", tokens=60) as answer:
            first_line = answer.readline()
            process.send_signal(signal.SIGTERM)
            rest = answer.read()
        said += process.communicate(timeout=30)[0]

    assert second.returncode == 2
    assert f"is running on {data_dir} already (process {process.pid}): stop it" in second.stderr
    assert first_line.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")
    assert process.returncode == 0
    assert said.endswith("Stopping: open streams finish first (Ctrl-C again to hurry).\nStopped.\n")
    assert family_of(data_dir) == {}
    assert names == {
        *("valkey", "worker", "web"),
        *("demo-llama-local", "demo-aws-us-east-1", "demo-gcp-us-central1", "demo-azure-eastus"),
        "demo-provider",
    }


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(90)
def test_killed_up_leaves_nothing_and_can_start_again(environment, data_dir):
    with running(environment, "up") as process:
        first = read_banner(process)
        wait_until_grown(data_dir, 6)  # up, watchdog, valkey, web, worker, its beat
        process.kill()
    wait_until_gone(data_dir)

    with running(environment, "up") as process:
        second = read_banner(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert re.search(r"password [a-z2-9-]{23}\n", first)
    assert "password (see " in second
    assert "Key:             (see " in second
    assert family_of(data_dir) == {}


def test_up_says_that_the_port_is_taken_and_starts_nothing(environment, data_dir):
    with socket.create_server(("127.0.0.1", int(environment["GATEWAY_PORT"]))):
        result = finished(environment, "up")

    assert result.returncode == 2
    assert result.stderr == (
        f"CommandError: port {environment['GATEWAY_PORT']} on 127.0.0.1 is taken: "
        "stop what holds it, or set GATEWAY_PORT\n"
    )
    assert family_of(data_dir) == {}
    assert not (data_dir / "logs").exists()


def test_up_refuses_a_configuration_with_an_error_and_starts_nothing(environment, data_dir):
    config = data_dir / "config.yaml"
    config.write_text("router:\n  stickinessWindow: soon\n")

    result = finished(environment, "up", "--config", str(config))

    assert result.returncode == 2
    assert result.stderr.startswith(f"CommandError: {config}:2:")
    assert result.stderr.endswith("nothing was imported\n")
    assert not (data_dir / "logs").exists()


def test_serve_refuses_a_database_without_its_migrations(environment):
    result = finished(environment, "serve")

    assert result.returncode == 2
    assert result.stderr.startswith("CommandError: migrations are not applied yet (")
    assert "run `manage.py migrate` before the start" in result.stderr


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_serve_alone_takes_the_port_of_the_configuration_and_drains(environment, data_dir):
    port = free_port()
    config = data_dir / "config.yaml"
    config.write_text(f"server:\n  port: {port}\n")
    environment = {**environment, "GATEWAY_CONFIG_FILE": str(config)}
    del environment["GATEWAY_PORT"]
    for alias in ["default"] if "DATABASE_URL" in environment else ["default", "ledger"]:
        assert finished(environment, "migrate", "--database", alias).returncode == 0

    with running(environment, "serve") as process:
        deadline_s = time.monotonic() + 20
        while (status := status_of(f"http://127.0.0.1:{port}/health/ready")) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)

    assert status == 200
    assert process.returncode == 0
    assert (data_dir / "serve.port").read_text() == f"{port}\n"


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("fd00::1", "http://[fd00::1]:8000"),
        ("gateway.example.com", "http://gateway.example.com:8000"),
    ],
)
def test_url_is_one_that_a_browser_finds(host, url):
    assert base_url(host=host, port=8000) == url
