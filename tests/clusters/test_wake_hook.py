"""The call of a wake hook: what it carries, how it proves itself, where it never goes, how it fails."""

import asyncio
import socket

import pytest

from clusters import inventory, wake_hook
from clusters.inventory import InventoryError
from clusters.models import Cluster, ClusterSecret
from clusters.snapshots import load_clusters
from clusters.verifying.signatures import Verifier
from clusters.wake_hook import WakeHookError, call_hook, prepare_call
from tests.clusters.rows import CANARY, NOW, add_cluster
from tests.fakes.scaler import run_hook

pytestmark = pytest.mark.django_db

NOW_S = int(NOW.timestamp())


@pytest.fixture
def hook():
    with run_hook() as running:
        yield running


def cluster_of(url, *, secret="", **values):
    cluster = add_cluster(**{"billing": "autoscaled", "wake_url": url, **values})
    if secret:
        inventory.store_secret(cluster_id=cluster.id, purpose="wake", plaintext=secret)
    return cluster


def call(cluster):
    return asyncio.run(call_hook(prepared(cluster), now=NOW))


def prepared(cluster):
    return prepare_call(cluster=cluster, replicas_wanted=2, reason="spill")


def failure_of(cluster):
    with pytest.raises(WakeHookError) as caught:
        call(cluster)
    return str(caught.value)


def test_hook_is_told_which_cluster_how_many_and_why(hook):
    assert call(cluster_of(hook.url)) is None

    ((path, headers, _),) = hook.received
    assert (path, headers["content-type"]) == ("/wake", "application/json")
    assert "authorization" not in headers
    assert hook.asked == [{"cluster": "metal", "replicas_wanted": 2, "reason": "spill"}]


def test_hook_is_shown_the_token(hook):
    call(cluster_of(hook.url, wake_auth="bearer", secret=CANARY))

    assert hook.received[0][1]["authorization"] == f"Bearer {CANARY}"


def test_hook_can_verify_the_signature(hook):
    call(cluster_of(hook.url, wake_auth="hmac", secret=CANARY))

    ((path, headers, body),) = hook.received
    asked = {"method": "POST", "authority": headers["host"], "path": path, "query": "", "headers": headers}
    verified = [
        Verifier(secrets=[secret]).verify(**asked, body=body, now_s=NOW_S) for secret in (CANARY, "other")
    ]
    assert verified == [None, "signature does not match"]


@pytest.mark.parametrize(
    ("answer", "replicas"),
    [
        (b'{"replicas": 3}', 3),
        (b'{"replicas": 0}', None),
        (b'{"replicas": true}', None),
        (b'{"replicas": "3"}', None),
        (b"[]", None),
        (b"ok", None),
        (b"x" * 100_000, None),
    ],
)
def test_answer_may_say_how_many_replicas_run(hook, answer, replicas):
    hook.answer = answer

    assert call(cluster_of(hook.url)) == replicas


@pytest.mark.parametrize("status", [302, 401, 404, 500])
def test_hook_that_does_not_take_it_failed_and_is_not_followed(hook, status):
    hook.status = status

    assert failure_of(cluster_of(hook.url)) == f"the wake hook answers HTTP {status}"
    assert len(hook.received) == 1


def test_hook_that_nobody_serves_failed():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/wake"

    assert failure_of(cluster_of(url)).startswith("no answer: ConnectError")


def test_silent_hook_is_given_up(monkeypatch):
    monkeypatch.setattr(wake_hook, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/wake"

        assert failure_of(cluster_of(url)) == "no answer within 0 s"


@pytest.mark.parametrize("auth", ["bearer", "hmac"])
def test_call_without_the_secret_it_needs_is_not_made(hook, auth):
    cluster = cluster_of(hook.url, wake_auth=auth)

    with pytest.raises(WakeHookError, match="the wake hook's secret cannot be used: no live"):
        prepared(cluster)
    assert hook.received == []


def test_secret_shows_nowhere(hook):
    cluster = cluster_of(hook.url, wake_auth="bearer", secret=CANARY)

    assert CANARY not in repr(prepared(cluster))
    assert CANARY.encode() not in bytes(ClusterSecret.objects.get().ciphertext)


def test_unusable_wake_secret_stops_the_hook_and_not_the_cluster(hook):
    cluster = cluster_of(hook.url, wake_auth="bearer", secret=CANARY)
    ClusterSecret.objects.update(encryption_key_id="gone")

    with pytest.raises(WakeHookError, match="encryption key gone is missing"):
        prepared(cluster)
    (view,) = load_clusters(now=NOW)
    assert view.secret_problem == ""


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"wake_url": "http://169.254.169.254/wake"}, "wake hook: 169.254.169.254 is a metadata"),
        ({"wake_url": "http://metadata.google.internal/wake"}, "cloud's metadata service"),
        ({"wake_url": "http://127.0.0.1:9/wake", "allow_private_network": False}, "private or loopback"),
        ({"wake_url": "ftp://scaler.example.com/"}, "must begin with http:// or https://"),
        ({"wake_url": "https://a:b@scaler.example.com/"}, "must not contain credentials"),
        ({"wake_url": "https://scaler.example.com/", "billing": "committed"}, "only an autoscaled cluster"),
    ],
)
def test_hook_that_may_not_be_called_is_refused(values, refusal):
    values = {"billing": "autoscaled", "endpoint": "https://gpu.example.com", **values}
    with pytest.raises(InventoryError, match=refusal) as caught:
        add_cluster(**values)

    assert (caught.value.field, Cluster.objects.count()) == ("wake_url", 0)


def test_address_is_checked_again_when_it_is_called(hook):
    cluster = cluster_of(hook.url)
    cluster.allow_private_network = False

    assert "is a private or loopback address" in failure_of(cluster)
    assert hook.received == []
