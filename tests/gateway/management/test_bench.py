"""`manage.py bench` as it is called: a short run, and its refusals."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway.bench.plan import DEFAULT_PARTS, PARTS, STANDARD
from gateway.bench.processes import tree
from gateway.management.commands.bench import chosen, default_peers_dir

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = {
    "only": None,
    "quick": False,
    "soak": None,
    "seconds": None,
    "rounds": None,
    "connections": None,
    "rate": None,
    "streams": None,
    "workers": None,
    "upstream": "stub",
    "database": "sqlite",
    "durability": "",
    "valkey": False,
    "peers": None,
    "peers_dir": None,
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A quick run of everything that one can be about, with its files."""
    folder = tmp_path_factory.mktemp("bench")
    files = {name: folder / f"bench.{name}" for name in ("json", "markdown", "plot")}
    options = [f"--{name}={path}" for name, path in files.items()]
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    env["TMPDIR"] = str(folder)
    done = subprocess.run(
        [
            sys.executable,
            "manage.py",
            "bench",
            "--quick",
            "--peers",
            "litellm",
            "--peers-dir",
            str(folder),
            *options,
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, files, folder


def processes_that_name(folder):
    """By their environment: whatever the run started had its temporary folder there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trial_measures_the_gateway_beside_its_bare_upstream(trial):
    _, files, _ = trial
    document = json.loads(files["json"].read_text())

    medians = {
        (figure["part"], figure["target"], figure["name"]): figure["median"] for figure in document["figures"]
    }
    assert {target for _, target, _ in medians} == {"direct", "tollgate"}
    assert {part for part, _, _ in medians} == {"plain", "latency", "first token", "stream", "memory"}
    assert medians["plain", "direct", "requests"] > medians["plain", "tollgate", "requests"] > 0
    assert (
        0
        < medians["stream", "tollgate", "CPU per chunk in bursts"]
        < medians["plain", "tollgate", "CPU per request"]
    )
    assert 20 < medians["memory", "tollgate", "at rest"] < 500
    assert document["machine"]["python"] == sys.version.split()[0]
    assert document["notes"] == [
        "the ledger is on SQLite, synchronous=NORMAL",
        "litellm is not installed here and was not measured",
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_open_streams_take_no_threads(trial):
    """A thread for each was what the usual handler cost."""
    _, files, _ = trial
    figures = json.loads(files["json"].read_text())["figures"]

    most = {figure["name"]: figure["most"] for figure in figures if figure["part"] == "memory"}

    assert most["streams"] == 50
    assert most["threads for them"] <= 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trial_writes_its_tables_and_leaves_nothing(trial):
    done, files, folder = trial

    assert "| tollgate |" in files["markdown"].read_text()
    assert ET.fromstring(files["plot"].read_text()).tag.endswith("svg")
    assert "\nplain     " in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.markdown", "bench.plot"]
    assert processes_that_name(folder) == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--only=plain,speed", "'speed' is not one of plain, latency"),
        ("--peers=envoy", "'envoy' is not one of nginx, haproxy"),
        ("--rounds=0", "'0' is no number above 0"),
        ("--seconds=-1", "'-1' is no number above 0 and below 100,000"),
        ("--upstream=apache", "invalid choice: 'apache'"),
    ],
)
def test_senseless_options_are_refused(option, words):
    with pytest.raises(CommandError, match=words):
        call_command("bench", option)


def test_soak_without_a_number_is_refused():
    with pytest.raises(CommandError, match="the part soak needs a number: --soak 1000000"):
        call_command("bench", "--only=soak")


def test_all_parts_but_soak_are_measured_unless_chosen():
    setting, plan = chosen(OPTIONS)

    assert (tuple(setting.parts), plan) == (DEFAULT_PARTS, STANDARD)
    assert set(PARTS) - set(DEFAULT_PARTS) == {"soak"}


def test_numbers_go_before_the_plan_and_soak_is_a_part():
    setting, plan = chosen({**OPTIONS, "quick": True, "rounds": 7, "soak": 1000, "only": ("plain",)})

    assert (setting.parts, plan.rounds, plan.soak_count, plan.connection_count) == (
        ["plain", "soak"],
        7,
        1000,
        8,
    )


def test_peers_live_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert default_peers_dir() == tmp_path / "tollgate-bench"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_broken_off_it_ends_what_it_started(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "manage.py", "bench", "--only=plain", "--seconds=60"]
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.startswith(b"plain:"):
                break
        started = tree(process.pid)[1:]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (130, b"CommandError: broken off; what was started has ended\n")
    assert len(started) >= 2
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []
