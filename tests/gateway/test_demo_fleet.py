import json
import socket
import stat
import sys
from datetime import UTC, datetime

import pytest

from billing import prices
from clusters import catalogue
from clusters.inventory import delete_records
from clusters.models import Cluster, ClusterSecret
from gateway import demo_fleet
from gateway.demo_fleet import child_of, enter_fleet, plan_fleet

NOW = datetime(2030, 1, 2, tzinfo=UTC)
NAMES = ["aws-us-east-1", "azure-eastus", "demo-provider", "gcp-us-central1", "llama-local"]


@pytest.fixture
def members(tmp_path):
    return plan_fleet(data_dir=tmp_path)


def entered():
    return {cluster.name: cluster for cluster in catalogue.load_catalogue().clusters}


def member_of(members, name):
    return next(member for member in members if member.site.name == name)


def test_each_site_gets_a_port_of_its_own(members):
    assert sorted(member.site.name for member in members) == NAMES
    assert len({member.port for member in members}) == 5


def test_port_that_is_taken_is_left_to_its_holder(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]

        assert demo_fleet._free_port(taken) != taken


def test_secrets_are_made_once_and_kept_for_their_owner_alone(tmp_path, members):
    again = plan_fleet(data_dir=tmp_path)

    path = tmp_path / "demo-secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {m.site.name: m.secret for m in again} == {m.site.name: m.secret for m in members}
    assert json.loads(path.read_text()) == {m.site.name: m.secret for m in members}
    assert [m.is_secret_new for m in members] == [True] * 5
    assert [m.is_secret_new for m in again] == [False] * 5
    assert members[0].secret not in repr(members)


def test_real_llama_is_left_out_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    members = plan_fleet(data_dir=tmp_path)

    assert "llama-local" not in [member.site.name for member in members]
    assert len(members) == 4


@pytest.mark.django_db(databases="__all__")
def test_first_start_enters_clusters_models_secrets_prices_and_a_route(members):
    running = enter_fleet(members, now=NOW)

    assert running == members
    clusters = entered()
    assert sorted(clusters) == NAMES
    aws = clusters["aws-us-east-1"]
    assert {name: aws.values[name] for name in ("kind", "provider", "region", "auth_type", "endpoint")} == {
        "kind": "own",
        "provider": "aws",
        "region": "us-east-1",
        "auth_type": "hmac",
        "endpoint": member_of(members, "aws-us-east-1").endpoint,
    }
    assert {name: sorted(cluster.secret_purposes) for name, cluster in clusters.items()} == {
        "aws-us-east-1": ["hmac"],
        "azure-eastus": [],
        "demo-provider": ["bearer"],
        "gcp-us-central1": ["bearer"],
        "llama-local": ["bearer"],
    }
    assert {name: [d.model for d in cluster.deployments] for name, cluster in clusters.items()} == {
        "aws-us-east-1": ["demo-embed", "llama-3-8b"],
        "azure-eastus": ["demo-embed", "llama-3-8b"],
        "demo-provider": ["demo-large", "llama-3-8b"],
        "gcp-us-central1": ["demo-embed", "llama-3-8b"],
        "llama-local": ["tiny-bigram"],
    }
    (route,) = catalogue.load_catalogue().routes
    assert (route.model, route.values["candidates"], route.values["fallbacks"]) == (
        "fast",
        ["llama-3-8b", "tiny-bigram"],
        ["demo-large"],
    )
    rates = prices.load_rates(now=NOW)
    assert {
        key: (rate.input_microusd_per_mtok, rate.output_microusd_per_mtok)
        for key, rate in rates.rates.items()
    } == {
        ("demo-large", "demo-provider"): (2_500_000, 10_000_000),
        ("llama-3-8b", "demo-provider"): (200_000, 600_000),
    }


@pytest.mark.django_db(databases="__all__")
def test_second_start_changes_nothing(tmp_path, members):
    enter_fleet(members, now=NOW)
    before = catalogue.load_catalogue()

    again = enter_fleet(members, now=NOW)

    assert again == members
    assert catalogue.load_catalogue() == before
    assert ClusterSecret.objects.count() == 4


@pytest.mark.django_db(databases="__all__")
def test_moved_port_is_followed_and_edits_stay(tmp_path, members):
    enter_fleet(members, now=NOW)
    catalogue.put_cluster(name="aws-us-east-1", values={"region": "us-east-2", "in_flight_max": 3})
    moved = tuple(
        demo_fleet.Member(site=m.site, port=m.port + 1000, secret=m.secret, is_secret_new=False)
        for m in members
    )

    enter_fleet(moved, now=NOW)

    values = entered()["aws-us-east-1"].values
    assert (values["endpoint"], values["region"], values["in_flight_max"]) == (
        member_of(moved, "aws-us-east-1").endpoint,
        "us-east-2",
        3,
    )


@pytest.mark.django_db(databases="__all__")
def test_site_that_was_deleted_or_pointed_elsewhere_is_not_run(members):
    enter_fleet(members, now=NOW)
    delete_records(records=[Cluster.objects.get(name="azure-eastus")])
    catalogue.put_cluster(name="aws-us-east-1", values={"endpoint": "https://aws.llm.example.com"})

    running = enter_fleet(members, now=NOW)

    assert sorted(member.site.name for member in running) == [
        "demo-provider",
        "gcp-us-central1",
        "llama-local",
    ]
    assert entered()["aws-us-east-1"].values["endpoint"] == "https://aws.llm.example.com"
    assert "azure-eastus" not in entered()


@pytest.mark.django_db(databases="__all__")
def test_lost_secrets_file_gives_the_clusters_their_new_secrets(tmp_path, members):
    enter_fleet(members, now=NOW)
    (tmp_path / "demo-secrets.json").unlink()

    enter_fleet(plan_fleet(data_dir=tmp_path), now=NOW)

    # The old ones are retired, so that the new one signs.
    assert ClusterSecret.objects.filter(is_active=True).count() == 4
    assert ClusterSecret.objects.filter(is_active=False).count() == 4


def test_child_of_a_cloud_site_verifies_signatures(tmp_path, members):
    member = member_of(members, "aws-us-east-1")

    child = child_of(member, env={"PATH": "/bin"}, data_dir=tmp_path, stage=1)

    assert (child.name, child.stage, child.restart, child.is_essential) == (
        "demo-aws-us-east-1",
        1,
        True,
        False,
    )
    assert child.argv[0] == sys.executable
    assert list(child.argv[2:]) == [
        *("demo_cluster", "--host", "127.0.0.1", "--port", str(member.port)),
        *("--name", "aws-us-east-1", "--models", "llama-3-8b,demo-embed", "--kind", "vllm"),
        *("--tokens-per-s", "900", "--hmac-secret-env", "DEMO_HMAC_SECRET"),
    ]
    assert child.env == {"PATH": "/bin", "DEMO_HMAC_SECRET": member.secret}
    assert member.secret not in repr(child)


def test_child_of_the_real_llama_keeps_its_model_in_the_data_folder(tmp_path, members):
    member = member_of(members, "llama-local")

    child = child_of(member, env={}, data_dir=tmp_path, stage=1)

    assert list(child.argv[2:]) == [
        *("demo_llama", "--host", "127.0.0.1", "--port", str(member.port)),
        *("--model-path", f"{tmp_path}/demo/tiny-bigram.gguf", "--api-key", member.secret),
    ]
