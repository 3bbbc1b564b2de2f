from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from clusters.models import Cluster
from tests.gateway.configuration.files import CANARY_KEY, CANARY_SECRET, ENVIRONMENT, REFERENCE

pytestmark = pytest.mark.django_db


@pytest.fixture
def reference_file(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "reference.yaml"
    path.write_text(REFERENCE)
    return path


def run(*arguments):
    out, errors = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=errors)
    return out.getvalue(), errors.getvalue()


def test_import_config_says_what_changed_then_no_changes(reference_file):
    first, warnings = run("import_config", str(reference_file))
    second, _ = run("import_config", str(reference_file))

    assert first.splitlines()[-1] == "11 changes made"
    assert second == "no changes\n"
    assert warnings.startswith(f"warning: {reference_file}:38:12: routes[0].model: no cluster serves")
    assert CANARY_SECRET not in first + warnings
    assert CANARY_KEY not in first + warnings


def test_import_config_dry_run_writes_nothing(reference_file):
    out, _ = run("import_config", str(reference_file), "--dry-run")

    assert out.splitlines()[-1] == "11 changes, not made: this was a dry run"
    assert not Cluster.objects.exists()


def test_import_config_ends_with_every_problem(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("servers: {}\nrouter: {maxLatencyMs: soon}\n")

    with pytest.raises(CommandError) as caught:
        run("import_config", str(path))

    assert str(caught.value).splitlines() == [
        (
            f'{path}:1:1: servers: found the unknown key "servers"; write one of server, router, clusters, '
            "externalProviders, routes (did you mean server?)"
        ),
        f'{path}:2:24: router.maxLatencyMs: found "soon"; write a whole number from 1 to 2147483647',
        "nothing was imported",
    ]


def test_export_config_writes_a_file_that_imports_without_changes(reference_file, tmp_path):
    run("import_config", str(reference_file))
    output = tmp_path / "out.yaml"

    printed, _ = run("export_config")
    silent, _ = run("export_config", "--output", str(output))

    assert silent == ""
    assert output.read_text() == printed
    assert CANARY_SECRET not in printed
    assert run("import_config", str(output))[0] == "no changes\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.yaml", "reference.yaml"]


def test_export_config_says_where_it_cannot_write(tmp_path):
    with pytest.raises(CommandError) as caught:
        run("export_config", "--output", str(tmp_path / "none" / "out.yaml"))

    assert str(caught.value) == (
        f"cannot write {tmp_path}/none/out.yaml (No such file or directory): name another --output"
    )
