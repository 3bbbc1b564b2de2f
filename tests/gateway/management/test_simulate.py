"""The command that plays the benchmark."""

import gzip
import json
from io import StringIO
from xml.etree import ElementTree as ET

import pytest
from django.core.management import CommandError, call_command

from gateway.management.commands.simulate import TRACES
from routing.baselines import BASELINES
from routing.policies import POLICIES


def simulate(*arguments):
    output = StringIO()
    call_command("simulate", *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def suite(tmp_path):
    """A folder like the built-in one: one scenario, the first five minutes of its trace."""
    document = json.loads((TRACES / "fleets.json").read_text())
    document["scenarios"] = document["scenarios"][:1]
    scenario = document["scenarios"][0]
    with gzip.open(TRACES / scenario["trace"], "rt") as source:
        lines = source.readlines()[:400]
    with gzip.open(tmp_path / scenario["trace"], "wt") as target:
        target.writelines(lines)
    (tmp_path / "fleets.json").write_text(json.dumps(document))
    return tmp_path


def test_simulate_prints_each_scenario_and_the_geomean(suite):
    lines = simulate("--suite", str(suite), "--policy", "marginal").splitlines()

    assert lines[0].startswith("F1_azure_conv_2023_0.7     marginal")
    assert lines[1].startswith("geomean of total / LP bound")
    assert len(lines) == 2


def test_simulate_json_has_every_figure(suite):
    document = json.loads(simulate("--suite", str(suite), "--policy", "all", "--json"))

    first = document["scenarios"][0]
    assert set(first) >= {"name", "policy", "total_usd", "lp_ratio", "perfect_ratio", "slo_percent"}
    parts = ("metered_usd", "autoscaled_usd", "penalty_usd", "committed_usd")
    assert first["total_usd"] == pytest.approx(sum(first[part] for part in parts))
    assert set(document["geomean_lp_ratio"]) == {scenario["policy"] for scenario in document["scenarios"]}
    assert set(document["geomean_lp_ratio"]) == {*POLICIES, *BASELINES, "perfect-information"}
    ratios = document["geomean_lp_ratio"]
    assert ratios["perfect-information"] <= ratios["marginal"] * 1.001
    assert all(scenario["perfect_ratio"] is not None for scenario in document["scenarios"])


def test_simulate_draws_each_result(suite, tmp_path):
    path = tmp_path / "plot.svg"
    simulate("--suite", str(suite), "--policy", "marginal", "--policy", "least-busy", "--plot", str(path))

    root = ET.parse(path).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in {"marginal", "least-busy"}] == ["marginal", "least-busy"]
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2


def test_simulate_refuses_a_plot_that_cannot_be_written(suite):
    with pytest.raises(CommandError, match="cannot write the plot"):
        simulate("--suite", str(suite), "--policy", "marginal", "--plot", "/nowhere/plot.svg")


def test_simulate_plays_several_processes(suite):
    one, four = (
        json.loads(simulate("--suite", str(suite), "--policy", "marginal", "--json", f"--processes={count}"))
        for count in (1, 4)
    )

    totals = [played["scenarios"][0]["total_usd"] for played in (one, four)]
    assert totals[1] == pytest.approx(totals[0], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best"], "there is no policy 'best'"),
        (["--scenario", "F9"], "there is no scenario 'F9'"),
        (["--suite", "/nowhere"], "cannot read /nowhere/fleets.json"),
    ],
)
def test_simulate_refuses_what_is_not_there(arguments, message):
    with pytest.raises(CommandError, match=message):
        simulate(*arguments)


def test_simulate_refuses_a_suite_that_lacks_parts(tmp_path):
    (tmp_path / "fleets.json").write_text("{}")

    with pytest.raises(CommandError, match="lacks profiles, fleets"):
        simulate("--suite", str(tmp_path))
