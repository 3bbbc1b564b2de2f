"""Who is woken, when and by whom: one call past the break-even or for a request without a place, no other."""

import threading
from datetime import timedelta

import pytest
from django.db import connection

from clusters import inventory
from clusters.health import Observation
from clusters.models import Cluster, Waking
from clusters.snapshots import with_cost_in_force
from clusters.waking import _claimed, note_demand, wake_due_clusters
from tests.clusters.rows import NOW, add_cluster
from tests.fakes.scaler import run_hook

pytestmark = pytest.mark.django_db

# A replica costs $1.80 an hour, so that the break-even is $3.60 an hour: a thousandth of a dollar a second.
HOURLY = 1_800_000_000
# Spilt at once it counts as spread over a minute: just below, and just above.
TOO_LITTLE, ENOUGH = 59_000_000, 61_000_000


@pytest.fixture
def hook():
    with run_hook() as running:
        yield running


def sleeper(hook, *, temperature="cold", **values):
    cluster = add_cluster(
        **{
            "billing": "autoscaled",
            "cost_per_hour_nanousd": HOURLY,
            "wake_url": hook.url,
            "warm_up_s": 90,
            **values,
        }
    )
    Cluster.objects.filter(id=cluster.id).update(temperature=temperature)
    return cluster


def spilt(amount, *, at=0.0, name="metal"):
    note_demand(spilt_nanousd={name: amount}, asked=(), now=after(at))


def asked(*, at=0.0, name="metal"):
    note_demand(spilt_nanousd={}, asked=[name], now=after(at))


def after(seconds):
    return NOW + timedelta(seconds=seconds)


def look(*, at=0.0):
    return wake_due_clusters(now=after(at), clock=lambda: after(at))


def test_spill_past_the_break_even_wakes_the_cluster_once(hook):
    sleeper(hook)
    spilt(TOO_LITTLE)
    early = look()
    spilt(ENOUGH - TOO_LITTLE, at=1)
    woken = [look(at=1), look(at=3)]
    spilt(10 * ENOUGH, at=40)

    assert (early, woken, look(at=41)) == ([], [["metal"], []], [])
    assert hook.asked == [{"cluster": "metal", "replicas_wanted": 1, "reason": "spill"}]
    cluster = Cluster.objects.get()
    row = Waking.objects.get()
    assert (cluster.temperature, cluster.replica_count) == ("waking", 1)
    assert (row.accepted_at, row.expected_at) == (after(1), after(91))
    assert (row.awaited_until, row.accepted_count) == (after(271), 1)


