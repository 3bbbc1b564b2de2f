"""The docs name what there is: each module, command, setting, metric and error code."""

import ast
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from gateway import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "clusters", "billing", "routing")
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            if "migrations" not in name and "management" not in name and not name.endswith("__init__"):
                yield pytest.param(name, id=name)


@pytest.mark.parametrize("name", list(modules()))
def test_architecture_names_the_module(name):
    package, _, rest = name.partition(".")
    section = ARCHITECTURE.split(f"### {package}\n", 1)[1].split("\n### ", 1)[0]

    assert re.search(rf"^\| `{re.escape(rest)}` \|", section, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(n for n, app in get_commands().items() if str(app) in PACKAGES))
def test_readme_names_the_command(name):
    assert f"`{name}" in README


def environment_names():
    tree = ast.parse((ROOT / "gateway/settings.py").read_text())
    helpers = {"_text", "_number", "_flag", "_secret"}
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in helpers
        if is_call and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


@pytest.mark.parametrize("name", sorted(set(environment_names())))
def test_readme_names_the_setting(name):
    assert f"| `{name}`" in README


def metric_names():
    tree = ast.parse((ROOT / "gateway/metrics.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "Counter":
                yield node.args[0].value + "_total"
            elif node.func.id in {"Gauge", "Histogram", "SnapshotGauge"}:
                yield node.args[0].value


@pytest.mark.parametrize("name", sorted(metric_names()))
def test_readme_names_the_metric(name):
    assert f"`{name}`" in README


def codes():
    classes = [errors.GatewayError]
    while classes:
        chosen = classes.pop()
        classes += chosen.__subclasses__()
        yield chosen.code


@pytest.mark.parametrize("code", sorted(set(codes())))
def test_readme_names_the_error_code(code):
    assert f"`{code}`" in README
