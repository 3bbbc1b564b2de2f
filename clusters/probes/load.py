"""Reads load and speed from a backend's Prometheus metrics, by the names of its old and new versions."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# A counter that moves less than this apart tells nothing about speed.
GAP_S_MIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricNames:
    """A backend's series for each quantity: of several names the first that is there counts."""

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    generated: tuple[str, ...]
    tokens_per_s: tuple[str, ...] = ()
    ttft: tuple[str, ...] = ()  # a histogram, in seconds


METRIC_NAMES: Mapping[str, MetricNames] = {
    "vllm": MetricNames(
        waiting=("vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason"),
        running=("vllm:num_requests_running",),
        generated=("vllm:generation_tokens_total",),
        tokens_per_s=("vllm:avg_generation_throughput_toks_per_s",),
        ttft=("vllm:time_to_first_token_seconds",),
    ),
    "sglang": MetricNames(
        waiting=("sglang:num_queue_reqs",),
        running=("sglang:num_running_reqs",),
        generated=("sglang:generation_tokens_total",),
        tokens_per_s=("sglang:gen_throughput",),
        ttft=("sglang:time_to_first_token_seconds",),
    ),
    "llamacpp": MetricNames(
        waiting=("llamacpp:requests_deferred",),
        running=("llamacpp:requests_processing",),
        generated=("llamacpp:tokens_predicted_total",),
        tokens_per_s=("llamacpp:predicted_tokens_seconds",),
    ),
    "tgi": MetricNames(
        waiting=("tgi_queue_size",),
        running=("tgi_batch_current_size",),
        generated=("tgi_request_generated_tokens_sum",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One scrape, summed over engines and models. `None`: the backend does not say, or says nonsense."""

    queue_depth: int | None
    running_count: int | None
    generated_tokens_total: int | None
    gauge_tokens_per_s: int | None
    ttft_s_sum: float | None
    ttft_count: int | None


def read_load(*, backend: str, text: str) -> Load | None:
    """The load in a scrape; None where the text is not in Prometheus' form."""
    names = METRIC_NAMES[backend]
    sums: dict[str, float] = defaultdict(float)
    try:
        for family in text_string_to_metric_families(_wanted(text, names=names)):
            for sample in family.samples:
                sums[sample.name] += sample.value
    except (ValueError, IndexError, KeyError):
        return None
    ttft = names.ttft[0] if names.ttft else ""
    return Load(
        queue_depth=_first(sums, names.waiting),
        running_count=_first(sums, names.running),
        generated_tokens_total=_first(sums, names.generated),
        gauge_tokens_per_s=_first(sums, names.tokens_per_s),
        ttft_s_sum=sums.get(f"{ttft}_sum"),
        ttft_count=_first(sums, (f"{ttft}_count",)),
    )


def measured_tokens_per_s(*, before: Load, after: Load, gap_s: float) -> int | None:
    """Output tokens per second while busy: the counter's growth or the gauge, whichever is more.

    None while idle: an idle cluster's throughput says nothing about its speed.
    """
    if not after.running_count and not before.running_count:
        return None
    rates = [after.gauge_tokens_per_s or 0]
    if (
        before.generated_tokens_total is not None
        and after.generated_tokens_total is not None
        and gap_s >= GAP_S_MIN
    ):
        rates.append(round((after.generated_tokens_total - before.generated_tokens_total) / gap_s))
    # No growth in so short a time is no speed either; a counter that fell was reset.
    return max(rates) if max(rates) > 0 else None


def mean_ttft_ms(*, before: Load, after: Load) -> int | None:
    """The mean time to first token of the requests that got theirs between two scrapes."""
    if before.ttft_count is None or after.ttft_count is None:
        return None
    if before.ttft_s_sum is None or after.ttft_s_sum is None:
        return None
    count = after.ttft_count - before.ttft_count
    seconds = after.ttft_s_sum - before.ttft_s_sum
    return round(1000 * seconds / count) if count > 0 and seconds >= 0 else None


def _wanted(text: str, *, names: MetricNames) -> str:
    """The lines with the series that are read: of a real page one in fifty, and parsing is what costs.

    The whole text where there is none: whether it is a page of metrics at all is for the parser to say.
    """
    ttft = tuple(f"{name}{part}" for name in names.ttft for part in ("_sum", "_count"))
    prefixes = (*names.waiting, *names.running, *names.generated, *names.tokens_per_s, *ttft)
    return "\n".join(line for line in text.splitlines() if line.startswith(prefixes)) or text


def _first(sums: Mapping[str, float], names: tuple[str, ...]) -> int | None:
    """A whole number that is no number, or a negative one, is unknown, not zero."""
    for name in names:
        value = sums.get(name)
        if value is not None:
            return round(value) if math.isfinite(value) and value >= 0 else None
    return None
