import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections, models
from django.db.migrations.state import ModelState, ProjectState

from gateway import preflight
from gateway.preflight import PreflightError
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent


def refusal(call, *arguments, **named):
    with pytest.raises(PreflightError) as caught:
        call(*arguments, **named)
    return str(caught.value)


@pytest.mark.django_db(databases="__all__")
def test_start_is_allowed_where_nothing_is_in_the_way(tmp_path):
    data_dir = tmp_path / "new" / "var"

    preflight.check_start(data_dir=data_dir)
    preflight.check_port(host="127.0.0.1", port=free_port(), data_dir=data_dir)

    assert list(data_dir.iterdir()) == []


def test_old_python_is_named():
    assert refusal(preflight.check_python, (3, 10, 4)) == (
        "Python 3.10.4 is too old: install Python 3.11 or newer, then `make install`"
    )


def test_data_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "var").write_text("a file where the folder should be")

    assert refusal(preflight.check_data_dir, tmp_path / "var" / "data") == (
        f"the data folder {tmp_path}/var/data cannot be written (Not a directory): "
        "give this user the right to write there, or set GATEWAY_DATA_DIR to another folder"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_data_folder_of_another_user_is_named(tmp_path):
    tmp_path.chmod(0o500)

    assert "cannot be written (Permission denied)" in refusal(preflight.check_data_dir, tmp_path)


@pytest.mark.parametrize("master_key", ["", "x" * 16, "x" * 100])
def test_master_key_that_is_long_or_none_is_let_through(master_key):
    preflight.check_master_key(master_key, characters_min=16)


def test_short_master_key_is_refused_at_the_start(tmp_path, settings):
    settings.MASTER_KEY = "sk-1234"

    message = refusal(preflight.check_start, data_dir=tmp_path)

    assert message == (
        "GATEWAY_MASTER_KEY has 7 characters, fewer than 16: choose a long random one, such as that of "
        "`openssl rand -hex 32`, or leave it empty to turn it off"
    )


def test_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        assert refusal(preflight.check_port, host="127.0.0.1", port=port, data_dir=tmp_path) == (
            f"port {port} on 127.0.0.1 is taken: stop what holds it, or set GATEWAY_PORT"
        )


HOLDER = """
import sys, time
from pathlib import Path
from gateway import preflight
with preflight.held_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the data folder."""
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_taken_port_names_the_tollgate_that_may_hold_it(tmp_path, holder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        assert refusal(preflight.check_port, host="127.0.0.1", port=port, data_dir=tmp_path) == (
            f"port {port} on 127.0.0.1 is taken (by another Tollgate? its {tmp_path}/up.pid says "
            f"{holder.pid}): stop what holds it, or set GATEWAY_PORT"
        )


def test_process_id_of_the_dead_is_not_named(tmp_path):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as ended:
        ended.wait()
    (tmp_path / "up.pid").write_text(f"{ended.pid}\n")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        message = refusal(preflight.check_port, host="127.0.0.1", port=port, data_dir=tmp_path)

    assert message == f"port {port} on 127.0.0.1 is taken: stop what holds it, or set GATEWAY_PORT"


def test_port_that_this_user_may_not_have_is_named(tmp_path, monkeypatch):
    message = refusal(preflight.check_port, host="192.0.2.1", port=8000, data_dir=tmp_path)

    assert message.startswith("cannot listen on 192.0.2.1 port 8000 (")
    assert message.endswith("): set GATEWAY_HOST and GATEWAY_PORT")


def enter(data_dir):
    with preflight.held_data_dir(data_dir):
        assert (data_dir / "up.pid").read_text() == f"{os.getpid()}\n"


def test_second_up_on_a_data_folder_is_refused(tmp_path, holder):
    assert refusal(enter, tmp_path) == (
        f"`manage.py up` is running on {tmp_path} already (process {holder.pid}): stop it, or set "
        "GATEWAY_DATA_DIR and GATEWAY_PORT for a second one"
    )


def test_data_folder_is_free_again_when_its_holder_is_killed(tmp_path, holder):
    holder.kill()
    holder.wait()

    enter(tmp_path)

    assert not (tmp_path / "up.pid").exists()


@pytest.mark.django_db(databases="__all__")
def test_databases_that_answer_are_let_through():
    preflight.check_databases()


def test_database_file_that_is_none_is_named(tmp_path, monkeypatch):
    path = tmp_path / "tollgate.sqlite3"
    path.write_text("no database " * 200)
    connection = connections["default"]
    if connection.vendor != "sqlite":
        pytest.skip("SQLite's own")
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))

    assert refusal(preflight.check_databases) == (
        f"the database {path} cannot be used (file is not a database): "
        "start or repair it, or correct DATABASE_URL"
    )


def test_database_server_that_is_down_is_named(tmp_path):
    port = free_port()
    code = (
        "import django; django.setup()\n"
        "from gateway import preflight\n"
        "try:\n"
        "    preflight.check_databases()\n"
        "except preflight.PreflightError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {
        "DATABASE_URL": f"postgres://tollgate:hush@127.0.0.1:{port}/tollgate",
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
        "GATEWAY_DATA_DIR": str(tmp_path),
    }

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=True
    )

    assert result.stdout.startswith(f"the database tollgate at 127.0.0.1:{port} cannot be used (connection")
    assert result.stdout.endswith("): start or repair it, or correct DATABASE_URL\n")
    assert "hush" not in result.stdout


def test_models_are_what_the_migrations_make_of_them():
    preflight.check_model_changes()


def test_model_change_without_a_migration_is_named(monkeypatch):
    state = ProjectState.from_apps(preflight.apps)
    fields = {"id": models.BigAutoField(primary_key=True)}
    state.add_model(ModelState("billing", "Invented", fields=list(fields.items())))
    monkeypatch.setattr(preflight.ProjectState, "from_apps", lambda apps: state)

    assert refusal(preflight.check_model_changes) == (
        "models of billing have changed without a migration: run `manage.py makemigrations`"
    )


@pytest.mark.django_db(databases="__all__")
def test_migrated_databases_are_let_through():
    preflight.check_migrations()


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize(("alias", "option"), [("default", ""), ("ledger", " --database ledger")])
def test_unapplied_migrations_are_named(alias, option):
    if alias not in connections:
        pytest.skip("one database holds all")
    call_command("migrate", "billing", "zero", fake=True, verbosity=0, database=alias)
    names = preflight.unapplied_migrations(alias=alias)

    assert names[0] == "billing.0001_initial"
    assert refusal(preflight.check_migrations) == (
        f"migrations are not applied yet ({preflight._shortened(names)}): "
        f"run `manage.py migrate{option}` before the start"
    )


def test_many_names_are_shortened():
    assert preflight._shortened(list("abcdefgh")) == "a, b, c, d, e and 3 more"
