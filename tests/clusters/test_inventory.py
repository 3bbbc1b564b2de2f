import logging
import uuid
from datetime import timedelta

import pytest

from clusters import inventory, record_checks
from clusters.health import Observation
from clusters.inventory import InventoryError
from clusters.models import Cluster, ClusterSecret, Deployment, HealthCheck, Route, RouterSettings
from clusters.snapshots import get_revision
from clusters.vault import VaultError, newest_key_id
from tests.clusters.rows import CANARY, NOW, add_cluster, certificate_and_key

pytestmark = pytest.mark.django_db


def secret_of(secret_id):
    return ClusterSecret.objects.get(id=secret_id)


def test_each_write_counts_one_revision():
    revisions = [get_revision()]
    cluster = add_cluster()

    def count(write):
        result = write()
        revisions.append(get_revision())
        return result

    revisions.append(get_revision())
    deployment = Deployment(cluster=cluster, model="llama")
    count(lambda: inventory.save_record(record=deployment))
    count(lambda: inventory.save_record(record=Route(model="fast", candidates=["llama"])))
    secret_id = count(lambda: inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext="t"))
    count(lambda: inventory.retire_secret(secret_id=secret_id))
    count(lambda: inventory.set_cluster_state(cluster_id=cluster.id, state="draining"))
    count(lambda: inventory.delete_records(records=Deployment.objects.all()))
    count(inventory.get_router_settings)

    assert revisions == list(range(9))


def test_refused_write_counts_nothing_and_changes_nothing():
    cluster = add_cluster()
    revision = get_revision()

    with pytest.raises(InventoryError):
        inventory.store_secret(cluster_id=cluster.id, purpose="ca", plaintext="no PEM")
    with pytest.raises(InventoryError):
        inventory.set_cluster_state(cluster_id=cluster.id, state="asleep")
    with pytest.raises(InventoryError):
        inventory.save_record(record=Route(model="fast", candidates=[]))

    assert get_revision() == revision
    assert (ClusterSecret.objects.count(), Route.objects.count()) == (0, 0)


def test_endpoint_is_stored_in_its_normal_form():
    cluster = add_cluster(endpoint="http://127.0.0.1:9/v1/")

    assert Cluster.objects.get().endpoint == cluster.endpoint == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"endpoint": "http://169.254.169.254"}, "endpoint", "never connected to"),
        (
            {"endpoint": "http://10.0.0.1", "allow_private_network": False},
            "endpoint",
            "allow private network",
        ),
        ({"endpoint": "ftp://a.example"}, "endpoint", "must begin with http"),
        ({"endpoint": "https://a.example/" + "x" * 300}, "endpoint", "longer than 300"),
        ({"auth_type": "mtls"}, "endpoint", "https://"),
        ({"name": "not a slug"}, "name", "name: "),
        ({"backend": "abacus"}, "backend", "backend: "),
        ({"in_flight_max": 0}, "in_flight_max", "in_flight_max: "),
        ({"cost_per_hour_nanousd": -1}, "cost_per_hour_nanousd", "cost_per_hour_nanousd: "),
        ({"default_model": "a,b"}, "default_model", "no model name"),
    ],
)
def test_cluster_with_a_bad_value_is_refused(values, field, message):
    with pytest.raises(InventoryError, match=message) as caught:
        add_cluster(**values)

    assert caught.value.field == field
    assert Cluster.objects.count() == 0


