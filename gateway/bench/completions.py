"""Plain completions under load: a closed loop, an even rate, large prompts, and more than can be served."""

import time
from collections.abc import Sequence

import msgspec
import orjson

from gateway.bench.connection import BROKEN
from gateway.bench.load import percentile
from gateway.bench.plan import Plan
from gateway.bench.record import NAME, Record
from gateway.bench.scene import DIRECT, Reading, Scene
from gateway.bench.stub import Mode
from gateway.bench.target import Target

CPU = ("CPU per request", "us")
PROMPT_BYTES = 1024 * 1024
PROMPT_CONNECTIONS = 4
# An even rate is only put on who can serve so many times as much.
RESERVE = 1.5
LATENCY_SECONDS_MIN_FACTOR = 2
# What streams are at an even rate: as many tokens as a short answer has, quicker than it would be.
SHORT_STREAM = Mode(chunk_count=10, interval_ms=5)
OVERLOAD_FACTOR = 2.0
UNLOADED_SHARE = 0.1
REFUSALS = (429, 503)


def measure_plain(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    record.begin("plain", f"{plan.connection_count} connections that never rest, 1 KB answers")
    for target in targets:
        scene.warm_up(target)
    for _ in range(plan.rounds):
        for target in targets:
            reading = scene.closed(target, connection_count=plan.connection_count, seconds=plan.seconds)
            record.add(part="plain", target=target.name, figures=_plain(target, reading), costs=(CPU[0],))
            _note_failures(record, "plain", target, reading)


def _plain(target: Target, reading: Reading) -> dict[tuple[str, str], float]:
    sample = reading.sample
    count = max(sample.answered_count, 1)
    figures = {
        ("requests", "/s"): sample.per_s,
        ("p50", "ms"): percentile(sample.latencies_s, 50) * 1e3,
        ("p99", "ms"): percentile(sample.latencies_s, 99) * 1e3,
    }
    if target.servers:
        figures["its servers' CPU", "us"] = reading.servers_cpu_s / count * 1e6
    if target.running is not None:
        return {CPU: reading.cpu_us_each(), **figures}
    # The limits of the harness itself.
    return figures | {
        ("upstream's own CPU", "us"): reading.upstream_cpu_s / count * 1e6,
        ("load's own CPU", "us"): reading.load_cpu_s / count * 1e6,
    }


def measure_latency(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    """Added: the target's percentile less that of the bare upstream in the same round."""
    record.begin(
        "latency", f"{plan.rate_per_s:g} requests/s at even distances, counted from when each was due"
    )
    rates = {target.name: _bearable_rate(scene, target, record, plan) for target in targets}
    kinds = ((False, ""), (True, "first token ")) if scene.is_streaming else ((False, ""),)
    for is_stream, kind in kinds:
        if is_stream:
            scene.set_mode(SHORT_STREAM)
        for _ in range(plan.rounds):
            bare: dict[int, float] = {}
            for target in targets:
                reading = scene.open(
                    target,
                    per_s=rates[target.name],
                    seconds=plan.seconds * LATENCY_SECONDS_MIN_FACTOR,
                    is_stream=is_stream,
                )
                seen = reading.sample.first_bytes_s if is_stream else reading.sample.latencies_s
                times_ms = {percent: percentile(seen, percent) * 1e3 for percent in (50, 99)}
                bare = bare or times_ms
                figures = {(f"{kind}p{percent}", "ms"): value for percent, value in times_ms.items()}
                if target.name != DIRECT:
                    figures |= {
                        (f"{kind}p{percent} added", "ms"): value - bare[percent]
                        for percent, value in times_ms.items()
                    }
                costs = (f"{kind}p50 added", f"{kind}p99 added")
                record.add(part="latency", target=target.name, figures=figures, costs=costs)
                _note_failures(record, "latency", target, reading)


def _bearable_rate(scene: Scene, target: Target, record: Record, plan: Plan) -> float:
    peak_per_s = scene.warm_up(target).sample.per_s
    if peak_per_s >= RESERVE * plan.rate_per_s:
        return plan.rate_per_s
    rate_per_s = max(1.0, peak_per_s / 3)
    record.note(
        f"latency: {target.name} serves {peak_per_s:.0f}/s, so it was asked {rate_per_s:.0f} times a second"
    )
    return rate_per_s


def measure_prompts(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    """What a large body costs beyond a small one, in CPU of the target."""
    record.begin("prompts", f"1 MiB bodies on {PROMPT_CONNECTIONS} connections; extra: less a small request")
    prompt = "hello world " * (PROMPT_BYTES // 12)
    for _ in range(plan.rounds):
        yardstick = _yardstick(prompt)
        record.add(part="prompts", target="yardstick", figures=yardstick)
        for target in targets:
            large = target.chat(prompt=prompt)
            small = scene.closed(target, connection_count=PROMPT_CONNECTIONS, seconds=plan.seconds / 2)
            reading = scene.closed(
                target, connection_count=PROMPT_CONNECTIONS, seconds=plan.seconds, requests=large
            )
            _note_failures(record, "prompts", target, reading)
            if target.running is None or not reading.sample.answered_count:
                continue
            extra_us = reading.cpu_us_each() - small.cpu_us_each()
            figures = {CPU: reading.cpu_us_each(), ("extra CPU", "us"): extra_us}
            if target.name == NAME:
                figures["extra CPU of the yardstick", "x"] = extra_us / yardstick["2 copies and a scan", "us"]
            record.add(part="prompts", target=target.name, figures=figures, costs=("extra CPU",))


class _Body(msgspec.Struct):
    """As much of a request as routing looks at; the messages are only scanned."""

    model: str
    messages: msgspec.Raw


def _yardstick(prompt: str) -> dict[tuple[str, str], float]:
    """The least of many: a copy of the body, and one scan of it as JSON, in microseconds."""
    body = orjson.dumps({"model": "bench", "messages": [{"role": "user", "content": prompt}]})
    decoder = msgspec.json.Decoder(_Body)
    copy_s = scan_s = float("inf")
    for _ in range(50):
        begun_s = time.perf_counter()
        bytearray(body)
        copied_s = time.perf_counter()
        decoder.decode(body)
        copy_s = min(copy_s, copied_s - begun_s)
        scan_s = min(scan_s, time.perf_counter() - copied_s)
    return {
        ("copy", "us"): copy_s * 1e6,
        ("scan", "us"): scan_s * 1e6,
        ("2 copies and a scan", "us"): (2 * copy_s + scan_s) * 1e6,
    }


def measure_overload(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    """Ours alone: what is served at twice the peak, how late, and how quickly the rest is refused."""
    record.begin("overload", f"{OVERLOAD_FACTOR:g} times what a closed loop reaches, at even distances")
    target = next(target for target in targets if target.name == NAME)
    for _ in range(plan.rounds):
        peak = scene.closed(target, connection_count=4 * plan.connection_count, seconds=plan.seconds).sample
        calm = scene.open(target, per_s=max(1, UNLOADED_SHARE * peak.per_s), seconds=plan.seconds).sample
        loaded = scene.open(target, per_s=OVERLOAD_FACTOR * peak.per_s, seconds=plan.seconds).sample
        calm_p99_s = percentile(calm.latencies_s, 99)
        unexpected = {
            status: count for status, count in loaded.statuses.items() if status not in (200, *REFUSALS)
        }
        if unexpected:
            record.note(f"overload: unexpected answers by status (0: none): {unexpected}")
        record.add(
            part="overload",
            target=target.name,
            figures={
                ("peak", "/s"): peak.per_s,
                ("goodput of the peak", "%"): 100 * loaded.per_s / peak.per_s,
                ("p99 unloaded", "ms"): calm_p99_s * 1e3,
                ("p99 of the served", "ms"): percentile(loaded.latencies_s, 99) * 1e3,
                ("p99 of the refusals", "ms"): percentile(loaded.refusals_s, 99) * 1e3,
                ("refused", "%"): 100
                * sum(loaded.statuses.get(status, 0) for status in REFUSALS)
                / sum(loaded.statuses.values()),
            },
        )


def _note_failures(record: Record, part: str, target: Target, reading: Reading) -> None:
    failed = {status: count for status, count in reading.sample.statuses.items() if status != 200}
    if failed:
        named = ", ".join(f"{count} x {status or 'no answer'}" for status, count in failed.items())
        record.note(f"{part}: {target.name} failed {reading.sample.failed_count} requests ({named})")


assert BROKEN not in REFUSALS
