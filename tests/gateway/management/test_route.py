"""The command that explains a decision."""

import json
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.prices import put_price
from clusters.catalogue import put_cluster, put_deployment, put_router_settings
from tests.billing.rows import make_usage

pytestmark = pytest.mark.django_db(databases="__all__")


def route(*arguments):
    output = StringIO()
    call_command("route", *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def fleet():
    put_cluster(name="own-a", values={"endpoint": "https://a.example.com", "cost_per_hour_nanousd": 10**9})
    put_cluster(
        name="broken",
        values={"endpoint": "https://b.example.com", "cost_per_hour_nanousd": 10**9, "state": "draining"},
    )
    put_cluster(
        name="openai", values={"endpoint": "https://p.example.com", "kind": "provider", "billing": "metered"}
    )
    for name in ("own-a", "broken", "openai"):
        put_deployment(cluster_name=name, model="m", values={"context_window": 8192})
    put_price(
        model="m",
        cluster_name="openai",
        input_microusd_per_mtok=1_000_000,
        output_microusd_per_mtok=2_000_000,
        effective_at=datetime(2020, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("policy", "ranked"), [("external_first", ["openai", "own-a"]), ("marginal", ["own-a", "openai"])]
)
def test_route_json_names_the_ranking_and_who_is_out(fleet, policy, ranked):
    put_router_settings(values={"policy": policy})

    document = json.loads(route("m", "--prompt-tokens", "1000", "--max-tokens", "100", "--json"))

    assert [candidate["cluster"] for candidate in document["ranked"]] == ranked
    assert document["excluded"] == [{"cluster": "broken", "model": "m", "reason": "draining"}]
    costs = {candidate["cluster"]: candidate["cost_nanousd"] for candidate in document["ranked"]}
    assert costs["openai"] == 1_000_000 + 200_000
    assert (document["model"], document["policy"], document["reason"]) == ("m", policy, policy)


def test_route_prints_what_a_person_can_read(fleet):
    put_router_settings(values={"policy": "external_first"})

    lines = route("m").splitlines()

    assert lines[0] == "m: policy external_first, external_first"
    assert lines[1].startswith("  1. openai / m: $")
    assert lines[3] == "  -. broken / m: draining"


def test_route_refuses_an_unknown_model(fleet):
    with pytest.raises(CommandError, match="there is no model 'other' here; there are: m"):
        route("other")


def test_explain_tells_a_served_request_by_the_ledger():
    decision = {"policy": "cost", "reason": "cost", "cost": 5, "ranked": [["gpu-a", 5, 5.0]], "excluded": []}
    make_usage(decision=decision)

    assert route("--explain", "req-1").splitlines() == [
        "Attempt 1 at gpu-a / llama-3-8b: ok, $0.0015, 300 ms",
        "  Policy cost.",
        "  gpu-a was chosen, about $0.000000005, score 5.",
    ]
    document = json.loads(route("--explain", "req-1", "--json"))
    assert (document["id"], document["cost_usd"]) == ("req-1", "0.0015")
    assert document["attempts"][0]["decision"] == decision


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--explain", "req-9"), "no settled attempt of request 'req-9'"), ((), "name a model, or a request")],
)
def test_explain_refuses_what_it_does_not_know(arguments, message):
    with pytest.raises(CommandError, match=message):
        route(*arguments)
