"""The snapshot that requests are served by, joined from hand-made values."""

from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from billing.prices import RateTable
from clusters import inventory
from clusters.signing import Key, NoneSigner, TlsIdentity
from clusters.snapshots import InventorySnapshot, RouteView, WakingView
from gateway.fleet import FleetKeeper, FleetSnapshot, Target, build_snapshot, publish
from routing.types import Deployment, Fleet, Objective, Rate, RoutePlan, RoutingSettings, Wakeable
from tests.changes import replace
from tests.clusters.rows import add_cluster, certificate_and_key
from tests.gateway.snapshots import NOW, ROUTER_SETTINGS, cluster_view, deployment_view, snapshot_of

GENERAL = Rate.flat(input_microusd_per_mtok=1, output_microusd_per_mtok=2, source="general")
SPECIAL = Rate.flat(input_microusd_per_mtok=3, output_microusd_per_mtok=4, source="special")
# 0.0928 USD/h at 900 tokens/s, plus a tenth: 92.8e9 pico-USD x 1.1 / (900 x 3,600) a token, rounded up.
SEED = Rate.flat(
    input_microusd_per_mtok=31_507, output_microusd_per_mtok=31_507, source="seed formula, nameplate"
)
# ROUTER_SETTINGS probe every 30 s; four intervals without one make a probe stale.
STALE_AFTER = timedelta(seconds=120)


def route(model, *, candidates, fallbacks=(), policy=""):
    return RouteView(model=model, candidates=tuple(candidates), fallbacks=tuple(fallbacks), policy=policy)


def only_deployment(**values):
    (target,) = snapshot_of(**values).targets.values()
    return target.deployment


def served(plan):
    return [d.id for d in plan.candidates], [d.id for d in plan.fallbacks]


def test_snapshot_joins_inventory_prices_and_keys():
    cluster = cluster_view(
        health="healthy", health_checked_at=NOW, health_reason="ok", queue_depth=3, latency_ms=40
    )
    principals = {b"digest": object()}

    snapshot = build_snapshot(
        inventory=InventorySnapshot(revision=7, clusters=(cluster,), routes=(), settings=ROUTER_SETTINGS),
        principals=principals,
        rates=RateTable(rates={}, next_change_at=None),
        billing_revision=9,
        now=NOW,
    )

    deployment = Deployment(
        id="d1",
        cluster="aws",
        cluster_kind="own",
        provider="aws",
        region="us-east-1",
        model="llama",
        billing="committed",
        state="active",
        health="healthy",
        health_reason="ok",
        context_window=8192,
        output_tokens_max=None,
        capabilities=frozenset(),
        rate=SEED,
        cost_per_hour_nanousd=92_800_000,
        rated_tokens_per_s=900,
        measured_tokens_per_s=None,
        queue_depth=3,
        latency_ms=40,
        in_flight_max=64,
    )
    target = snapshot.targets["d1"]
    assert snapshot == FleetSnapshot(
        inventory_revision=7,
        billing_revision=9,
        expires_at=NOW + STALE_AFTER,
        fleet=Fleet(
            routes={"llama": RoutePlan(model="llama", policy="", candidates=(deployment,), fallbacks=())},
            settings=RoutingSettings(
                policy="cost",
                latency_ms_max=5000,
                queue_depth_max=10,
                overhead_permille=1100,
                cluster_cost_threshold_nanousd=10_000_000,
                is_external_fallback_enabled=True,
                objective=Objective(
                    ttft_s=2.0,
                    ttft_s_per_prompt_token=0.00025,
                    tpot_s=0.05,
                    miss_input_microusd_per_mtok=3_000_000,
                    miss_output_microusd_per_mtok=12_000_000,
                ),
            ),
        ),
        targets={
            "d1": Target(
                deployment=deployment,
                cluster_id="c1",
                endpoint="https://aws.example.com",
                backend="vllm",
                upstream_name="llama",
                signer=cluster.signer,
                tls=None,
                is_private_allowed=False,
            )
        },
        principals=principals,
        clusters=(cluster,),
    )
    assert target.signer is cluster.signer


def test_snapshot_of_equal_input_is_equal():
    signer = NoneSigner()

    first = snapshot_of(clusters=[cluster_view(signer=signer)])
    second = snapshot_of(clusters=[cluster_view(signer=signer)])

    assert first == second


@pytest.mark.parametrize(
    ("rates", "rate"),
    [
        ({("llama", "aws"): SPECIAL, ("llama", ""): GENERAL}, SPECIAL),
        ({("llama", ""): GENERAL}, GENERAL),
        ({("llama", "gcp"): SPECIAL}, SEED),
        ({("qwen", ""): GENERAL}, SEED),
        ({}, SEED),
    ],
)
def test_price_of_the_cluster_comes_before_the_general_one_and_the_formula(rates, rate):
    assert only_deployment(rates=rates).rate == rate


