"""One run of the benchmark: starts what the parts need, runs the parts in turn, ends everything."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.bench import footprint, growth
from gateway.bench.completions import measure_plain
from gateway.bench.footprint import Subject
from gateway.bench.latency import measure_latency
from gateway.bench.overload import measure_overload
from gateway.bench.own_gateway import GatewayPlan, OwnGateway
from gateway.bench.peers import KINDS, Peer, version
from gateway.bench.plan import STREAMING_PARTS, Plan
from gateway.bench.postgres import Postgres
from gateway.bench.processes import BenchError
from gateway.bench.prompts import measure_prompts
from gateway.bench.record import NAME, Record
from gateway.bench.scene import Scene
from gateway.bench.streams import measure_streams

# These share running targets, so that one round of each is next to the others'.
LOAD_PARTS = {
    "plain": measure_plain,
    "latency": measure_latency,
    "stream": measure_streams,
    "prompts": measure_prompts,
    "overload": measure_overload,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the gateway is set up, and beside whom it is measured."""

    parts: Sequence[str]
    upstream: str = "stub"
    database: str = "sqlite"
    durability: str = ""
    has_valkey: bool = False
    peer_names: Sequence[str] = ()
    peers_dir: Path = field(default_factory=Path)


class Campaign:
    """`run` it once; what it measured is in the record, also where it was broken off."""

    def __init__(self, setting: Setting, *, plan: Plan, record: Record) -> None:
        self._setting = setting
        self._plan = plan
        self._record = record
        self.peer_versions: dict[str, str] = {}

    def run(self, scene: Scene) -> None:
        """Raises BenchError and LoadError where something cannot be measured at all."""
        setting, record = self._setting, self._record
        streaming = [part for part in setting.parts if part in STREAMING_PARTS]
        if streaming and not scene.is_streaming:
            raise BenchError(f"nginx answers plain requests only: leave {', '.join(streaming)} out of --only")
        if scene.cores.are_shared:
            record.note("one core only: load, upstream and what is measured share it, and rates with it")
        with contextlib.ExitStack() as stack:
            make = self._maker(scene, stack)
            beside_others = [part for part in setting.parts if part not in ("growth", "workers")]
            if beside_others:
                ours = make(GatewayPlan(has_valkey=setting.has_valkey))
                subjects: list[Subject] = [ours, *self._peers(scene)]
                for part in ("start", "memory", "soak"):
                    if part in beside_others:
                        self._measure_alone(part, scene, subjects)
                if chosen := [part for part in LOAD_PARTS if part in beside_others]:
                    self._measure_together(chosen, scene, subjects)
            if "growth" in setting.parts:
                sizes = [make(self._grown(clusters, keys)) for clusters, keys in self._plan.growth]
                growth.measure_growth(scene, sizes, record, self._plan, part="growth")
            if "workers" in setting.parts:
                counts = (1, self._plan.worker_count)
                sizes = [make(self._working(count)) for count in counts]
                growth.measure_growth(scene, sizes, record, self._plan, part="workers", worker_counts=counts)

    def _measure_alone(self, part: str, scene: Scene, subjects: Sequence[Subject]) -> None:
        if part == "start":
            footprint.measure_start(subjects, self._record, self._plan)
        elif part == "memory":
            footprint.measure_memory(scene, subjects, self._record, self._plan)
        else:
            footprint.measure_soak(scene, subjects[0], self._record, self._plan)

    def _measure_together(self, parts: Sequence[str], scene: Scene, subjects: Sequence[Subject]) -> None:
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(scene.direct())]
            for subject in subjects:
                with self._record.forgiving("start", subject.name):
                    targets.append(stack.enter_context(subject.started()))
            for part in parts:
                LOAD_PARTS[part](scene, targets, self._record, self._plan)

    def _maker(self, scene: Scene, stack: contextlib.ExitStack) -> "Callable[[GatewayPlan], OwnGateway]":
        """Gateways on the chosen database; a PostgreSQL is started once, and each has a database in it."""
        setting = self._setting
        if setting.database == "sqlite":
            level = setting.durability or "normal"
            env = {"GATEWAY_SQLITE_SYNCHRONOUS": level.upper()}
            self._record.note(f"the ledger is on SQLite, synchronous={level.upper()}")
            return lambda plan: OwnGateway(replace(plan, env=env), scene=scene)
        is_durable = setting.durability != "normal"
        postgres = stack.enter_context(
            Postgres.started(folder=scene.folder, cores=scene.cores, is_durable=is_durable)
        )
        level = "on" if is_durable else "off"
        self._record.note(
            f"the ledger is on PostgreSQL, fsync=on, synchronous_commit={level}; its CPU is not counted"
        )
        return lambda plan: OwnGateway(
            replace(plan, env={"DATABASE_URL": postgres.new_database()}, servers=(postgres.running,)),
            scene=scene,
        )

    def _peers(self, scene: Scene) -> list[Peer]:
        found = []
        for name in self._setting.peer_names:
            kind = KINDS[name]
            if not kind.find(self._setting.peers_dir):
                self._record.note(f"{name} is not installed here and was not measured")
                continue
            self.peer_versions[name] = version(kind, peers_dir=self._setting.peers_dir)
            if not kind.is_streaming:
                self._record.note(f"{name} {self.peer_versions[name]} answers no streams here: plain only")
            found.append(
                Peer(
                    kind,
                    peers_dir=self._setting.peers_dir,
                    folder=scene.folder,
                    upstream_port=scene.upstream_port,
                    cores=scene.cores,
                )
            )
        return found

    def _grown(self, cluster_count: int, key_count: int) -> GatewayPlan:
        name = f"{cluster_count:,} clusters, {key_count:,} keys"
        return GatewayPlan(
            name=name,
            cluster_count=cluster_count,
            key_count=key_count,
            has_valkey=self._setting.has_valkey,
        )

    def _working(self, worker_count: int) -> GatewayPlan:
        """With Valkey whatever was chosen: through it several processes keep one key's limits."""
        name = NAME if worker_count == 1 else f"{worker_count} workers"
        return GatewayPlan(name=name, worker_count=worker_count, has_valkey=True)