def test_spill_is_forgotten_as_routing_forgets_it(hook):
    sleeper(hook)
    spilt(TOO_LITTLE)
    look()
    spilt(TOO_LITTLE // 10, at=60)

    assert look(at=60) == []
    row = Waking.objects.get()
    assert row.spill_nanousd_per_hour == pytest.approx(TOO_LITTLE * 60 * (0.36788 + 0.1), rel=1e-4)


def test_a_warm_cluster_gets_one_more_replica_up_to_its_most(hook):
    sleeper(hook, temperature="warm", replica_count=2, replicas_max=4)
    calls = []
    for at in (0, 31, 91, 182):
        spilt(10 * ENOUGH, at=at)
        calls.append(look(at=at))

    # The second came while the third replica was still expected, and four are the most.
    assert calls == [["metal"], [], ["metal"], []]
    assert [each["replicas_wanted"] for each in hook.asked] == [3, 4]
    cluster = Cluster.objects.get()
    assert (cluster.temperature, cluster.replica_count) == ("warm", 4)


def test_what_the_hook_says_of_replicas_counts(hook):
    hook.answer = b'{"replicas": 3}'
    sleeper(hook, replicas_max=4)
    spilt(ENOUGH)
    look()

    assert Cluster.objects.get().replica_count == 3


def test_a_request_without_a_place_wakes_a_cold_cluster_at_once(hook):
    sleeper(hook)
    asked()

    assert (look(), look(at=2)) == (["metal"], [])
    asked(at=3)
    assert look(at=60) == []
    assert hook.asked == [{"cluster": "metal", "replicas_wanted": 1, "reason": "request"}]


@pytest.mark.parametrize(
    ("values", "temperature"),
    [
        ({}, "warm"),
        ({"state": "draining"}, "cold"),
        ({"state": "disabled"}, "cold"),
        ({"wake_url": ""}, "cold"),
    ],
)
def test_who_is_warm_or_stopped_or_has_no_hook_is_not_woken(hook, values, temperature):
    sleeper(hook, temperature=temperature, **values)
    asked()
    spilt(10 * ENOUGH)

    assert (look(), hook.received) == ([], [])


def test_a_request_of_long_ago_wakes_nobody(hook):
    sleeper(hook)
    asked()

    assert look(at=61) == []


def test_hook_that_fails_is_called_again_with_growing_pauses(hook):
    hook.status = 500
    sleeper(hook)
    spilt(ENOUGH)
    seen = []
    for at in range(0, 200, 5):
        look(at=at)
        seen.append(len(hook.received))

    # At 0, 5, 15, 35, 75 and 155 seconds.
    assert [index * 5 for index in range(1, 40) if seen[index] > seen[index - 1]] == [5, 15, 35, 75, 155]
    row, cluster = Waking.objects.get(), Cluster.objects.get()
    assert (row.failure_count, row.error) == (6, "the wake hook answers HTTP 500")
    assert (cluster.temperature, row.accepted_at) == ("cold", None)

    hook.status = 200
    assert look(at=400) == ["metal"]
    row.refresh_from_db()
    assert (row.failure_count, row.error, row.call_at) == (0, "", None)


def test_a_wish_that_nobody_took_for_ten_minutes_is_dropped(hook):
    hook.status = 500
    sleeper(hook)
    spilt(ENOUGH)
    look()
    calls = len(hook.received)

    look(at=601)

    assert len(hook.received) == calls
    assert Waking.objects.get().call_at is None


def test_secret_that_is_missing_is_a_failure_that_is_shown(hook):
    sleeper(hook, wake_auth="bearer")
    spilt(ENOUGH)

    assert look() == []
    row = Waking.objects.get()
    assert (row.failure_count, hook.received) == (1, [])
    assert row.error.startswith("the wake hook's secret cannot be used: no live bearer token is stored")


def test_hooks_are_called_together_and_one_that_fails_keeps_no_other_back(hook):
    with run_hook() as broken:
        broken.status = 500
        sleeper(broken, name="a")
        sleeper(hook, name="b")
        for name in "ab":
            spilt(ENOUGH, name=name)

        assert look() == ["b"]


def test_call_of_a_worker_that_died_is_made_by_another(hook, monkeypatch):
    sleeper(hook)
    spilt(ENOUGH)

    def dies(_calls, **_values):
        raise KeyboardInterrupt

    monkeypatch.setattr("clusters.waking._call_all", dies)
    with pytest.raises(KeyboardInterrupt):
        look()
    monkeypatch.undo()

    assert (look(at=29), look(at=31)) == ([], ["metal"])


def test_demand_of_unknown_clusters_is_left_out(hook):
    sleeper(hook)
    note_demand(spilt_nanousd={"gone": 5, "metal": 7}, asked=["gone"], now=NOW)

    assert list(Waking.objects.values_list("spilt_nanousd", "asked_at")) == [(7, None)]


def test_looks_cost_one_query_where_nothing_is_autoscaled(django_assert_num_queries):
    add_cluster()

    with django_assert_num_queries(1):
        look()


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_alone_calls_the_hook(hook):
    sleeper(hook)
    spilt(ENOUGH)
    asked()
    start, woken = threading.Barrier(6), []

    def work():
        start.wait()
        woken.extend(look())
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert (woken, len(hook.received)) == (["metal"], 1)


@pytest.mark.django_db(transaction=True)
def test_gateways_that_tell_at_the_same_time_lose_nothing(hook):
    sleeper(hook, name="a")
    sleeper(hook, name="b")
    start = threading.Barrier(4)

    def tell():
        start.wait()
        for _ in range(10):
            note_demand(spilt_nanousd={"b": 3, "a": 2}, asked=["b"], now=NOW)
        connection.close()

    gateways = [threading.Thread(target=tell) for _ in range(4)]
    for gateway in gateways:
        gateway.start()
    for gateway in gateways:
        gateway.join()

    sums = Waking.objects.order_by("cluster__name").values_list("spilt_nanousd", "asked_at")
    assert list(sums) == [(80, None), (120, NOW)]


def test_deleted_cluster_takes_its_waking_with_it(hook):
    cluster = sleeper(hook)
    spilt(1)

    inventory.delete_records(records=[cluster])

    assert Waking.objects.count() == 0


def test_who_read_before_another_claimed_makes_no_call(hook):
    sleeper(hook)
    spilt(ENOUGH)
    both = [with_cost_in_force(Cluster.objects.all(), now=NOW).get() for _ in range(2)]
    # Both have read what was spilt before either writes.
    assert [each.waking.spilt_nanousd for each in both] == [ENOUGH, ENOUGH]

    claims = [_claimed(each, now=NOW) for each in both]

    assert [claim is not None for claim in claims] == [True, False]


def test_a_request_that_was_served_wakes_nobody_when_the_cluster_sleeps_again(hook):
    sleeper(hook)
    asked()
    look()
    inventory.record_health(
        cluster_id=Cluster.objects.get().id, observation=Observation(is_healthy=True), now=after(10)
    )
    inventory.set_replica_count(cluster_name="metal", replica_count=0, now=after(20))

    assert (Cluster.objects.get().temperature, look(at=40)) == ("cold", [])


@pytest.mark.django_db(transaction=True)
def test_cluster_that_is_deleted_while_gateways_tell_of_it_leaves_nothing(hook):
    faults = []

    def tell(name):
        try:
            for _ in range(10):
                note_demand(spilt_nanousd={name: 1}, asked=(), now=NOW)
        except Exception as error:  # noqa: BLE001 -- a thread's edge: the test looks at it
            faults.append(error)
        finally:
            connection.close()

    for number in range(12):
        cluster = sleeper(hook, name=f"sleeper-{number}")
        teller = threading.Thread(target=tell, args=(cluster.name,))
        teller.start()
        inventory.delete_records(records=[cluster])
        teller.join()

    assert (faults, Waking.objects.count(), Cluster.objects.count()) == ([], 0, 0)
