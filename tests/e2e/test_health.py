"""What load balancers and Prometheus read."""

import datetime as dt

import pytest

from tests.e2e.fleet import PRICE, wait_until

pytestmark = pytest.mark.e2e


def health(fleet):
    answer = fleet.gateway.get("/health")
    body = answer.json()
    at = dt.datetime.fromisoformat(body.pop("timestamp"))
    now = dt.datetime.now(tz=dt.UTC)  # noqa: TID251 -- the gateway's clock is the wall's
    assert abs(now - at) < dt.timedelta(seconds=60)
    return answer.status_code, body


def counts(status, *, clusters, providers):
    return {
        "status": status,
        "healthy_clusters": clusters[0],
        "total_clusters": clusters[1],
        "healthy_providers": providers[0],
        "total_providers": providers[1],
    }


def test_health_counts_what_could_answer(fleet):
    sites = [fleet.add_cluster(), fleet.add_cluster(), fleet.add_cluster(kind="provider")]
    fleet.ready()
    whole = (200, counts("healthy", clusters=(2, 2), providers=(1, 1)))
    degraded = (200, counts("degraded", clusters=(1, 2), providers=(1, 1)))
    dead = (503, counts("unhealthy", clusters=(0, 2), providers=(0, 1)))

    assert health(fleet) == whole
    fleet.control.call("set_cluster_health", name=sites[0].name, is_healthy=False)
    wait_until(lambda: health(fleet) == degraded)
    for site in sites[1:]:
        fleet.control.call("set_cluster_health", name=site.name, is_healthy=False)
    wait_until(lambda: health(fleet) == dead)
    for site in sites:
        fleet.control.call("set_cluster_health", name=site.name, is_healthy=True)
    wait_until(lambda: health(fleet) == whole)


def test_health_tells_costs_to_holders_of_a_key_only(fleet):
    own, provider = fleet.add_cluster(), fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.ready()

    def clusters(**headers):
        return fleet.gateway.get("/health", headers=headers).json().get("clusters")

    told = {each["name"]: each for each in clusters(authorization=f"Bearer {key.key}")}

    assert clusters() is None
    assert clusters(authorization="Bearer tg_wrong") is None
    assert told[own.name] == {
        "name": own.name,
        "average_measured_usd_per_1k": None,
        "average_nameplate_usd_per_1k": "0.0011",  # 0.36 x 1.1 / (100 x 3600) x 1000
        "marginal_usd_per_1k": "0",
        "marginal_kind": "paid",
        "idle_usd_per_hour": None,
        "break_even_tokens_per_s": 8,  # 0.36 x 1.1 / (3600 x 0.0000148)
        "served_tokens_per_s": None,
        "overhead_measured": None,
        "waking_usd": None,
    }
    # Five prompt tokens to one of the answer: 5 x 1.5 + 7.3 micro-USD.
    assert told[provider.name]["marginal_usd_per_1k"] == "0.0148"
    assert told[provider.name]["marginal_kind"] == "metered"

    series = f'gateway_cluster_cost{{cluster="{own.name}",figure="break_even_tokens_per_s"}} 8.0'
    wait_until(lambda: series in fleet.gateway.get("/metrics").text, within_s=15.0)


def test_health_live_and_ready_answer_with_the_revisions_they_serve_by(fleet):
    def ready():
        return fleet.gateway.get("/health/ready").json()

    before = ready()
    fleet.add_cluster()
    wait_until(lambda: ready()["inventory_revision"] > before["inventory_revision"])

    assert fleet.gateway.get("/health/live").json() == {"status": "live"}
    after = ready()
    assert after.keys() == {"status", "inventory_revision", "billing_revision"}
    assert (after["status"], type(after["billing_revision"])) == ("ready", int)


def test_metrics_have_the_seeds_five_names(fleet):
    own = fleet.add_cluster()
    provider = fleet.add_cluster(kind="provider")
    key = fleet.issue_key()
    fleet.earn_reroutes(1)
    fleet.control.call("set_cluster_health", name=own.name, is_healthy=True)
    fleet.ready()
    assert fleet.post(key, fleet.chat()).status_code == 200
    own.standin.set_fault("http_500")
    assert fleet.post(key, fleet.chat()).status_code == 200

    found = fleet.gateway.metrics()

    own_place = f'{{cluster="{own.name}",provider="hetzner",region="eu-1"}}'
    provider_place = f'{{cluster="{provider.name}",provider="openai",region="eu-2"}}'
    decisions = "llm_router_routing_decisions_total"
    expected = {
        f'llm_router_requests_total{{cluster="{own.name}",status="success"}}': 1.0,
        f'llm_router_requests_total{{cluster="{own.name}",status="error"}}': 1.0,
        f'llm_router_requests_total{{cluster="{provider.name}",status="success"}}': 1.0,
        f'llm_router_request_duration_seconds_count{{cluster="{own.name}"}}': 1.0,
        f'llm_router_request_duration_seconds_count{{cluster="{provider.name}"}}': 1.0,
        f"llm_router_cluster_health{own_place}": 1.0,
        f"llm_router_cluster_health{provider_place}": -1.0,
        f"llm_router_cluster_cost_per_1k_tokens{own_place}": 0.0011,
        f"llm_router_cluster_cost_per_1k_tokens{provider_place}": PRICE[1] / 10**9,
        f'{decisions}{{reason="cost",target="{own.name}",type="cluster"}}': 2.0,
        f'{decisions}{{reason="reroute",target="{provider.name}",type="external"}}': 1.0,
        f'gateway_reroutes_total{{cluster="{provider.name}"}}': 1.0,
    }
    assert {name: found.get(name) for name in expected} == expected
