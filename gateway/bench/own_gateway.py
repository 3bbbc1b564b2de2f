"""The gateway that is measured: a data folder, a signed fleet, a key with limits and a budget of its own."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.bench.processes import HOST, BenchError, Cores, Running, free_port, pinned, wait_for_status
from gateway.bench.stub import MODEL
from gateway.bench.target import Target

ROOT = Path(__file__).resolve().parents[2]
MANAGE = (sys.executable, str(ROOT / "manage.py"))
SIGNING_VARIABLE = "BENCH_CLUSTER_SECRET"
START_TIMEOUT_S = 60
NAME = "tollgate"
# All of a key's limits are in force and none is reached.
LIMITS = ("--rpm", "100000000", "--tpm", "1000000000", "--concurrent", "100000")
BUDGET = ("--budget-usd", "100000000", "--hard")


CLUSTER = """\
  - name: cluster-{number}
    endpoint: http://127.0.0.1:{port}
    allowPrivateNetwork: true
    provider: bench
    region: region-{number}
    costPerHour: {cost:.6f}
    authType: hmac
    sharedSecret: {secret}
    backend: openai
    tokensPerSecond: 100000
    maxInFlight: 100000
    models: [{{name: {model}, contextWindow: 1000000, inputPerMTok: 0.15, outputPerMTok: 0.6}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What the gateway has: so many clusters and keys, so many processes; `env` goes before our own."""

    cluster_count: int = 10
    key_count: int = 1
    worker_count: int = 1
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class OwnGateway:
    """Prepared at once, started and stopped as often as wanted on the same data."""

    def __init__(self, plan: GatewayPlan, *, folder: Path, upstream_port: int, cores: Cores) -> None:
        self._plan = plan
        self._folder = folder
        self._cores = cores
        self._env = _environment(plan, folder=folder)
        self.keys: tuple[str, ...] = ()
        folder.mkdir(parents=True)
        with pinned(cores.subject | cores.load):
            for alias in _aliases(self._env):
                self._manage("migrate", "--database", alias, "--verbosity", "0")
            config = folder / "config.yaml"
            config.write_text(_configuration(plan.cluster_count, upstream_port=upstream_port))
            self._manage("import_config", str(config))
            issued = self._manage(
                "create_api_key", "--team", "bench", "--name", "bench", "--json", *LIMITS, *BUDGET
            )
            self.keys = (str(json.loads(issued)["key"]),)

    @contextlib.contextmanager
    def started(self) -> Iterator[Target]:
        """`manage.py serve` on a port of its own, once it says that it is ready; stopped at the end."""
        port = free_port()
        begun_s = time.monotonic()
        running = Running(
            [
                *MANAGE,
                "serve",
                "--host",
                HOST,
                "--port",
                str(port),
                "--workers",
                str(self._plan.worker_count),
            ],
            name=NAME,
            cores=self._cores.subject,
            log=self._folder / "serve.log",
            env=self._env,
            cwd=ROOT,
        )
        try:
            wait_for_status(running, port=port, path="/health/ready", timeout_s=START_TIMEOUT_S)
            ready_s = time.monotonic() - begun_s
            yield Target(name=NAME, port=port, model=MODEL, running=running, keys=self.keys, ready_s=ready_s)
        finally:
            running.stop()

    def _manage(self, *argv: str) -> str:
        done = subprocess.run(  # noqa: S603 -- our own command
            [*MANAGE, *argv], env=self._env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"manage.py {argv[0]} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout


def _environment(plan: GatewayPlan, *, folder: Path) -> dict[str, str]:
    """As on a machine where nothing was set, but for what the plan sets."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    for name in ("DATABASE_URL", "REDIS_URL", "DEBUG"):
        ours.pop(name, None)
    return {
        **ours,
        "GATEWAY_DATA_DIR": str(folder),
        "LOG_LEVEL": "WARNING",
        SIGNING_VARIABLE: secrets.token_urlsafe(32),
        **plan.env,
    }


def _aliases(env: Mapping[str, str]) -> tuple[str, ...]:
    """SQLite keeps the ledger in a database of its own."""
    return ("default",) if env.get("DATABASE_URL") else ("default", "ledger")


def _configuration(cluster_count: int, *, upstream_port: int) -> str:
    """Signed own clusters with prices; all of them are the one upstream, each with connections of its own."""
    clusters = "".join(
        CLUSTER.format(
            number=number,
            port=upstream_port,
            secret="${" + SIGNING_VARIABLE + "}",
            model=MODEL,
            cost=0.0928 + number / 1_000_000,
        )
        for number in range(1, cluster_count + 1)
    )
    return f"clusters:\n{clusters}"
