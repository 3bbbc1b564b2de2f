import sys

from gateway import process_tree
from gateway.embedded_valkey import ValkeyPlan

ROOT = process_tree.ROOT
ENV = {"A": "1"}


def web_children(data_dir, *, workers=1):
    return process_tree.web_children(
        env=ENV, host="127.0.0.1", port=8000, drain_timeout_s=30, workers=workers, data_dir=data_dir
    )


def test_environment_works_from_any_folder(tmp_path):
    env = process_tree.base_environment(
        environment={"PATH": "/bin", "PYTHONPATH": "/mine", "REDIS_URL": ""},
        data_dir=tmp_path,
        redis_url="unix:///x?db=0",
    )

    assert env == {
        "PATH": "/bin",
        "PYTHONPATH": f"{ROOT}:/mine",
        "REDIS_URL": "unix:///x?db=0",
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
        "GATEWAY_DATA_DIR": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
    }


def test_web_stops_before_the_rest_and_valkey_after_it(tmp_path):
    plan = ValkeyPlan(argv=("valkey-server",), url="unix:///x?db=0")
    children = [
        process_tree.valkey_child(plan, env=ENV),
        process_tree.worker_child(env=ENV, data_dir=tmp_path),
        *web_children(tmp_path),
    ]

    assert [(child.name, child.stage) for child in children] == [
        ("valkey", 0),
        ("worker", 2),
        ("web", 3),
    ]


def test_web_may_drain_and_its_refusal_to_start_ends_all(tmp_path):
    (web,) = web_children(tmp_path)

    assert web.argv == (sys.executable, f"{ROOT}/manage.py", "serve", "--host", "127.0.0.1", "--port", "8000")
    assert web.stop_grace_s == 40
    assert (web.is_essential, web.fatal_exit_codes) == (True, frozenset({2, 3}))


def test_worker_runs_on_threads_also_for_root_and_beat_in_a_fork_of_it(tmp_path):
    worker = process_tree.worker_child(env=ENV, data_dir=tmp_path)

    assert worker.argv[:6] == (sys.executable, "-m", "celery", "--quiet", "--app", "gateway.celery")
    assert worker.argv[6:11] == ("worker", "--pool", "threads", "--concurrency", "6")
    at = worker.argv.index("--beat")
    assert worker.argv[at : at + 3] == ("--beat", "--schedule", f"{tmp_path}/celerybeat-schedule")
    assert worker.env == {"A": "1", "C_FORCE_ROOT": "1"}


def test_workers_share_the_port_and_a_folder_of_metrics(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_1.db").touch()
    children = web_children(tmp_path, workers=2)

    assert [(child.name, child.argv[-2:]) for child in children] == [
        ("web-1", ("--worker", "1")),
        ("web-2", ("--worker", "2")),
    ]
    assert [child.env for child in children] == [
        {"A": "1", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "GATEWAY_WORKERS": "2"}
    ] * 2
    assert list((tmp_path / "metrics").iterdir()) == []


def test_gauges_of_a_worker_that_ended_go_and_its_counters_stay(tmp_path):
    child, _ = web_children(tmp_path, workers=2)
    for name in ("gauge_livesum_7.db", "gauge_livesum_8.db", "counter_7.db"):
        (tmp_path / "metrics" / name).touch()
    child.on_end(7)

    left = sorted(path.name for path in (tmp_path / "metrics").iterdir())
    assert left == ["counter_7.db", "gauge_livesum_8.db"]
