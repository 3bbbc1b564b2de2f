"""The command that explains a decision."""

import json
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.prices import put_price
from clusters.catalogue import put_cluster, put_deployment, put_router_settings

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
