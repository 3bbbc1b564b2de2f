"""When `up` shows its banner: the example in it must work."""

import json
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clusters.demo.standin import StandinSettings
from clusters.models import Cluster
from clusters.snapshots import get_revision
from gateway.management.commands.up import is_fleet_healthy, is_fleet_known
from tests.clusters.rows import NOW, add_cluster
from tests.fakes.standin_server import run_standin

pytestmark = pytest.mark.django_db


@pytest.fixture
def standin():
    with run_standin(StandinSettings(models=("llama-3-8b",), context_tokens_max=4096)) as running:
        yield running


def see(name, health, *, age_s=1):
    checked_at = NOW - timedelta(seconds=age_s)
    Cluster.objects.filter(name=name).update(health=health, health_checked_at=checked_at)


@pytest.mark.parametrize("health", ["unhealthy", "unknown"])
def test_a_member_that_was_probed_too_early_is_probed_again(standin, health):
    add_cluster(name="early", endpoint=standin.url)
    add_cluster(name="quick")
    see("early", health)
    see("quick", "healthy")

    assert is_fleet_healthy({"early", "quick"}, now=NOW)
    assert Cluster.objects.get(name="early").health == "healthy"


def test_health_of_yesterday_does_not_count(standin):
    add_cluster(name="member", endpoint=standin.url)
    add_cluster(name="gone")
    see("member", "healthy", age_s=3600)
    see("gone", "healthy", age_s=3600)

    assert is_fleet_healthy({"member"}, now=NOW)
    assert not is_fleet_healthy({"gone"}, now=NOW)


def test_one_healthy_member_does_not_speak_for_the_other(standin):
    add_cluster(name="up", endpoint=standin.url)
    add_cluster(name="down")

    assert not is_fleet_healthy({"up", "down"}, now=NOW)


def test_without_a_demo_fleet_any_healthy_cluster_will_do():
    assert is_fleet_healthy(set(), now=NOW)
    add_cluster(name="one")
    assert not is_fleet_healthy(set(), now=NOW)
    see("one", "healthy")
    assert is_fleet_healthy(set(), now=NOW)


@contextmanager
def web_process(status, revision):
    """Answers every request as /health/ready of a process that read this revision."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"status": "ready", "inventory_revision": revision}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "behind", "is_known"), [(200, 0, True), (200, -1, True), (200, 1, False), (503, 0, False)]
)
def test_the_fleet_is_known_once_the_web_process_serves_by_the_latest_revision(status, behind, is_known):
    add_cluster(name="one")
    with web_process(status, get_revision() - behind) as url:
        assert is_fleet_known(url) is is_known


def test_the_fleet_is_not_known_where_nobody_answers():
    with web_process(200, 0) as url:
        pass
    assert not is_fleet_known(url)
