"""Streams under load: what relaying a chunk costs where each wakes the relay, and where many come at once."""

from collections.abc import Sequence

from gateway.bench.plan import Plan
from gateway.bench.record import Record
from gateway.bench.scene import Scene
from gateway.bench.stub import Mode
from gateway.bench.target import Target

PACED_INTERVAL_MS = 10.0
BURST_CHUNKS = 20


def measure_streams(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    """The CPU of whole requests over their chunks; streams are long, so that their start weighs little."""
    paced = Mode(chunk_count=plan.paced_chunk_count, interval_ms=PACED_INTERVAL_MS)
    burst = Mode(chunk_count=plan.burst_chunk_count, burst_chunks=BURST_CHUNKS)
    record.begin(
        "stream",
        f"paced: {plan.paced_stream_count} streams of {paced.chunk_count} chunks, one each "
        f"{PACED_INTERVAL_MS:g} ms; bursts: {burst.chunk_count} chunks in writes of {BURST_CHUNKS}",
    )
    relays = [target for target in targets if target.running is not None and target.is_streaming]
    scene.set_mode(Mode())
    for target in relays:
        with record.forgiving("stream", target.name):
            scene.warm_up(target, is_stream=True)
    for _ in range(plan.rounds):
        for target in relays:
            with record.forgiving("stream", target.name):
                many = plan.paced_stream_count
                figures = {
                    ("CPU per paced chunk", "us"): _chunk_us(
                        scene, target, record, mode=paced, plan=plan, stream_count=many
                    ),
                    ("CPU per chunk in bursts", "us"): _chunk_us(
                        scene, target, record, mode=burst, plan=plan
                    ),
                }
                costs = tuple(name for name, _unit in figures)
                record.add(part="stream", target=target.name, figures=figures, costs=costs)
    scene.set_mode(Mode())


def _chunk_us(
    scene: Scene, target: Target, record: Record, *, mode: Mode, plan: Plan, stream_count: int | None = None
) -> float:
    """Microseconds of CPU per relayed chunk; where `stream_count` is given, of so many streams at once."""
    scene.set_mode(mode)
    reading = scene.closed(
        target,
        connection_count=stream_count or plan.connection_count,
        seconds=plan.seconds + mode.chunk_count * mode.interval_ms / 1000,
        request_count_max=stream_count,
        is_stream=True,
    )
    record.note_failures("stream", target.name, reading.sample)
    return reading.cpu_us_each(reading.sample.answered_count * mode.chunk_count)
