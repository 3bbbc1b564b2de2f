"""What a run of the benchmark is asked for: which parts, how long, how often, beside whom."""

from dataclasses import dataclass

PARTS = {
    "plain": "completions in a closed loop: CPU per request, requests a second",
    "latency": "at an even rate: what is added to the bare upstream's latency, plain and to the first token",
    "stream": "CPU per relayed chunk, paced and in bursts",
    "prompts": "prompts of 1 MiB beside copying and scanning as many bytes",
    "overload": "twice as many requests as can be served",
    "memory": "at rest, after load, and for each open idle stream",
    "soak": "memory over many requests (--soak)",
    "start": "from the start until it is ready",
    "growth": "CPU per request with more clusters and keys",
    "workers": "CPU per request with several processes on one port",
}
STREAMING_PARTS = ("stream", "memory")
DEFAULT_PARTS = tuple(part for part in PARTS if part != "soak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how often: `seconds` of each run, `rounds` of each part, `rate_per_s` of the open loop."""

    seconds: float = 4.0
    rounds: int = 3
    warm_up_s: float = 1.0
    connection_count: int = 32
    rate_per_s: float = 100.0
    idle_stream_count: int = 1000
    soak_count: int = 0
    worker_count: int = 2
    paced_chunk_count: int = 300
    paced_stream_count: int = 64
    burst_chunk_count: int = 500
    growth: tuple[tuple[int, int], ...] = ((10, 1), (100, 10), (1000, 100), (10, 10_000))


STANDARD = Plan()
QUICK = Plan(
    seconds=0.5,
    rounds=1,
    warm_up_s=0.2,
    connection_count=8,
    rate_per_s=50.0,
    idle_stream_count=50,
    paced_chunk_count=20,
    paced_stream_count=8,
    burst_chunk_count=100,
    growth=((10, 1), (20, 20)),
)
