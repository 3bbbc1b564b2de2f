"""What a gateway takes for being there: memory at rest, per open stream and over time, and its start."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gateway.bench.plan import Plan
from gateway.bench.record import NAME, Record
from gateway.bench.scene import Scene
from gateway.bench.target import Target

MIB = 1024 * 1024
SETTLE_S = 1.0
SOAK_STEPS = 20
# The first steps fill caches and pools.
SOAK_SKIPPED_STEPS = 5
SLOPE_REQUESTS = 100_000


class Subject(Protocol):
    """Something to measure that can be started afresh."""

    name: str

    def started(self) -> AbstractContextManager[Target]:
        """A running target, ended when the block ends."""


def measure_start(subjects: Sequence[Subject], record: Record, plan: Plan) -> None:
    record.begin("start", "from the start of the process until its health answers 200")
    for _ in range(plan.rounds):
        for subject in subjects:
            with record.forgiving("start", subject.name), subject.started() as target:
                figures = {("start", "s"): target.ready_s}
                record.add(part="start", target=subject.name, figures=figures, costs=("start",))


def measure_memory(scene: Scene, subjects: Sequence[Subject], record: Record, plan: Plan) -> None:
    """PSS of whole process trees, each started for this; streams are opened on one that was warm."""
    count = plan.idle_stream_count
    record.begin("memory", f"proportional set size; per stream: {count} open, on which nothing comes")
    for _ in range(plan.rounds):
        for subject in subjects:
            with record.forgiving("memory", subject.name), subject.started() as target:
                figures = _memory(scene, target, plan)
                costs = ("at rest", "per idle stream")
                record.add(part="memory", target=subject.name, figures=figures, costs=costs)


def _memory(scene: Scene, target: Target, plan: Plan) -> dict[tuple[str, str], float]:
    assert target.running is not None
    count = plan.idle_stream_count
    time.sleep(SETTLE_S)
    rest_bytes = target.running.pss_bytes()
    scene.warm_up(target)
    figures = {}
    if target.is_streaming:
        scene.warm_up(target, is_stream=True)
        before_bytes, threads_before = target.running.pss_bytes(), target.running.thread_count()
        with scene.held_streams(target, count=count) as held_count:
            figures = {
                ("per idle stream", "KiB"): (target.running.pss_bytes() - before_bytes) / 1024 / held_count,
                ("streams", ""): held_count,
                ("threads for them", ""): target.running.thread_count() - threads_before,
            }
    scene.closed(target, connection_count=plan.connection_count, seconds=plan.seconds)
    after_bytes = target.running.pss_bytes()
    return {("at rest", "MiB"): rest_bytes / MIB, ("after load", "MiB"): after_bytes / MIB, **figures}


def measure_soak(scene: Scene, subject: Subject, record: Record, plan: Plan) -> None:
    """How memory grows over so many requests: the slope of a line through its course after the start."""
    record.begin("soak", f"{plan.soak_count:,} plain requests")
    step_count = max(1, plan.soak_count // SOAK_STEPS)
    with subject.started() as target:
        assert target.running is not None
        points = []
        for step in range(1, SOAK_STEPS + 1):
            scene.closed(
                target,
                connection_count=plan.connection_count,
                seconds=step_count,
                request_count_max=step_count,
            )
            points.append((step * step_count, target.running.pss_bytes()))
        points = points[SOAK_SKIPPED_STEPS:]
        record.add(
            part="soak",
            target=NAME,
            figures={
                ("growth per 100,000 requests", "KiB"): _slope(points) * SLOPE_REQUESTS / 1024,
                ("at the end", "MiB"): points[-1][1] / MIB,
            },
        )


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