def test_cluster_name_is_unique():
    add_cluster()

    with pytest.raises(InventoryError, match="already exists"):
        add_cluster()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": ""}, "model"),
        ({"model": " llama"}, "model"),
        ({"model": "lla\nma"}, "model"),
        ({"upstream_name": "a,b"}, "upstream_name"),
        ({"capabilities": ["chat", "flying"]}, "capabilities"),
        ({"capabilities": "chat"}, "capabilities"),
        ({"context_window": 0}, "context_window"),
    ],
)
def test_deployment_with_a_bad_value_is_refused(values, field):
    cluster = add_cluster()

    with pytest.raises(InventoryError) as caught:
        inventory.save_record(record=Deployment(cluster=cluster, **{"model": "llama", **values}))

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"policy": "dearest"}, "policy"),
        ({"candidates": []}, "candidates"),
        ({"candidates": "llama"}, "candidates"),
        ({"candidates": [1]}, "candidates"),
        ({"candidates": ["a", "a"]}, "candidates"),
        ({"candidates": [str(number) for number in range(51)]}, "candidates"),
        ({"fallbacks": {"a": 1}}, "fallbacks"),
        ({"fallbacks": ["a", ""]}, "fallbacks"),
    ],
)
def test_route_with_a_bad_value_is_refused(values, field):
    with pytest.raises(InventoryError) as caught:
        inventory.save_record(record=Route(**{"model": "fast", "candidates": ["llama"], **values}))

    assert caught.value.field == field


@pytest.mark.parametrize("policy", ["", *record_checks.POLICIES])
def test_route_takes_each_policy_or_none(policy):
    inventory.save_record(record=Route(model="fast", candidates=["llama"], policy=policy))

    assert Route.objects.get().policy == policy


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"policy": ""}, "policy"),
        ({"health_check_interval_s": 0}, "health_check_interval_s"),
        ({"server_port": 70_000}, "server_port"),
        ({"cluster_cost_threshold_nanousd": -1}, "cluster_cost_threshold_nanousd"),
        ({"id": 2}, None),
    ],
)
def test_settings_with_a_bad_value_are_refused(values, field):
    with pytest.raises(InventoryError) as caught:
        inventory.save_record(record=RouterSettings(**values))

    assert caught.value.field == field


def test_router_settings_are_made_once():
    first, second = inventory.get_router_settings(), inventory.get_router_settings()

    assert (first.pk, second.pk, first.policy) == (1, 1, "marginal")
    assert get_revision() == 1


def test_saving_a_cluster_keeps_what_the_prober_saw_meanwhile():
    stale = add_cluster()
    inventory.record_health(
        cluster_id=stale.id, observation=Observation(is_healthy=True, queue_depth=3), now=NOW
    )

    stale.region = "north"
    inventory.save_record(record=stale)

    kept = Cluster.objects.get()
    assert (kept.region, kept.health, kept.queue_depth, kept.health_checked_at) == (
        "north",
        "healthy",
        3,
        NOW,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda cluster: inventory.save_record(record=set_endpoint(cluster)),
        lambda cluster: inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext="t"),
        lambda cluster: inventory.set_cluster_state(cluster_id=cluster.id, state="active"),
    ],
)
def test_change_of_how_to_reach_a_cluster_makes_its_probe_due(change):
    cluster = add_cluster()
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)

    change(cluster)

    assert Cluster.objects.get().health_checked_at is None


def set_endpoint(cluster):
    cluster.endpoint = "http://127.0.0.1:10"
    return cluster


def test_saving_a_deleted_cluster_is_refused():
    cluster = add_cluster()
    inventory.delete_records(records=Cluster.objects.all())

    with pytest.raises(InventoryError, match="deleted meanwhile"):
        inventory.save_record(record=cluster)


def test_deleting_a_cluster_takes_what_hangs_on_it():
    cluster = add_cluster()
    inventory.save_record(record=Deployment(cluster=cluster, model="llama"))
    inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext="t")
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)

    inventory.delete_records(records=[cluster])

    counts = [model.objects.count() for model in (Cluster, Deployment, ClusterSecret, HealthCheck)]
    assert counts == [0, 0, 0, 0]


def test_settings_and_checks_are_not_deleted():
    with pytest.raises(InventoryError, match="cannot be deleted"):
        inventory.delete_records(records=[inventory.get_router_settings()])


def test_secret_is_stored_sealed_beside_the_older_ones():
    cluster = add_cluster()

    first = inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=CANARY, label="k1")
    second = inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=CANARY, label="k2")

    rows = [secret_of(first), secret_of(second)]
    assert [(row.label, row.is_active, row.encryption_key_id) for row in rows] == [
        ("k1", True, newest_key_id()),
        ("k2", True, newest_key_id()),
    ]
    assert all(CANARY.encode() not in bytes(row.ciphertext) for row in rows)


