import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway import embedded_valkey
from gateway.embedded_valkey import EmbeddedValkeyError, is_answering, plan_server
from gateway.supervisor import ChildSpec, Supervisor

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def short_dir():
    """A data folder whose socket's path is short enough, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def running(plan):
    with subprocess.Popen(plan.argv, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_answering(plan.url))
            yield process
        finally:
            process.terminate()


def wait_for(condition, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def test_server_answers_on_a_socket_that_only_its_user_may_open(short_dir):
    plan = plan_server(data_dir=short_dir)

    with running(plan):
        path = short_dir / "valkey.sock"

        assert plan.url == f"unix://{path}?db=0"
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        with redis.Redis.from_url(plan.url) as client:
            assert client.config_get("port") == {"port": "0"}


def test_celery_reaches_the_server_by_the_url_that_settings_make(short_dir):
    plan = plan_server(data_dir=short_dir)

    with running(plan):
        broker = plan.url.replace("unix://", "redis+socket://", 1)
        app = Celery("test", broker=broker, set_as_current=False)
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            connection.SimpleQueue("letters").put("hello")
            message = connection.SimpleQueue("letters").get(timeout=5)

        assert message.payload == "hello"


def test_values_outlive_a_restart(short_dir):
    with running(plan_server(data_dir=short_dir)) as process:
        with redis.Redis(unix_socket_path=str(short_dir / "valkey.sock")) as client:
            client.set("kept", "yes")
        process.terminate()
        process.wait()

    with (
        running(plan_server(data_dir=short_dir)),
        redis.Redis(unix_socket_path=str(short_dir / "valkey.sock")) as client,
    ):
        assert client.get("kept") == b"yes"
        assert client.config_get("save") == {"save": "60 1"}


def test_stale_socket_is_removed(short_dir):
    with running(plan_server(data_dir=short_dir)) as process:
        process.kill()
        process.wait()
    path = short_dir / "valkey.sock"
    assert path.is_socket()

    plan = plan_server(data_dir=short_dir)

    assert not path.exists()
    with running(plan):
        assert path.is_socket()


def test_live_server_on_the_socket_is_left_alone(short_dir):
    plan = plan_server(data_dir=short_dir)

    with running(plan):
        with pytest.raises(EmbeddedValkeyError) as caught:
            plan_server(data_dir=short_dir)

        assert str(caught.value) == (
            f"another Valkey answers on {short_dir}/valkey.sock: "
            "stop the other `manage.py up`, or set GATEWAY_DATA_DIR"
        )
        assert is_answering(plan.url)


def test_long_data_folder_gets_a_private_socket_elsewhere(tmp_path, short_dir, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))
    data_dir = tmp_path / ("deep" * 30)

    plan = plan_server(data_dir=data_dir)

    path = Path(plan.url.removeprefix("unix://").removesuffix("?db=0"))
    assert path.parent.parent == short_dir
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with running(plan):
        assert path.is_socket()
        with redis.Redis.from_url(plan.url) as client:
            assert client.config_get("dir") == {"dir": str(data_dir)}


def test_longest_socket_path_of_the_data_folder_is_still_used(short_dir):
    name_bytes = embedded_valkey.SOCKET_PATH_BYTES_MAX - len(os.fsencode(short_dir / "x" / "valkey.sock")) + 1
    data_dir = short_dir / ("y" * name_bytes)

    plan = plan_server(data_dir=data_dir)

    assert plan.url == f"unix://{data_dir}/valkey.sock?db=0"
    with running(plan):
        assert (data_dir / "valkey.sock").is_socket()


def test_no_short_path_anywhere_means_a_port_with_a_password(tmp_path, monkeypatch):
    data_dir = tmp_path / ("deep" * 30)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("deeper" * 20)))

    plan = plan_server(data_dir=data_dir)

    with running(plan):
        port = int(plan.url.rpartition(":")[2].partition("/")[0])
        stranger = redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    assert stat.S_IMODE((data_dir / "valkey.conf").stat().st_mode) == 0o600
    password = plan.url.removeprefix("redis://:").partition("@")[0]
    assert password not in " ".join(plan.argv)
    assert password not in repr(plan)


def test_strangers_folder_is_not_used_for_the_socket(tmp_path, short_dir, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))
    data_dir = tmp_path / ("deep" * 30)
    first = plan_server(data_dir=data_dir)
    folder = Path(first.url.removeprefix("unix://").removesuffix("?db=0")).parent
    folder.chmod(0o755)

    second = plan_server(data_dir=data_dir)

    assert second.url.startswith("redis://:")


def test_unknown_machine_is_told_to_set_redis_url(short_dir, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Plan9")

    with pytest.raises(EmbeddedValkeyError, match=r"plan9.*: run one yourself and set REDIS_URL"):
        plan_server(data_dir=short_dir)


def test_nobody_on_the_socket_is_no_answer(short_dir):
    assert not is_answering(f"unix://{short_dir}/valkey.sock?db=0")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(short_dir / "valkey.sock"))
        assert not is_answering(f"unix://{short_dir}/valkey.sock?db=0")


PARENT = """
import os, sys
from pathlib import Path
from gateway.embedded_valkey import is_answering, plan_server
from gateway.supervisor import ChildSpec, Supervisor

data_dir = Path(sys.argv[1])
with Supervisor(log_dir=data_dir / "logs", say=print) as supervisor:
    plan = plan_server(data_dir=data_dir)
    env = dict(os.environ)
    supervisor.start(ChildSpec(name="valkey", argv=plan.argv, env=env, stop_grace_s=5, restart=True))
    supervisor.wait_until(lambda: is_answering(plan.url), timeout_s=10)
    print(plan.url, flush=True)
    supervisor.watch()
"""


def test_killed_parent_takes_the_server_with_it(short_dir):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(short_dir)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        url = parent.stdout.readline().strip()
        assert is_answering(url)

        parent.kill()

    wait_for(lambda: not is_answering(url))


def test_fallen_server_comes_back_on_the_same_url(short_dir):
    said = []
    with Supervisor(log_dir=short_dir / "logs", say=said.append) as supervisor:
        plan = plan_server(data_dir=short_dir)
        supervisor.start(
            ChildSpec(name="valkey", argv=plan.argv, env=dict(os.environ), stop_grace_s=5, restart=True)
        )
        assert supervisor.wait_until(lambda: is_answering(plan.url), timeout_s=10)

        os.kill(supervisor.group_of("valkey"), signal.SIGKILL)

        assert supervisor.wait_until(lambda: said and is_answering(plan.url), timeout_s=10)
