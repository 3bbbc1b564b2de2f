"""A cluster's server is killed under load and started again: nobody notices, and the admin shows it."""

import contextlib
import subprocess
import sys
import threading
import time

import pytest

from tests.e2e.fleet import wait_until
from tests.fakes.gateway_server import ROOT, Control
from tests.fakes.ports import free_port

pytestmark = pytest.mark.e2e

CALLERS = 6
# What earns the re-routes of all that is under way when the server dies.
REQUESTS_BEFORE = 150
SHOWN_S_MAX = 2.0
BACK_S_MAX = 20.0
TICK_S = 1.0
LOAD_S_MAX = 60.0


class Server:
    """A stand-in as a process of its own on a port that stays the same."""

    def __init__(self, model):
        self._port = free_port()
        self._model = model
        self.url = f"http://127.0.0.1:{self._port}"
        self._process = None

    def start(self):
        options = ("--port", str(self._port), "--models", self._model, "--ttft-ms", "20")
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", "demo_cluster", *options, "--request-tokens-per-s", "400"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.url in self._process.stdout.readline()

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Callers:
    """Ask in closed loops until told to stop; keep every status and who answered."""

    def __init__(self, fleet, key):
        self._fleet, self._key = fleet, key
        self.answers = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(LOAD_S_MAX)

    def _ask(self):
        while not self._is_over.is_set():
            answer = self._fleet.post(self._key, self._fleet.chat(max_tokens=8))
            self.answers.append((answer.status_code, answer.headers.get("x-gateway-cluster")))


@contextlib.contextmanager
def prober(control):
    """What beat does, in a process of its own, as often as beat does."""
    worker = Control(control.env)
    is_over = threading.Event()

    def tick():
        while not is_over.wait(TICK_S):
            worker.call("tick")

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        worker.close()


@pytest.fixture
def server(production_fleet):
    server = Server(production_fleet.model)
    server.start()
    yield server
    server.kill()


def test_cluster_killed_and_revived_under_load_fails_nobody_and_shows(production_fleet, server):
    fleet = production_fleet
    killed = fleet.add_cluster(endpoint=server.url)
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    session = fleet.control.call("open_staff_session")
    page = f"/admin/clusters/cluster/?q={killed.name}"

    def shows(*words):
        text = fleet.gateway.get(page, headers={"cookie": session}).text
        return all(word in text for word in words)

    with prober(fleet.control), Callers(fleet, key) as callers:
        wait_until(lambda: len(callers.answers) >= REQUESTS_BEFORE, within_s=LOAD_S_MAX)
        wait_until(lambda: shows('badge-ok">Healthy<'))
        server.kill()
        failing_s = wait_until(lambda: shows('badge-bad">Failing<'))
        unhealthy_s = wait_until(lambda: shows('badge-bad">Unhealthy<', "connection refused"))
        time.sleep(1.0)
        server.start()
        healthy_s = wait_until(lambda: shows('badge-ok">Healthy<'))
        served_before = len(callers.answers)
        wait_until(lambda: (200, killed.name) in callers.answers[served_before:], within_s=BACK_S_MAX)
        wait_until(lambda: not shows('badge-bad">Failing<'))

    assert {status for status, _ in callers.answers} == {200}
    assert max(failing_s, unhealthy_s, healthy_s) < SHOWN_S_MAX, (failing_s, unhealthy_s, healthy_s)
