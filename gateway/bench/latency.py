"""What a target adds to the bare upstream's latency at an even rate, plain and to a stream's first token."""

from collections.abc import Sequence

from gateway.bench.load import percentile
from gateway.bench.plan import Plan
from gateway.bench.record import DIRECT, Record
from gateway.bench.scene import Reading, Scene
from gateway.bench.stub import Mode
from gateway.bench.target import Target

PART = "latency"
# In the tables a part of its own.
STREAM_PART = "first token"
PERCENTS = (50, 99)
# An even rate is only put on who can serve so many times as much; others get a share of what they can.
RESERVE = 1.5
SLOW_SHARE = 1 / 3
# Runs are longer than elsewhere, so that there are some requests beyond the 99th percentile.
SECONDS_FACTOR = 3
# As many tokens as a short answer has, quicker than it would be.
SHORT_STREAM = Mode(chunk_count=10, interval_ms=5)


def measure_latency(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    record.begin(PART, f"{plan.rate_per_s:g} requests/s at even distances, counted from when each was due")
    rates: dict[str, float] = {}
    for target in targets:
        with record.forgiving(PART, target.name):
            rates[target.name] = _bearable_rate(scene, target, record, plan)
    measured = [target for target in targets if target.name in rates]
    for is_stream in (False, True) if scene.is_streaming else (False,):
        if is_stream:
            record.begin(STREAM_PART, f"streams of {SHORT_STREAM.chunk_count} chunks, at the same rate")
            scene.set_mode(SHORT_STREAM)
        for _ in range(plan.rounds):
            bare_ms: dict[int, float] = {}
            for target in measured:
                if is_stream and not target.is_streaming:
                    continue
                with record.forgiving(PART, target.name):
                    reading = scene.open(
                        target,
                        per_s=rates[target.name],
                        seconds=plan.seconds * SECONDS_FACTOR,
                        is_stream=is_stream,
                    )
                    times_ms = _percentiles_ms(reading, is_stream=is_stream)
                    bare_ms = times_ms if target.name == DIRECT else bare_ms
                    _add(record, target, times_ms=times_ms, bare_ms=bare_ms, is_stream=is_stream)
                    record.note_failures(PART, target.name, reading.sample)


def _bearable_rate(scene: Scene, target: Target, record: Record, plan: Plan) -> float:
    peak_per_s = scene.warm_up(target).sample.per_s
    if peak_per_s >= RESERVE * plan.rate_per_s:
        return plan.rate_per_s
    rate_per_s = max(1.0, SLOW_SHARE * peak_per_s)
    words = f"{target.name} serves {peak_per_s:.0f}/s, so it was asked {rate_per_s:.0f} times a second"
    record.note(f"{PART}: {words}")
    return rate_per_s


def _percentiles_ms(reading: Reading, *, is_stream: bool) -> dict[int, float]:
    seen = reading.sample.first_bytes_s if is_stream else reading.sample.latencies_s
    return {percent: percentile(seen, percent) * 1e3 for percent in PERCENTS}


def _add(
    record: Record,
    target: Target,
    *,
    times_ms: dict[int, float],
    bare_ms: dict[int, float],
    is_stream: bool,
) -> None:
    """Added: the target's percentile less that of the bare upstream in the same round."""
    figures = {(f"p{percent}", "ms"): value for percent, value in times_ms.items()}
    added = {
        (f"p{percent} added", "ms"): times_ms[percent] - bare_ms[percent]
        for percent in PERCENTS
        if target.name != DIRECT
    }
    costs = tuple(name for name, _unit in added)
    part = STREAM_PART if is_stream else PART
    record.add(part=part, target=target.name, figures=figures | added, costs=costs)
