"""What a request costs as the installation grows: more clusters, more keys, more processes on one port."""

import contextlib
from collections.abc import Sequence

from gateway.bench.completions import CPU
from gateway.bench.footprint import Subject
from gateway.bench.plan import Plan
from gateway.bench.record import Record
from gateway.bench.scene import Scene


def measure_growth(
    scene: Scene,
    subjects: Sequence[Subject],
    record: Record,
    plan: Plan,
    *,
    part: str,
    worker_counts: Sequence[int] | None = None,
) -> None:
    """All of them at once, in turns; each round's figure over that of the first subject in it.

    Each worker process has the plan's connections, so that all have as much to do.
    """
    record.begin(part, "; ".join(subject.name for subject in subjects))
    counts = [plan.connection_count * workers for workers in worker_counts or [1] * len(subjects)]
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(subject.started()) for subject in subjects]
        for target in targets:
            scene.warm_up(target)
        for _ in range(plan.rounds):
            first_us = 0.0
            for target, subject, connection_count in zip(targets, subjects, counts, strict=True):
                # Each key at least once, so that none is new in what is measured.
                scene.closed(
                    target,
                    connection_count=connection_count,
                    seconds=plan.seconds,
                    request_count_max=len(target.keys),
                )
                reading = scene.closed(target, connection_count=connection_count, seconds=plan.seconds)
                cpu_us = reading.cpu_us_each()
                first_us = first_us or cpu_us
                record.add(
                    part=part,
                    target=subject.name,
                    figures={
                        CPU: cpu_us,
                        ("of the first", "x"): cpu_us / first_us,
                        ("requests", "/s"): reading.sample.per_s,
                    },
                )
                record.note_failures(part, subject.name, reading.sample)
