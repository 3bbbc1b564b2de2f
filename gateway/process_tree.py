"""The processes that `up` runs: how each is started, in which order they stop, and how long each may take."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gateway import metrics
from gateway.embedded_valkey import ValkeyPlan
from gateway.preflight import EXIT_CODE
from gateway.server import STARTUP_EXIT_CODE
from gateway.supervisor import ChildSpec

ROOT = Path(__file__).resolve().parent.parent
# Stopped from the highest: the web process first, whose open streams still need what is below it.
STAGE_VALKEY, STAGE_DEMO, STAGE_TASKS, STAGE_WEB = range(4)
STOP_GRACE_S = 10
# What the web process may take beyond its drain limit: error events, settling, closing.
WEB_CLOSING_S = 10
# Probes of clusters that do not answer hold one for up to five seconds each.
WORKER_THREADS = 6


def base_environment(*, environment: Mapping[str, str], data_dir: Path, redis_url: str) -> dict[str, str]:
    """The environment of every child, whatever folder `up` was called from."""
    search_path = [str(ROOT), environment.get("PYTHONPATH", "")]
    return {
        **environment,
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
        "GATEWAY_DATA_DIR": str(data_dir),
        "REDIS_URL": redis_url,
        "PYTHONPATH": ":".join(filter(None, search_path)),
        "PYTHONUNBUFFERED": "1",
    }


def valkey_child(plan: ValkeyPlan, *, env: Mapping[str, str]) -> ChildSpec:
    return ChildSpec(
        name="valkey",
        argv=plan.argv,
        env=env,
        stop_grace_s=STOP_GRACE_S,
        restart=True,
        stage=STAGE_VALKEY,
    )


def worker_child(*, env: Mapping[str, str], data_dir: Path) -> ChildSpec:
    """The worker, and beat in a fork of it: by itself it would take 90 MiB for a few messages a second."""
    # Alone on this broker: it need not look for other workers, which would take a second.
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    threads = ("--pool", "threads", "--concurrency", str(WORKER_THREADS))
    beat = ("--beat", "--schedule", str(data_dir / "celerybeat-schedule"))
    return _celery_child("worker", *threads, *alone, *beat, env=env)


def web_children(
    *, env: Mapping[str, str], host: str, port: int, drain_timeout_s: int, workers: int, data_dir: Path
) -> tuple[ChildSpec, ...]:
    """The web process, or as many as serve the port together, whose metrics then lie in one folder."""
    serve = (sys.executable, str(ROOT / "manage.py"), "serve", "--host", host, "--port", str(port))
    if workers == 1:
        return (_web_child("web", serve, env=env, drain_timeout_s=drain_timeout_s),)
    folder = data_dir / "metrics"
    shared = {**env, metrics.FOLDER_VARIABLE: str(folder), "GATEWAY_WORKERS": str(workers)}
    metrics.clear_folder(folder)
    return tuple(
        _web_child(
            f"web-{number}",
            (*serve, "--worker", str(number)),
            env=shared,
            drain_timeout_s=drain_timeout_s,
            on_end=partial(metrics.forget_process, folder),
        )
        for number in range(1, workers + 1)
    )


def _web_child(
    name: str,
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str],
    drain_timeout_s: int,
    on_end: Callable[[int], None] | None = None,
) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=argv,
        env=env,
        stop_grace_s=drain_timeout_s + WEB_CLOSING_S,
        restart=True,
        stage=STAGE_WEB,
        is_essential=True,
        fatal_exit_codes=frozenset({EXIT_CODE, STARTUP_EXIT_CODE}),
        on_end=on_end,
    )


def _celery_child(name: str, *options: str, env: Mapping[str, str]) -> ChildSpec:
    quiet = (sys.executable, "-m", "celery", "--quiet", "--app", "gateway.celery")
    return ChildSpec(
        name=name,
        argv=(*quiet, name, *options, "--loglevel", "WARNING"),
        # Celery asks root to confirm; what `up` may do, its worker may do.
        env={**env, "C_FORCE_ROOT": "1"},
        stop_grace_s=STOP_GRACE_S,
        restart=True,
        stage=STAGE_TASKS,
    )