@pytest.mark.parametrize(
    ("rates", "rate"),
    [({}, None), ({("llama", ""): GENERAL}, GENERAL), ({("llama", "aws"): SPECIAL}, SPECIAL)],
)
def test_provider_without_a_price_has_none(rates, rate):
    provider = cluster_view(kind="provider", billing="metered", rated_tokens_per_s=None)

    assert only_deployment(clusters=[provider], rates=rates).rate == rate


@pytest.mark.parametrize(
    ("rated", "measured", "rate_microusd_per_mtok"),
    # 0.0928 USD/h x 1.1 / 3,600 s / speed; nobody's speed is taken as the seed's 10 tokens/s.
    [(900, 50, 31_507), (None, 50, 567_112), (None, None, 2_835_556)],
)
def test_internal_rate_is_the_seed_formula_at_nameplate_speed(rated, measured, rate_microusd_per_mtok):
    cluster = cluster_view(rated_tokens_per_s=rated, measured_tokens_per_s=measured)

    assert only_deployment(clusters=[cluster]).rate == Rate.flat(
        input_microusd_per_mtok=rate_microusd_per_mtok,
        output_microusd_per_mtok=rate_microusd_per_mtok,
        source="seed formula, nameplate",
    )


@pytest.mark.parametrize("health", ["healthy", "unhealthy"])
@pytest.mark.parametrize(
    ("age", "is_known"),
    [
        (timedelta(0), True),
        (STALE_AFTER - timedelta(microseconds=1), True),
        (STALE_AFTER, False),
        (timedelta(days=9), False),
    ],
)
def test_what_an_old_probe_saw_is_unknown(health, age, is_known):
    cluster = cluster_view(
        health=health, health_checked_at=NOW - age, queue_depth=3, latency_ms=40, running_count=2
    )

    snapshot = snapshot_of(clusters=[cluster])

    deployment = snapshot.targets["d1"].deployment
    seen = (deployment.health, deployment.queue_depth, deployment.latency_ms)
    assert seen == ((health, 3, 40) if is_known else ("unknown", None, None))
    known = (
        cluster
        if is_known
        else replace(cluster, health="unknown", queue_depth=None, latency_ms=None, running_count=None)
    )
    assert snapshot.clusters == (known,)


def test_cluster_that_was_never_probed_is_unknown():
    deployment = only_deployment(clusters=[cluster_view(health="healthy", health_checked_at=None)])

    assert deployment.health == "unknown"


def test_cluster_whose_secret_cannot_be_read_is_not_routable_and_not_counted():
    broken = cluster_view(secret_problem="key 3 is missing")

    snapshot = snapshot_of(clusters=[broken])

    assert snapshot.targets["d1"].deployment.state == "secret_unreadable"
    assert snapshot.count_healthy(kind="own") == (0, 1)


@pytest.mark.parametrize(("state", "expected"), [("active", "vanished"), ("draining", "draining")])
def test_model_that_its_cluster_does_not_list_gets_no_traffic(state, expected):
    deployment = only_deployment(
        clusters=[cluster_view(state=state, deployments=(deployment_view(is_vanished=True),))]
    )

    assert deployment.state == expected


def test_count_healthy_counts_what_may_be_used_of_a_kind():
    fresh = {"health_checked_at": NOW, "deployments": ()}
    clusters = [
        cluster_view(id="1", health="healthy", **fresh),
        cluster_view(id="2", health="unhealthy", **fresh),
        cluster_view(id="3", health="unknown", **fresh),
        cluster_view(id="4", health="healthy", state="draining", **fresh),
        cluster_view(id="5", health="unhealthy", health_checked_at=NOW - STALE_AFTER, deployments=()),
        cluster_view(id="6", kind="provider", health="healthy", **fresh),
    ]

    snapshot = snapshot_of(clusters=clusters)

    counts = [snapshot.count_healthy(kind=kind) for kind in ("own", "provider", "other")]
    assert counts == [(3, 5), (1, 1), (0, 0)]


WAKING = WakingView(
    has_hook=True,
    warm_up_s=80.0,
    is_warm_up_known=True,
    window_s=300,
    replicas_max=2,
    expected_at=NOW + timedelta(seconds=20),
    failure_count=1,
)


def autoscaled_view(**values):
    given = {"billing": "autoscaled", "waking": WAKING, "health_checked_at": NOW, "temperature": "warm"}
    return cluster_view(**{**given, **values})


