"""Plain completions in a closed loop: what one costs, and how many there are a second."""

from collections.abc import Sequence

from gateway.bench.load import percentile
from gateway.bench.plan import Plan
from gateway.bench.record import Record
from gateway.bench.scene import Reading, Scene
from gateway.bench.target import Target

CPU = ("CPU per request", "us")


def measure_plain(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    record.begin("plain", f"{plan.connection_count} connections that never rest, 1 KB answers")
    for target in targets:
        with record.forgiving("plain", target.name):
            scene.warm_up(target)
    for _ in range(plan.rounds):
        for target in targets:
            with record.forgiving("plain", target.name):
                reading = scene.closed(target, connection_count=plan.connection_count, seconds=plan.seconds)
                record.add(part="plain", target=target.name, figures=_plain(target, reading), costs=CPU[:1])
                record.note_failures("plain", target.name, reading.sample)


def _plain(target: Target, reading: Reading) -> dict[tuple[str, str], float]:
    sample = reading.sample
    count = max(sample.answered_count, 1)
    figures = {
        ("requests", "/s"): sample.per_s,
        ("p50", "ms"): percentile(sample.latencies_s, 50) * 1e3,
        ("p99", "ms"): percentile(sample.latencies_s, 99) * 1e3,
    }
    if target.running is None:
        # The limits of the harness itself.
        return figures | {
            ("upstream's own CPU", "us"): reading.upstream_cpu_s / count * 1e6,
            ("load's own CPU", "us"): reading.load_cpu_s / count * 1e6,
        }
    if target.servers:
        figures["its servers' CPU", "us"] = reading.servers_cpu_s / count * 1e6
    return {CPU: reading.cpu_us_each(), **figures}
