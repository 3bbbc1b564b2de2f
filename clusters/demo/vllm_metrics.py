"""vLLM's Prometheus metrics, under their real names, in a registry of each stand-in's own."""

from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

METRICS_MEDIA = CONTENT_TYPE_PLAIN_0_0_4
LABELS = ("model_name", "engine")
ENGINE = "0"
# vLLM names a cancelled request "abort"; a tool call ends with "stop" there.
FINISHED_REASONS = ("stop", "length", "abort")
# vLLM's own buckets, but for the longest.
TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)
INTER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
REQUEST_BUCKETS_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120)


class VllmMetrics:
    def __init__(self, *, models: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        self._running = self._gauge("vllm:num_requests_running", "Requests in a slot.")
        self._waiting = self._gauge("vllm:num_requests_waiting", "Requests in the queue.")
        self._kv_cache = self._gauge("vllm:kv_cache_usage_perc", "KV cache usage, 1 is full.")
        self._prompt = self._counter("vllm:prompt_tokens", "Prefill tokens processed.")
        self._generation = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._cache_queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up.")
        self._cache_hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found cached.")
        self._success = Counter(
            "vllm:request_success",
            "Requests ended.",
            (*LABELS, "finished_reason"),
            registry=self._registry,
        )
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", TTFT_BUCKETS_S)
        self._gap = self._histogram("vllm:inter_token_latency_seconds", INTER_TOKEN_BUCKETS_S)
        self._latency = self._histogram("vllm:e2e_request_latency_seconds", REQUEST_BUCKETS_S)
        self._queue_time = self._histogram("vllm:request_queue_time_seconds", REQUEST_BUCKETS_S)
        self._models = tuple(models)
        self._create_series()

    def count_prompt(self, *, model: str, tokens: int, cached_tokens: int, queue_s: float) -> None:
        self._prompt.labels(model, ENGINE).inc(tokens)
        self._cache_queries.labels(model, ENGINE).inc(tokens)
        self._cache_hits.labels(model, ENGINE).inc(cached_tokens)
        self._queue_time.labels(model, ENGINE).observe(queue_s)

    def count_first_tokens(self, *, model: str, tokens: int, ttft_s: float) -> None:
        self._generation.labels(model, ENGINE).inc(tokens)
        self._ttft.labels(model, ENGINE).observe(ttft_s)

    def count_tokens(self, *, model: str, tokens: int, passed_s: float) -> None:
        """Count tokens that came together, `passed_s` after those before."""
        self._generation.labels(model, ENGINE).inc(tokens)
        gap = self._gap.labels(model, ENGINE)
        for _ in range(tokens):
            gap.observe(passed_s / tokens)

    def count_end(self, *, model: str, finish_reason: str, latency_s: float) -> None:
        reason = finish_reason if finish_reason in FINISHED_REASONS else "stop"
        self._success.labels(model, ENGINE, reason).inc()
        self._latency.labels(model, ENGINE).observe(latency_s)

    def render(self, *, running: Iterable[str], waiting: Iterable[str], kv_cache_usage: float) -> bytes:
        """The text of /metrics; `running` and `waiting` name a model for each request."""
        running_models, waiting_models = list(running), list(waiting)
        for model in self._models:
            self._running.labels(model, ENGINE).set(running_models.count(model))
            self._waiting.labels(model, ENGINE).set(waiting_models.count(model))
            self._kv_cache.labels(model, ENGINE).set(kv_cache_usage)
        return generate_latest(self._registry)

    def _create_series(self) -> None:
        """All series exist from the start, for each model, as vLLM's do."""
        plain = (self._prompt, self._generation, self._cache_queries, self._cache_hits)
        timed = (self._ttft, self._gap, self._latency, self._queue_time)
        for model in self._models:
            for metric in (*plain, *timed):
                metric.labels(model, ENGINE)
            for reason in FINISHED_REASONS:
                self._success.labels(model, ENGINE, reason)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, LABELS, registry=self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, LABELS, registry=self._registry)

    def _histogram(self, name: str, buckets_s: tuple[float, ...]) -> Histogram:
        text = "Histogram, in seconds."
        return Histogram(name, text, LABELS, buckets=buckets_s, registry=self._registry)