def test_retired_secret_is_wiped():
    cluster = add_cluster()
    secret_id = inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext=CANARY)

    inventory.retire_secret(secret_id=secret_id)

    row = secret_of(secret_id)
    assert (row.is_active, bytes(row.ciphertext), row.encryption_key_id) == (False, b"", "")


@pytest.mark.parametrize(
    ("purpose", "plaintext"),
    [
        ("bearer", ""),
        ("bearer", "   "),
        ("bearer", f"{CANARY}\nx-evil: 1"),
        ("bearer", f"{CANARY} x"),
        ("bearer", f"{CANARY}é"),
        ("hmac", f"{CANARY}\x00"),
        ("ca", CANARY),
        ("client_key", CANARY),
        ("client_certificate", CANARY),
        ("password", CANARY),
        ("hmac", CANARY * 4000),
    ],
)
def test_bad_secret_is_refused_and_not_repeated(purpose, plaintext):
    cluster = add_cluster()

    with pytest.raises(InventoryError) as caught:
        inventory.store_secret(cluster_id=cluster.id, purpose=purpose, plaintext=plaintext)

    assert CANARY not in str(caught.value)


def test_pem_secrets_are_taken_with_their_line_breaks():
    cluster = add_cluster()
    certificate, key = certificate_and_key()

    for purpose, text in [("client_certificate", certificate), ("client_key", key), ("ca", certificate)]:
        inventory.store_secret(cluster_id=cluster.id, purpose=purpose, plaintext=f"\n{text}\n")

    assert ClusterSecret.objects.filter(is_active=True).count() == 3


def test_live_secrets_are_bounded():
    cluster = add_cluster()
    for number in range(inventory.SECRETS_LIVE_MAX):
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=f"s{number}")

    with pytest.raises(InventoryError, match="retire one first"):
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="one more")


def test_put_secret_stores_what_is_not_live_yet():
    cluster = add_cluster()

    def put(plaintext):
        return inventory.put_secret(cluster_id=cluster.id, purpose="bearer", plaintext=plaintext)

    assert [put("a"), put("a"), put("b"), put(" b ")] == [True, False, True, False]


def test_secret_of_an_unknown_cluster_is_refused():
    with pytest.raises(InventoryError, match="there is no cluster"):
        inventory.store_secret(cluster_id=uuid.uuid4(), purpose="bearer", plaintext="t")
    with pytest.raises(InventoryError, match="there is no secret"):
        inventory.retire_secret(secret_id=uuid.uuid4())
    with pytest.raises(InventoryError, match="there is no cluster"):
        inventory.set_cluster_state(cluster_id=uuid.uuid4(), state="active")


def test_secret_is_not_stored_without_an_encryption_key(settings):
    cluster = add_cluster()
    settings.ENCRYPTION_KEYS = []

    with pytest.raises(InventoryError, match="GATEWAY_ENCRYPTION_KEYS"):
        inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext="t")


def test_resealing_moves_all_live_secrets_to_the_newest_key(settings):
    settings.ENCRYPTION_KEYS = ["old"]
    cluster = add_cluster()
    ids = [
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=text) for text in ("a", "b")
    ]
    inventory.retire_secret(secret_id=ids[0])
    settings.ENCRYPTION_KEYS = ["new", "old"]

    count = inventory.reseal_secrets()

    settings.ENCRYPTION_KEYS = ["new"]
    assert count == 1
    assert inventory.put_secret(cluster_id=cluster.id, purpose="hmac", plaintext="b") is False


def test_resealing_is_all_or_nothing(settings):
    settings.ENCRYPTION_KEYS = ["old"]
    cluster = add_cluster()
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="a")
    settings.ENCRYPTION_KEYS = ["lost"]
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="b")
    before = list(ClusterSecret.objects.order_by("id").values_list("encryption_key_id", "ciphertext"))
    settings.ENCRYPTION_KEYS = ["new", "old"]

    with pytest.raises(VaultError, match="is missing"):
        inventory.reseal_secrets()

    after = list(ClusterSecret.objects.order_by("id").values_list("encryption_key_id", "ciphertext"))
    assert after == before


