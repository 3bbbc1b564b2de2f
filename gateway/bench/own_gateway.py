"""The gateway that is measured: a data folder, a signed fleet, keys with limits and budgets of its own."""

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

from gateway.bench.processes import HOST, BenchError, Running, free_port, pinned, wait_for_status
from gateway.bench.record import NAME
from gateway.bench.scene import Scene
from gateway.bench.stub import MODEL
from gateway.bench.target import Target
from gateway.embedded_valkey import plan_server

ROOT = Path(__file__).resolve().parents[2]
MANAGE = (sys.executable, str(ROOT / "manage.py"))
SIGNING_VARIABLE = "BENCH_CLUSTER_SECRET"
START_TIMEOUT_S = 120
# Held streams are silent for longer than a caller would wait.
IDLE_TIMEOUT_S = 600
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
    """What the gateway has: so many clusters, keys and processes; `env` goes before our own.

    `servers` are those that `env` leads to. With `has_valkey` the processes share limits through the
    embedded Valkey, as under `up`.
    """

    name: str = NAME
    cluster_count: int = 10
    key_count: int = 1
    worker_count: int = 1
    has_valkey: bool = False
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    servers: tuple[Running, ...] = ()


class OwnGateway:
    """Prepared at once; started and stopped as often as wanted, on the same data."""

    def __init__(self, plan: GatewayPlan, *, scene: Scene) -> None:
        self.name = plan.name
        self._plan = plan
        self._cores = scene.cores
        self._interruption = scene.interruption
        self._folder = scene.folder / f"gateway-{secrets.token_hex(4)}"
        self._folder.mkdir()
        self._env = _environment(plan, folder=self._folder)
        self._keys = self._prepare(upstream_port=scene.upstream_port)

    @contextlib.contextmanager
    def started(self) -> Iterator[Target]:
        """`manage.py serve` on a port of its own, once it says that it is ready; stopped at the end."""
        self._interruption.check()
        with self._valkey() as (env, servers):
            port = free_port()
            begun_s = time.monotonic()
            running = Running(
                [*MANAGE, "serve", "--host", HOST, "--port", str(port)],
                name=self.name,
                cores=self._cores.subject,
                log=self._folder / "serve.log",
                env={**env, "GATEWAY_WORKERS": str(self._plan.worker_count)},
                cwd=ROOT,
            )
            try:
                wait_for_status(running, port=port, path="/health/ready", timeout_s=START_TIMEOUT_S)
                ready_s = time.monotonic() - begun_s
                yield Target(
                    name=self.name,
                    port=port,
                    model=MODEL,
                    running=running,
                    keys=self._keys,
                    ready_s=ready_s,
                    servers=servers,
                )
            finally:
                running.stop()

    @contextlib.contextmanager
    def _valkey(self) -> Iterator[tuple[Mapping[str, str], tuple[Running, ...]]]:
        if not self._plan.has_valkey:
            yield self._env, self._plan.servers
            return
        plan = plan_server(data_dir=self._folder)
        log = self._folder / "valkey.log"
        valkey = Running(plan.argv, name="valkey", cores=self._cores.load, log=log)
        try:
            yield {**self._env, "REDIS_URL": plan.url}, (*self._plan.servers, valkey)
        finally:
            valkey.stop()

    def _prepare(self, *, upstream_port: int) -> tuple[str, ...]:
        """The databases, the fleet and the keys, in a process of its own; the keys."""
        configuration = self._folder / "config.yaml"
        configuration.write_text(
            fleet_configuration(cluster_count=self._plan.cluster_count, upstream_port=upstream_port)
        )
        seed = ("--seed", str(configuration), "--seed-keys", str(self._plan.key_count))
        with pinned(self._cores.subject | self._cores.load):
            done = subprocess.run(  # noqa: S603 -- our own command
                [*MANAGE, "bench", *seed],
                env=self._env,
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise BenchError(f"the gateway's data cannot be prepared: {done.stderr.strip()[-2000:]}")
        return tuple(json.loads(done.stdout))


def _environment(plan: GatewayPlan, *, folder: Path) -> dict[str, str]:
    """As on a machine where nothing was set, but for what the plan sets."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    for name in ("DATABASE_URL", "REDIS_URL", "DEBUG"):
        ours.pop(name, None)
    return {
        **ours,
        "GATEWAY_DATA_DIR": str(folder),
        "GATEWAY_IDLE_TIMEOUT_S": str(IDLE_TIMEOUT_S),
        "LOG_LEVEL": "WARNING",
        SIGNING_VARIABLE: secrets.token_urlsafe(32),
        **plan.env,
    }


def fleet_configuration(*, cluster_count: int, upstream_port: int) -> str:
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
