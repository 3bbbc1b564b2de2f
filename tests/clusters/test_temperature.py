"""Cold, waking, warm: by probes, by replicas, by what was asked for; and the warm-up that is learnt."""

from datetime import timedelta

import pytest

from clusters import inventory
from clusters.health import Observation
from clusters.models import Cluster, Waking
from clusters.snapshots import load_clusters
from clusters.temperature import await_replica
from tests.clusters.rows import NOW, add_cluster

pytestmark = pytest.mark.django_db

WELL = Observation(is_healthy=True)
NOBODY = Observation(is_healthy=False, reason="refused", is_conclusive=True, is_absent=True)
BROKEN = Observation(is_healthy=False, reason="credential refused", is_conclusive=True)
HOOK = {"billing": "autoscaled", "wake_url": "http://127.0.0.1:9/wake"}


def seconds(count):
    return timedelta(seconds=count)


def probed(cluster, observation, *, at=NOW):
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=at)
    return Cluster.objects.get(id=cluster.id).temperature


def woken(cluster, *, at=NOW):
    cluster.refresh_from_db()
    await_replica(cluster=cluster, waking=Waking.objects.filter(cluster=cluster).first(), now=at)
    cluster.save(update_fields=["temperature"])


@pytest.mark.parametrize(
    ("values", "observation", "temperature"),
    [
        (HOOK, WELL, "warm"),
        (HOOK, NOBODY, "cold"),
        (HOOK, BROKEN, ""),
        (HOOK | {"wake_url": ""}, NOBODY, ""),
        (HOOK | {"wake_url": "", "replica_count": 0}, NOBODY, "cold"),
        (HOOK | {"replica_count": 0}, BROKEN, "cold"),
        ({}, NOBODY, ""),
        ({}, WELL, ""),
    ],
)
def test_temperature_is_read_off_the_probe(values, observation, temperature):
    assert probed(add_cluster(**values), observation) == temperature


def test_one_failed_probe_that_proves_nothing_leaves_it_warm():
    cluster = add_cluster(**HOOK)
    hiccup = Observation(is_healthy=False, reason="no answer", is_absent=True)

    assert [probed(cluster, each) for each in (WELL, hiccup, hiccup)] == ["warm", "warm", "cold"]


def test_woken_cluster_is_waking_until_a_probe_finds_it_warm_and_its_warm_up_is_learnt():
    cluster = add_cluster(**HOOK, warm_up_s=90)
    probed(cluster, NOBODY)
    woken(cluster)

    seen = [probed(cluster, each, at=NOW + seconds(at)) for each, at in ((NOBODY, 30), (WELL, 60))]

    assert seen == ["waking", "warm"]
    row = Waking.objects.get()
    assert (row.warm_up_ms, row.warm_up_count, row.awaited_until, row.error) == (60_000, 1, None, "")
    # Two parts what was entered, one part what was measured.
    (view,) = load_clusters(now=NOW)
    assert (view.waking.warm_up_s, view.waking.is_warm_up_known) == (80.0, True)


def test_waking_that_takes_too_long_ends_cold_and_says_so():
    cluster = add_cluster(**HOOK, warm_up_s=90)
    probed(cluster, NOBODY)
    woken(cluster)

    seen = [probed(cluster, NOBODY, at=NOW + seconds(at)) for at in (269, 271)]

    assert seen == ["waking", "cold"]
    row = Waking.objects.get()
    assert (row.failure_count, row.warm_up_count) == (1, 0)
    assert row.error == "a replica was asked for at 2030-01-01 12:00:00 UTC and did not come: refused"


def test_replicas_that_a_scaler_tells_of_count():
    cluster = add_cluster(billing="autoscaled")
    probed(cluster, WELL)

    def told(count, at):
        inventory.set_replica_count(cluster_name="metal", replica_count=count, now=NOW + seconds(at))
        return Cluster.objects.get().temperature

    assert [told(0, 0), told(2, 10), told(3, 11)] == ["cold", "waking", "waking"]
    assert probed(cluster, WELL, at=NOW + seconds(50)) == "warm"
    assert Waking.objects.get().warm_up_ms == 40_000


def test_a_cluster_that_is_not_autoscaled_any_more_has_no_temperature():
    cluster = add_cluster(**HOOK)
    probed(cluster, NOBODY)
    cluster.refresh_from_db()
    cluster.billing, cluster.wake_url = "committed", ""
    inventory.save_record(record=cluster)

    (view,) = load_clusters(now=NOW)

    assert (view.temperature, view.waking, view.running_replica_count) == ("", None, 1)


@pytest.mark.parametrize(
    ("temperature", "replicas", "running"), [("cold", 3, 0), ("waking", 2, 2), ("warm", 0, 1), ("", 0, 0)]
)
def test_running_replicas_are_what_the_temperature_allows(temperature, replicas, running):
    add_cluster(**HOOK, replica_count=replicas, replicas_max=3)
    Cluster.objects.update(temperature=temperature)

    (view,) = load_clusters(now=NOW)

    assert view.running_replica_count == running


def test_a_changed_temperature_reaches_the_gateways():
    cluster = add_cluster(**HOOK, replica_count=0)
    probed(cluster, BROKEN)
    before = inventory.Revision.objects.get().number

    woken(cluster)
    probed(cluster, BROKEN, at=NOW + seconds(61))
    middle = inventory.Revision.objects.get().number
    probed(cluster, BROKEN, at=NOW + seconds(181))

    assert inventory.Revision.objects.get().number == middle + 1
    assert middle == before