@pytest.mark.parametrize(
    ("values", "state", "can_grow", "warm_at_s"),
    [
        ({"temperature": "cold", "health": "unhealthy"}, "cold", True, None),
        ({"temperature": "waking", "health": "unhealthy"}, "waking", True, 520.0),
        ({"temperature": "waking", "replica_count": 2}, "waking", False, 520.0),
        ({"temperature": "warm", "health": "healthy"}, "active", True, None),
        ({"temperature": "cold", "state": "draining"}, "draining", False, None),
        ({"temperature": "cold", "secret_problem": "gone"}, "secret_unreadable", True, None),
        # Nobody looked lately: it may be there, and who tries finds out.
        ({"temperature": "cold", "health_checked_at": NOW - STALE_AFTER}, "active", True, None),
        # Somebody changed it, so it is looked at anew; it sleeps on until then.
        ({"temperature": "cold", "health_checked_at": None}, "cold", True, None),
        ({"temperature": "cold", "waking": replace(WAKING, has_hook=False)}, "cold", False, None),
    ],
)
def test_temperature_is_the_state_of_who_may_be_used(values, state, can_grow, warm_at_s):
    snapshot = snapshot_of(clusters=[autoscaled_view(**values)], now_s=500.0)

    deployment = snapshot.targets["d1"].deployment
    assert deployment.state == state
    assert deployment.wakeable == Wakeable(
        warm_up_s=80.0, window_s=300, warm_at_s=warm_at_s, can_grow=can_grow, failure_count=1
    )


def test_a_cluster_that_can_be_woken_is_as_good_as_one_that_is_there():
    asleep = {"temperature": "cold", "health": "unhealthy", "deployments": ()}
    clusters = [
        autoscaled_view(id="1", **asleep),
        autoscaled_view(id="2", **asleep | {"waking": replace(WAKING, has_hook=False)}),
    ]

    assert snapshot_of(clusters=clusters).count_healthy(kind="own") == (1, 2)


def test_gauges_tell_of_autoscaled_clusters_alone():
    clusters = [
        cluster_view(id="c", name="committed", deployments=(), health="healthy", health_checked_at=NOW),
        autoscaled_view(id="a", name="asleep", temperature="cold", health="unhealthy", deployments=()),
        autoscaled_view(id="u", name="unknown", temperature="", deployments=()),
        autoscaled_view(id="w", name="warm", replica_count=2, deployments=()),
    ]

    publish(snapshot_of(clusters=clusters), now=NOW)

    def told(name, cluster, **labels):
        return REGISTRY.get_sample_value(name, {"cluster": cluster, **labels})

    names = ("committed", "asleep", "unknown", "warm")
    assert [told("gateway_cluster_temperature", name) for name in names] == [None, 0, None, 2]
    assert [told("gateway_cluster_replicas", name) for name in names] == [None, 0, 1, 2]
    assert [told("gateway_cluster_wake_failures", name) for name in names] == [None, 1, 1, 1]
    assert [told("gateway_cluster_warm_up_seconds", name) for name in names] == [None, 80, 80, 80]
    place = {"provider": "aws", "region": "us-east-1"}
    assert [told("llm_router_cluster_health", name, **place) for name in names[:2]] == [1, -1]
    publish(snapshot_of(), now=NOW)


def test_gauge_tells_the_days_that_certificates_have_left():
    tls = TlsIdentity(expires_at=NOW + timedelta(days=14), ca_expires_at=NOW - timedelta(hours=6))
    server_ends_at = NOW + timedelta(days=1)
    cluster = cluster_view(name="metal", tls=tls, certificate_expires_at=server_ends_at)

    publish(snapshot_of(clusters=[cluster]), now=NOW)

    name = "gateway_cluster_certificate_days"
    told = {
        kind: REGISTRY.get_sample_value(name, {"cluster": "metal", "certificate": kind})
        for kind in ("client", "server", "authority")
    }
    publish(snapshot_of(), now=NOW)
    assert told == {"client": 14, "server": 1, "authority": -0.25}
    assert REGISTRY.get_sample_value(name, {"cluster": "metal", "certificate": "client"}) is None


def fleet_of(*routes):
    """llama on two clusters, qwen on one, each deployment by its own id."""
    first = cluster_view(
        id="c1",
        name="aws",
        deployments=(deployment_view(id="aws-llama"), deployment_view(id="aws-qwen", model="qwen")),
    )
    second = cluster_view(id="c2", name="gcp", deployments=(deployment_view(id="gcp-llama"),))
    return snapshot_of(clusters=[first, second], routes=routes).fleet


def test_each_model_is_a_route_of_its_own_name():
    fleet = fleet_of()

    assert {model: served(plan) for model, plan in fleet.routes.items()} == {
        "llama": (["aws-llama", "gcp-llama"], []),
        "qwen": (["aws-qwen"], []),
    }