def test_probe_is_claimed_by_one():
    cluster = add_cluster()

    claims = [
        inventory.claim_probe(cluster_id=cluster.id, checked_at=None, now=NOW),
        inventory.claim_probe(cluster_id=cluster.id, checked_at=None, now=NOW),
        inventory.claim_probe(cluster_id=cluster.id, checked_at=NOW, now=NOW),
    ]

    assert claims == [True, False, True]


def test_health_is_recorded_with_its_check():
    cluster = add_cluster()
    observation = Observation(
        is_healthy=True, duration_ms=12, queue_depth=1, running_count=2, tokens_per_s=300, ttft_ms=90
    )

    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    names = ("health", "health_reason", "failure_count", "queue_depth", "running_count")
    names += ("measured_tokens_per_s", "latency_ms", "health_checked_at")
    assert Cluster.objects.values_list(*names).get() == ("healthy", "", 0, 1, 2, 300, 90, NOW)
    names = ("is_healthy", "reason", "duration_ms", "queue_depth", "running_count", "tokens_per_s", "ttft_ms")
    assert HealthCheck.objects.values_list(*names).get() == (True, "", 12, 1, 2, 300, 90)


def test_health_moves_the_revision_only_where_routing_sees_it():
    cluster = add_cluster()

    def moved(**values):
        before = get_revision()
        observation = Observation(**{"is_healthy": True, "duration_ms": 10, "queue_depth": 0, **values})
        inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)
        return get_revision() - before

    assert [moved(), moved(), moved(duration_ms=12)] == [1, 0, 0]
    assert [moved(queue_depth=1), moved(queue_depth=None), moved(queue_depth=None)] == [1, 1, 0]
    assert [moved(queue_depth=None, tokens_per_s=9), moved(queue_depth=None)] == [1, 0]


def test_speed_is_kept_while_idle_and_load_is_not():
    cluster = add_cluster()
    busy = Observation(is_healthy=True, queue_depth=4, tokens_per_s=300)
    inventory.record_health(cluster_id=cluster.id, observation=busy, now=NOW)

    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)

    assert Cluster.objects.values_list("measured_tokens_per_s", "queue_depth").get() == (300, None)


def test_long_reason_is_cut_and_change_of_health_is_logged(caplog):
    cluster = add_cluster()
    bad = Observation(is_healthy=False, reason="x" * 500, is_conclusive=True)

    with caplog.at_level(logging.WARNING):
        inventory.record_health(cluster_id=cluster.id, observation=bad, now=NOW)

    assert Cluster.objects.get().health_reason == "x" * 200
    assert "cluster_health_changed name=metal from=unknown to=unhealthy" in caplog.text


def test_health_of_a_deleted_cluster_is_skipped():
    inventory.record_health(cluster_id=uuid.uuid4(), observation=Observation(is_healthy=True), now=NOW)

    assert HealthCheck.objects.count() == 0


def test_deployments_are_added_to_a_cluster_that_has_none():
    cluster = add_cluster()

    def add(*names):
        return inventory.add_deployments(
            cluster_id=cluster.id, model_names=names, context_windows={"a/b": 4096}
        )

    assert [add("a/b", "bad,name", "c", "c"), add("d")] == [2, 0]
    rows = Deployment.objects.order_by("model").values_list("model", "context_window", "is_enabled")
    assert list(rows) == [("a/b", 4096, True), ("c", 8192, True)]


def test_a_slow_probe_does_not_undo_what_a_later_one_saw():
    cluster = add_cluster()
    later = NOW + timedelta(seconds=1)
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=later)
    refused = Observation(is_healthy=False, reason="refused", is_conclusive=True)

    inventory.record_health(cluster_id=cluster.id, observation=refused, now=NOW)

    cluster.refresh_from_db()
    assert (cluster.health, cluster.health_checked_at) == ("healthy", later)
    assert HealthCheck.objects.count() == 2
    inventory.record_health(cluster_id=cluster.id, observation=refused, now=later + timedelta(seconds=1))
    cluster.refresh_from_db()
    assert cluster.health == "unhealthy"
