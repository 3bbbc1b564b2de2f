"""What a prompt of 1 MiB costs beyond a small one, beside copying and scanning as many bytes."""

import time
from collections.abc import Sequence

import msgspec
import orjson

from gateway.bench.completions import CPU
from gateway.bench.plan import Plan
from gateway.bench.record import NAME, Record
from gateway.bench.scene import Scene
from gateway.bench.target import Target

PART = "prompts"
PROMPT_BYTES = 1024 * 1024
CONNECTIONS = 4
YARDSTICK_RUNS = 50
YARDSTICK = ("2 copies and a scan", "us")


class _Body(msgspec.Struct):
    """As much of a request as routing looks at; the messages are only scanned."""

    model: str
    messages: msgspec.Raw


def measure_prompts(scene: Scene, targets: Sequence[Target], record: Record, plan: Plan) -> None:
    record.begin(PART, f"1 MiB bodies on {CONNECTIONS} connections; extra: less what a small request costs")
    words = "hello world "
    prompt = words * (PROMPT_BYTES // len(words))
    for _ in range(plan.rounds):
        yardstick = _yardstick(prompt)
        record.add(part=PART, target="yardstick", figures=yardstick)
        for target in targets:
            if target.running is not None:
                with record.forgiving(PART, target.name):
                    _measure(scene, target, record, plan, prompt=prompt, yardstick_us=yardstick[YARDSTICK])


def _measure(
    scene: Scene, target: Target, record: Record, plan: Plan, *, prompt: str, yardstick_us: float
) -> None:
    small = scene.closed(target, connection_count=CONNECTIONS, seconds=plan.seconds / 2)
    large = scene.closed(
        target, connection_count=CONNECTIONS, seconds=plan.seconds, requests=target.chat(prompt=prompt)
    )
    record.note_failures(PART, target.name, large.sample)
    if not large.sample.answered_count:
        return
    extra_us = large.cpu_us_each() - small.cpu_us_each()
    figures = {CPU: large.cpu_us_each(), ("extra CPU", "us"): extra_us}
    if target.name == NAME:
        figures["extra CPU of the yardstick", "x"] = extra_us / yardstick_us
    record.add(part=PART, target=target.name, figures=figures, costs=("extra CPU",))


def _yardstick(prompt: str) -> dict[tuple[str, str], float]:
    """The least of many: a copy of the body, and one scan of it as JSON."""
    body = orjson.dumps({"model": "bench", "messages": [{"role": "user", "content": prompt}]})
    decoder = msgspec.json.Decoder(_Body)
    copy_s = scan_s = float("inf")
    for _ in range(YARDSTICK_RUNS):
        begun_s = time.perf_counter()
        bytearray(body)
        copied_s = time.perf_counter()
        decoder.decode(body)
        copy_s = min(copy_s, copied_s - begun_s)
        scan_s = min(scan_s, time.perf_counter() - copied_s)
    return {
        ("copy", "us"): copy_s * 1e6,
        ("scan", "us"): scan_s * 1e6,
        YARDSTICK: (2 * copy_s + scan_s) * 1e6,
    }
