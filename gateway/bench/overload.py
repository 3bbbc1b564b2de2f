"""More requests than can be served: what still is, how late, and how quickly the rest is refused."""

from collections.abc import Sequence

from gateway.bench.load import percentile
from gateway.bench.plan import Plan
from gateway.bench.record import NAME, Record
from gateway.bench.scene import Scene
from gateway.bench.target import Target

PART = "overload"
FACTOR = 2.0
CALM_SHARE = 0.1
REFUSALS = (429, 503)


def measure_overload(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    """Ours alone; the peak is what a closed loop reaches in the same round, too small to be refused."""
    record.begin(PART, f"{FACTOR:g} times what a closed loop reaches, at even distances")
    target = next(target for target in targets if target.name == NAME)
    for _ in range(plan.rounds):
        peak = scene.closed(target, connection_count=plan.connection_count, seconds=plan.seconds).sample
        calm = scene.open(target, per_s=max(1, CALM_SHARE * peak.per_s), seconds=plan.seconds).sample
        loaded = scene.open(target, per_s=FACTOR * peak.per_s, seconds=plan.seconds).sample
        refused_count = sum(loaded.statuses.get(status, 0) for status in REFUSALS)
        if loaded.failed_count > refused_count:
            record.note_failures(PART, NAME, loaded)
        record.add(
            part=PART,
            target=NAME,
            figures={
                ("peak", "/s"): peak.per_s,
                ("goodput of the peak", "%"): 100 * loaded.per_s / peak.per_s,
                ("p99 unloaded", "ms"): percentile(calm.latencies_s, 99) * 1e3,
                ("p99 of the served", "ms"): percentile(loaded.latencies_s, 99) * 1e3,
                ("p99 of the refusals", "ms"): percentile(loaded.refusals_s, 99) * 1e3,
                ("refused", "%"): 100 * refused_count / sum(loaded.statuses.values()),
            },
        )
