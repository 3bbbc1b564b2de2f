import asyncio
import contextlib
import itertools
import socket
import threading
import uuid
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import connection
from django.utils import timezone

from clusters import inventory, monitor
from clusters.demo.standin import StandinSettings
from clusters.models import Cluster, Deployment, HealthCheck
from clusters.probes.exchange import ProbeError
from clusters.traffic_signs import note_traffic
from clusters.verifying.signatures import make_verifier
from tests.clusters.rows import CANARY, NOW, add_cluster
from tests.fakes.standin_server import run_standin

pytestmark = pytest.mark.django_db


def names(results):
    return [(result.name, result.observation.is_healthy) for result in results]


@pytest.fixture
def standin():
    with run_standin(StandinSettings(models=("llama-3-8b",), context_tokens_max=4096)) as running:
        yield running


def test_due_clusters_are_probed_together_and_written_down(standin):
    add_cluster(name="up", endpoint=standin.url)
    add_cluster(name="down")
    add_cluster(name="off", state="disabled")

    results = monitor.probe_due_clusters(now=NOW)

    assert names(results) == [("down", False), ("up", True)]
    rows = Cluster.objects.order_by("name").values_list("name", "health", "health_checked_at")
    assert list(rows) == [("down", "unhealthy", NOW), ("off", "unknown", None), ("up", "healthy", NOW)]
    assert HealthCheck.objects.count() == 2


def test_probed_cluster_is_due_again_after_the_interval(standin):
    add_cluster(endpoint=standin.url)
    interval = timedelta(seconds=30)
    monitor.probe_due_clusters(now=NOW)

    early = monitor.probe_due_clusters(now=NOW + 0.85 * interval)
    due = monitor.probe_due_clusters(now=NOW + 1.15 * interval)

    assert (names(early), names(due)) == ([], [("metal", True)])


def test_no_cluster_is_probed_twice_in_an_interval_nor_left_out_of_one(standin):
    for number in range(20):
        add_cluster(name=f"c{number}", endpoint=standin.url)
    tick, interval = timedelta(seconds=1), timedelta(seconds=30)

    for tick_number in range(100):
        monitor.probe_due_clusters(now=NOW + tick_number * tick)

    for cluster in Cluster.objects.all():
        checks = cluster.health_checks.order_by("checked_at").values_list("checked_at", flat=True)
        gaps = [after - before for before, after in itertools.pairwise(checks)]
        assert 2 <= len(gaps) <= 3
        assert all(0.9 * interval <= gap <= 1.1 * interval + tick for gap in gaps)


def test_interval_is_the_settings(standin):
    add_cluster(endpoint=standin.url)
    settings = inventory.get_router_settings()
    settings.health_check_interval_s = 5
    inventory.save_record(record=settings)
    monitor.probe_due_clusters(now=NOW)

    assert names(monitor.probe_due_clusters(now=NOW + timedelta(seconds=6))) == [("metal", True)]


def test_recovery_is_seen_within_a_minute(standin):
    cluster = add_cluster()
    for minute in range(10):
        monitor.probe_cluster(cluster_id=cluster.id, now=NOW + timedelta(minutes=minute))
    assert Cluster.objects.get().health == "unhealthy"

    Cluster.objects.update(endpoint=standin.url)
    monitor.probe_due_clusters(now=NOW + timedelta(minutes=9, seconds=58))

    assert Cluster.objects.values_list("health", "failure_count").get() == ("healthy", 0)


@pytest.mark.parametrize(("kind", "due"), [("own", [("metal", True)]), ("provider", [])])
def test_own_cluster_that_fails_live_traffic_is_probed_at_once_and_once(standin, kind, due):
    backend = {"own": "vllm", "provider": "openai"}[kind]
    add_cluster(endpoint=standin.url, kind=kind, backend=backend)
    monitor.probe_due_clusters(now=NOW)
    failed_at = NOW + timedelta(seconds=3)
    note_traffic(avoided={"metal": failed_at + timedelta(seconds=5)}, recovered=[], now=failed_at)

    at_once = monitor.probe_due_clusters(now=failed_at + timedelta(seconds=1))
    again = monitor.probe_due_clusters(now=failed_at + timedelta(seconds=2))

    assert (names(at_once), names(again)) == (due, [])


