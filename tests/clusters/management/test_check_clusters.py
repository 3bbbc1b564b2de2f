import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from clusters import inventory
from clusters.demo.standin import StandinSettings
from clusters.health import Observation
from tests.clusters.rows import NOW, add_cluster
from tests.fakes.standin_server import run_standin

pytestmark = pytest.mark.django_db


@pytest.fixture
def fleet():
    with run_standin(StandinSettings()) as standin:
        add_cluster(name="up", endpoint=standin.url, tokens_per_s=10)
        add_cluster(name="down")
        yield


def test_json_has_one_object_a_cluster(fleet, capsys):
    call_command("check_clusters", "--json")

    refused = "connection refused: is the server running there?"
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "down",
            "state": "active",
            "reachable": False,
            "healthy": False,
            "reason": refused,
            "models": [],
            "queue": None,
            "tokens_per_s": None,
            "usd_per_1k": None,
            "certificate_days": None,
            "clock_skew_s": None,
            "to_fix": [f"{refused} (http://127.0.0.1:9, backend vllm)"],
        },
        {
            "name": "up",
            "state": "active",
            "reachable": True,
            "healthy": True,
            "reason": "",
            "models": ["llama-3-8b"],
            "queue": 0,
            "tokens_per_s": 10,
            "usd_per_1k": 0.002835556,
            "certificate_days": None,
            "clock_skew_s": 0,
            "to_fix": [],
        },
    ]


def test_table_counts_the_days_of_certificates_to_their_end(capsys):
    now = timezone.now()  # noqa: TID251 -- the command's clock
    for days in (-3, 0, 5):
        cluster = add_cluster(name=f"ends{days}", endpoint="https://127.0.0.1:9")
        ends_at = now + timedelta(days=days, minutes=1)
        seen = Observation(is_healthy=True, certificate_expires_at=ends_at)
        inventory.record_health(cluster_id=cluster.id, observation=seen, now=now)

    call_command("check_clusters", "--no-probe")

    lines = capsys.readouterr().out.splitlines()
    at = lines[0].index("CERT")
    assert {line.split()[0]: line[at:].split("  ")[0] for line in lines[1:4]} == {
        "ends-3": "EXPIRED",
        "ends0": "0 d",
        "ends5": "5 d",
    }


def test_table_says_what_to_fix(fleet, capsys):
    call_command("check_clusters")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "REACHABLE"]
    assert lines[1].startswith("down  active  NO         NO")
    assert lines[2].split() == [
        *("up", "active", "yes", "yes", "0", "10", "0.0928", "0.002836", "-", "+0", "s"),
        *("llama-3-8b", "-"),
    ]
    assert (
        "  - down: connection refused: is the server running there? (http://127.0.0.1:9, backend vllm)"
        in lines
    )


def test_no_healthy_cluster_is_a_failure(capsys):
    add_cluster()

    with pytest.raises(CommandError, match="no cluster is healthy"):
        call_command("check_clusters", "--json")

    assert [row["healthy"] for row in json.loads(capsys.readouterr().out)] == [False]


def test_no_cluster_at_all_is_a_failure():
    with pytest.raises(CommandError, match="there is no cluster yet"):
        call_command("check_clusters")


def test_without_probing_nobody_is_asked(fleet, capsys):
    with pytest.raises(CommandError):
        call_command("check_clusters", "--no-probe", "--json")

    rows = json.loads(capsys.readouterr().out)
    assert [row["reason"] for row in rows] == ["not probed yet", "not probed yet"]


def test_cluster_that_can_be_woken_is_no_failure_and_needs_no_advice(capsys):
    add_cluster(name="sleepy", billing="autoscaled", wake_url="http://127.0.0.1:9/wake")
    call_command("check_clusters")

    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if line.startswith("sleepy")]
    assert row.split()[:3] == ["sleepy", "cold", "NO"]
    assert "To fix" not in shown
    call_command("check_clusters", "--json", "--no-probe")
    assert json.loads(capsys.readouterr().out)[0]["temperature"] == "cold"


def test_addresses_that_answer_are_counted_where_each_is_a_server(capsys):
    cluster = add_cluster(name="pods", expands_addresses=True, tokens_per_s=10)
    observation = Observation(is_healthy=True, address_count=3, healthy_address_count=2)
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    call_command("check_clusters", "--no-probe")
    table = capsys.readouterr().out
    call_command("check_clusters", "--no-probe", "--json")
    (listed,) = json.loads(capsys.readouterr().out)

    assert "  yes (2 of 3)  " in table
    assert (listed["addresses"], listed["healthy_addresses"]) == (3, 2)