def test_named_route_comes_before_the_model_of_that_name():
    fleet = fleet_of(route("llama", candidates=["qwen"], policy="latency"))

    assert served(fleet.routes["llama"]) == (["aws-qwen"], [])
    assert fleet.routes["llama"].policy == "latency"
    assert list(fleet.routes) == ["llama", "qwen"]


@pytest.mark.parametrize(
    ("candidates", "fallbacks", "expected"),
    [
        (["qwen", "llama"], [], (["aws-qwen", "aws-llama", "gcp-llama"], [])),
        (["llama"], ["qwen"], (["aws-llama", "gcp-llama"], ["aws-qwen"])),
        (["llama"], ["llama", "qwen"], (["aws-llama", "gcp-llama"], ["aws-qwen"])),
        (["qwen", "qwen"], ["llama", "llama"], (["aws-qwen"], ["aws-llama", "gcp-llama"])),
        (["gone"], ["qwen"], ([], ["aws-qwen"])),
        (["gone"], ["gone too"], ([], [])),
    ],
)
def test_named_route_lists_each_deployment_once(candidates, fallbacks, expected):
    fleet = fleet_of(route("smart", candidates=candidates, fallbacks=fallbacks))

    assert served(fleet.routes["smart"]) == expected


def expires_at(*checked_ats, next_change_at=None, cost_changes_at=None):
    clusters = [
        cluster_view(id=str(n), health_checked_at=at, cost_changes_at=cost_changes_at, deployments=())
        for n, at in enumerate(checked_ats)
    ]
    return build_snapshot(
        inventory=InventorySnapshot(
            revision=1, clusters=tuple(clusters), routes=(), settings=ROUTER_SETTINGS
        ),
        principals={},
        rates=RateTable(rates={}, next_change_at=next_change_at),
        billing_revision=1,
        now=NOW,
    ).expires_at


def test_snapshot_expires_when_the_first_thing_it_says_is_no_longer_so():
    earlier, later, soon = (
        NOW - timedelta(seconds=60),
        NOW - timedelta(seconds=10),
        NOW + timedelta(seconds=5),
    )

    assert expires_at() is None
    assert expires_at(None) is None
    assert expires_at(earlier, later, None) == earlier + STALE_AFTER
    assert expires_at(earlier, next_change_at=soon) == soon
    assert expires_at(earlier, cost_changes_at=soon) == soon
    # What has gone stale already says nothing about when to look again.
    assert expires_at(NOW - STALE_AFTER, later) == later + STALE_AFTER
    assert expires_at(NOW - STALE_AFTER) is None


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_secrets_and_certificates_are_exchanged_without_a_restart():
    cluster = add_cluster(endpoint="https://127.0.0.1:9", auth_type="mtls")
    add_certificate(cluster, days=30)
    clock = [NOW]
    keeper = FleetKeeper(clock=lambda: 0.0, wall_clock=lambda: clock[0])
    keeper._take(keeper._load())

    def look():
        keeper._refresh()
        (view,) = keeper.snapshot.clusters
        return view.secret_problem, view.tls.expires_at

    first = look()
    clock[0] = NOW + timedelta(days=30)
    expired = look()
    add_certificate(cluster, days=60)
    renewed = look()

    ends_at = NOW + timedelta(days=30)
    assert first == ("", ends_at)
    assert expired == ("the client certificate of metal expired on 2026-12-23: store a new one", ends_at)
    assert renewed == ("", NOW + timedelta(days=60))


def add_certificate(cluster, *, days):
    certificate, key = certificate_and_key(now=NOW, days=days)
    inventory.store_secret(cluster_id=cluster.id, purpose="client_certificate", plaintext=certificate)
    inventory.store_secret(cluster_id=cluster.id, purpose="client_key", plaintext=key)


def key_of(rpm_max, tpm_max):
    return Key(id="k", label="k", signer=NoneSigner(), rpm_max=rpm_max, tpm_max=tpm_max)


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"keys": (key_of(10, 100), key_of(20, 200))}, (30, 300)),
        # A key without a limit of its own takes whatever the others do not.
        ({"keys": (key_of(10, None), key_of(20, 200))}, (30, None)),
        ({"keys": (key_of(10, 100),), "rpm_max": 5}, (5, 100)),
        ({"keys": ()}, (None, None)),
        ({"kind": "own", "keys": (key_of(10, 100),), "rpm_max": 5}, (None, None)),
    ],
)
def test_limits_of_a_provider_are_its_own_or_its_keys_together(values, limits):
    given = {"kind": "provider", "billing": "metered", "rpm_max": None, "tpm_max": None, **values}
    (target,) = snapshot_of(clusters=[cluster_view(**given)]).targets.values()

    assert (target.deployment.rpm_max, target.deployment.tpm_max) == limits