def test_cluster_that_was_restarted_is_back_within_two_ticks():
    settings = StandinSettings(models=("llama-3-8b",))
    with run_standin(settings) as standin:
        add_cluster(endpoint=standin.url)
        monitor.probe_due_clusters(now=NOW)
    seconds = [NOW + timedelta(seconds=40 + second) for second in range(10)]
    down = [names(monitor.probe_due_clusters(now=now)) for now in seconds]

    with run_standin(settings, port=int(standin.url.rpartition(":")[2])):
        back = names(monitor.probe_due_clusters(now=NOW + timedelta(seconds=50)))

    assert (down, back) == ([[("metal", False)]] * 10, [("metal", True)])
    assert Cluster.objects.values_list("health", "quick_look_count").get() == ("healthy", 0)


def test_claimed_cluster_is_not_probed_again():
    cluster = add_cluster()
    assert inventory.claim_probe(cluster_id=cluster.id, checked_at=None, now=NOW)

    assert monitor.probe_due_clusters(now=NOW) == []


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_probe_the_same_cluster_twice(standin):
    for number in range(6):
        add_cluster(name=f"c{number}", endpoint=standin.url)
    results = []

    def work():
        try:
            results.extend(monitor.probe_due_clusters(now=NOW))
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(result.name for result in results) == [f"c{number}" for number in range(6)]
    assert HealthCheck.objects.count() == 6


def test_models_are_discovered_once(standin):
    cluster = add_cluster(endpoint=standin.url)

    monitor.probe_cluster(cluster_id=cluster.id, now=NOW)
    monitor.probe_cluster(cluster_id=cluster.id, now=NOW)

    rows = Deployment.objects.values_list("model", "context_window", "is_enabled")
    assert list(rows) == [("llama-3-8b", 4096, True)]


def test_models_are_not_discovered_beside_a_disabled_one(standin):
    cluster = add_cluster(endpoint=standin.url)
    inventory.save_record(record=Deployment(cluster=cluster, model="mine", is_enabled=False))

    monitor.probe_cluster(cluster_id=cluster.id, now=NOW)

    assert list(Deployment.objects.values_list("model", flat=True)) == ["mine"]


def test_provider_gets_its_default_model_and_no_other(standin):
    provider = {"kind": "provider", "backend": "openai"}
    with_default = add_cluster(name="a", endpoint=standin.url, default_model="gpt-4o-mini", **provider)
    without = add_cluster(name="b", endpoint=standin.url, **provider)

    monitor.probe_clusters(cluster_ids=[with_default.id, without.id], now=NOW)

    rows = Deployment.objects.values_list("cluster__name", "model")
    assert list(rows) == [("a", "gpt-4o-mini")]


def test_secrets_reach_the_cluster_and_wrong_ones_are_told():
    with run_standin(StandinSettings(api_key=CANARY)) as standin:
        right = add_cluster(name="a", endpoint=standin.url, auth_type="bearer")
        wrong = add_cluster(name="b", endpoint=standin.url, auth_type="bearer")
        none = add_cluster(name="c", endpoint=standin.url, auth_type="bearer")
        inventory.store_secret(cluster_id=right.id, purpose="bearer", plaintext=CANARY)
        inventory.store_secret(cluster_id=wrong.id, purpose="bearer", plaintext="wrong")

        results = monitor.probe_clusters(cluster_ids=[right.id, wrong.id, none.id], now=NOW)

    assert [result.observation.reason for result in results] == [
        "",
        "credential refused (HTTP 401 from /v1/models): store the right secret",
        "no live bearer token is stored: add one in Admin > Clusters",
    ]


def test_signature_is_verified_by_the_clusters_side():

    with run_standin(StandinSettings(verify=make_verifier(secret="s3cret"))) as standin:
        cluster = add_cluster(endpoint=standin.url, auth_type="hmac")
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="s3cret", label="k1")

        result = monitor.probe_cluster(cluster_id=cluster.id, now=timezone.now())  # noqa: TID251

    assert (result.observation.is_healthy, result.observation.queue_depth) == (True, 0)


def test_fault_of_one_probe_hides_no_other(standin, monkeypatch):
    def open_client(*, cluster, address):
        raise {"a": RuntimeError("bug"), "b": ProbeError("no")}[cluster.name]

    monkeypatch.setattr(monitor, "open_client", open_client)
    clusters = [add_cluster(name=name, endpoint=standin.url) for name in ("a", "b")]

    results = monitor.probe_clusters(cluster_ids=[cluster.id for cluster in clusters], now=NOW)

    assert [result.observation.reason for result in results] == [
        "the probe itself failed (RuntimeError)",
        "no",
    ]


def test_unknown_cluster_is_not_probed():
    assert monitor.probe_cluster(cluster_id=uuid.uuid4(), now=NOW) is None


def test_old_checks_are_pruned():
    cluster = add_cluster()
    for days in (0, 6, 8, 30):
        HealthCheck.objects.create(
            cluster=cluster, checked_at=NOW - timedelta(days=days), is_healthy=True, duration_ms=1
        )

    assert monitor.prune_health_checks(now=NOW, kept_days=7) == 2
    assert HealthCheck.objects.count() == 2


# Names of which each address is a server of its own.


def resolving_to(monkeypatch, *addresses):
    async def getaddrinfo(_loop, _host, port, **_options):
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


class Pod(ThreadingHTTPServer):
    """One address of a headless service: says that two wait, and notes what it was asked."""

    def __init__(self, host, port):
        super().__init__((host, port), PodHandler)
        self.asked = []


class PodHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = b"vllm:num_requests_waiting 2\nvllm:num_requests_running 0\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def running_pod(host, port=0):
    with Pod(host, port) as pod:
        thread = threading.Thread(target=pod.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield pod
        finally:
            pod.shutdown()
            thread.join()


@pytest.fixture
def pods():
    """Three addresses of one port; nobody listens at the third."""
    with running_pod("127.0.0.1") as first, running_pod("127.0.0.2", first.server_port) as second:
        endpoint = f"http://pods.example:{first.server_port}"
        yield endpoint, (first, second), ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def health_requests(servers):
    return [server.asked.count("/health") for server in servers]


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
def test_each_address_of_an_expanded_name_is_probed_once(pods, monkeypatch):
    endpoint, servers, addresses = pods
    add_cluster(endpoint=endpoint, expands_addresses=True)
    resolving_to(monkeypatch, *addresses)

    (result,) = monitor.probe_due_clusters(now=NOW)
    again = monitor.probe_due_clusters(now=NOW + timedelta(seconds=20))

    assert again == []
    assert health_requests(servers) == [1, 1]
    seen = result.observation
    assert (seen.is_healthy, seen.address_count, seen.healthy_address_count) == (True, 3, 2)
    assert seen.queue_depth == 4
    cluster = Cluster.objects.get()
    assert (cluster.health, cluster.address_count, cluster.healthy_address_count) == ("healthy", 3, 2)
    assert cluster.health_reason == (
        "1 of 3 addresses fail, 127.0.0.3: connection refused: is the server running there?"
    )


def test_name_that_is_not_expanded_is_probed_at_one_address(pods, monkeypatch):
    endpoint, servers, addresses = pods
    add_cluster(endpoint=endpoint)
    resolving_to(monkeypatch, *addresses)

    (result,) = monitor.probe_due_clusters(now=NOW)

    assert (result.observation.is_healthy, health_requests(servers)) == (True, [1, 0])
    assert Cluster.objects.values_list("address_count", flat=True).get() is None


def test_one_refused_address_of_an_expanded_name_refuses_them_all(pods, monkeypatch):
    endpoint, servers, addresses = pods
    add_cluster(endpoint=endpoint, expands_addresses=True)
    resolving_to(monkeypatch, *addresses, "169.254.169.254")

    (result,) = monitor.probe_due_clusters(now=NOW)

    assert (result.observation.is_healthy, health_requests(servers)) == (False, [0, 0])
    assert "169.254.169.254" in result.observation.reason


def test_expanded_name_that_nobody_knows_is_absent(monkeypatch):
    async def getaddrinfo(_loop, _host, _port, **_options):
        raise OSError("no such host")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    add_cluster(endpoint="http://pods.example:8000", expands_addresses=True)

    (result,) = monitor.probe_due_clusters(now=NOW)

    words = "the name pods.example does not resolve: check it, or the resolver"
    assert (result.observation.reason, result.observation.is_absent) == (words, True)


def test_addresses_of_a_provider_are_not_expanded():
    with pytest.raises(inventory.InventoryError, match="load balancers"):
        add_cluster(kind="provider", backend="openai", expands_addresses=True)
