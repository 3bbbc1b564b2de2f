"""How clusters and providers behave in a simulation: continuous batching, cold starts, outages, rate limits.

An engine's iteration takes c0 + c1 * batch + c2 * prefilled tokens seconds, fluid between events; the
coefficients are fitted to splitwise-sim's measurements. Time is seconds from the start, chance is handed in.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, exp, inf
from typing import Any, Protocol

EPSILON = 1e-7
PACE_TAU_S = 1.0
SCALE_INTERVAL_S = 15.0
TRIES_MAX = 4
RETRY_S, RETRY_LIMITED_S = 0.2, 0.1
TTFT_S_PER_PROMPT_TOKEN = 3e-5
TPOT_SIGMA = 0.25


class Chance(Protocol):
    """What random.Random has of it."""

    def random(self) -> float: ...

    def gauss(self, mu: float, sigma: float) -> float: ...


@dataclass(slots=True)
class Job:
    """One request of a trace and what became of it."""

    number: int
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_objective_s: float
    tpot_objective_s: float
    site: int = -1
    tries: int = 0
    sent_s: float = 0.0
    first_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    cost_usd: float = 0.0
    is_met: bool = False
    failure: str = ""
    note: Any = None  # the router's own


class Router(Protocol):
    """Who decides. Called as things happen, with the seconds of the simulation."""

    def pick(self, job: Job, now_s: float) -> int | None: ...

    def on_dispatch(self, job: Job, site: "Site", now_s: float) -> None: ...

    def on_first(self, job: Job, site: "Site", now_s: float) -> None: ...

    def on_done(self, job: Job, site: "Site", now_s: float) -> None: ...

    def on_error(self, job: Job, site: "Site", now_s: float, kind: str) -> None: ...

    def on_pace(self, site: "Site", pace_s: float, now_s: float) -> None: ...

    def on_poll(self, now_s: float) -> None: ...

    def replicas_wanted(self, site: "Site", now_s: float) -> int: ...


class Engine:
    """One replica: a FIFO of prompts, prefilled one by one between the decode steps of a batch."""

    __slots__ = (
        "batch", "busy_s", "c0", "c1", "c2", "chunk", "decoding", "head", "head_at", "is_draining", "is_up",
        "iteration_s", "jobs", "kv_tokens", "kv_used", "max_seqs", "pace_s", "steps", "synced_s", "up_at_s",
        "version", "waiting",
    )  # fmt: skip

    def __init__(self, profile: Mapping[str, float], *, now_s: float, up_at_s: float) -> None:
        self.c0, self.c1, self.c2 = profile["c0"], profile["c1"], profile["c2"]
        self.chunk, self.max_seqs, self.kv_tokens = (
            profile["chunk"],
            profile["max_seqs"],
            profile["kv_tokens"],
        )
        self.steps, self.synced_s, self.up_at_s = 0.0, now_s, up_at_s
        self.batch = self.kv_used = self.jobs = self.version = 0
        self.iteration_s = self.pace_s = self.c0
        self.busy_s = 0.0
        self.waiting: deque[Job] = deque()
        self.head: Job | None = None
        self.head_at = 0.0
        self.decoding: list[tuple[float, int, Job]] = []
        self.is_draining, self.is_up = False, True

    def sync(self, now_s: float) -> None:
        """Let the time pass up to now."""
        passed_s = now_s - self.synced_s
        if passed_s <= 0:
            return
        decay = exp(-passed_s / PACE_TAU_S)
        is_busy = bool(self.batch) or self.head is not None
        if is_busy:
            self.steps += passed_s / self.iteration_s
            self.busy_s += passed_s
        self.pace_s = self.pace_s * decay + (self.iteration_s if is_busy else self.c0) * (1 - decay)
        self.synced_s = now_s

    def next_event_s(self, now_s: float) -> float | None:
        """Begin the next prefill where there is room; when something will happen next."""
        if self.head is None and self.waiting and now_s >= self.up_at_s:
            job = self.waiting[0]
            needed = job.prompt_tokens + job.output_tokens
            if self.batch < self.max_seqs and (self.kv_used + needed <= self.kv_tokens or self.batch == 0):
                self.waiting.popleft()
                self.head, self.kv_used = job, self.kv_used + needed
                self.head_at = self.steps + max(job.prompt_tokens, 1) / self.chunk
        prefill_s = self.c2 * self.chunk if self.head is not None else 0.0
        self.iteration_s = self.c0 + self.c1 * self.batch + prefill_s
        self.version += 1
        at = self.head_at if self.head is not None else inf
        if self.decoding:
            at = min(at, self.decoding[0][0])
        if at < inf:
            return now_s + max(0.0, at - self.steps) * self.iteration_s
        return self.up_at_s if self.waiting and now_s < self.up_at_s else None

    def advance(self, now_s: float) -> tuple[Job | None, list[Job]]:
        """What is there now: a prompt's first token, and answers that ended."""
        self.sync(now_s)
        first, done = None, []
        if self.head is not None and self.head_at <= self.steps + EPSILON:
            first, self.head = self.head, None
            if first.output_tokens <= 1:
                done.append(first)
            else:
                self.batch += 1
                heapq.heappush(self.decoding, (self.steps + first.output_tokens - 1, first.number, first))
        while self.decoding and self.decoding[0][0] <= self.steps + EPSILON:
            done.append(heapq.heappop(self.decoding)[2])
            self.batch -= 1
        for job in done:
            self.kv_used -= job.prompt_tokens + job.output_tokens
            self.jobs -= 1
        return first, done

    def lose_all(self) -> list[Job]:
        lost = [*self.waiting, *([self.head] if self.head else []), *(entry[2] for entry in self.decoding)]
        self.waiting.clear()
        self.decoding.clear()
        self.head = None
        self.batch = self.kv_used = self.jobs = 0
        self.version += 1
        return lost


class Site:
    """A cluster or a provider. `kind`: committed | auto | external, as in fleets.json."""

    def __init__(
        self, number: int, given: Mapping[str, Any], profiles: Mapping[str, Any], chance: Chance
    ) -> None:
        self.number, self.name, self.kind, self.given = number, str(given["name"]), str(given["kind"]), given
        self.chance, self.rtt_s = chance, float(given.get("rtt", 0.03))
        self.is_up, self.in_flight, self.job_count = True, 0, 0
        self.spent_usd, self.tokens = 0.0, 0
        self.engines: list[Engine] = []
        self.pending: deque[Job] = deque()
        self.wake_count, self.billed_at_s, self.replica_s = 0, 0.0, 0.0
        self.wanted: deque[tuple[float, int]] = deque()
        # What a poll would tell, and what is needed to tell it.
        self.latencies_ms: deque[float] = deque(maxlen=400)
        self.polled: dict[str, float] = {}
        self.tokens_polled = 0
        if self.kind == "external":
            self.rpm, self.tpm = float(given.get("rpm", 1e9)), float(given.get("tpm", 1e12))
            self.requests_left, self.tokens_left, self.filled_at_s = self.rpm, self.tpm, 0.0
            return
        self.profile, self.usd_per_hour = profiles[given["profile"]], float(given["usd_per_hour"])
        is_committed = self.kind == "committed"
        count = int(given.get("replicas", 1) if is_committed else given.get("min_replicas", 0))
        self.engines = [Engine(self.profile, now_s=0.0, up_at_s=0.0) for _ in range(count)]
        self.replicas_max = int(given.get("max_replicas", count))

    @property
    def queue_depth(self) -> int:
        return sum(len(engine.waiting) + (engine.head is not None) for engine in self.engines)

    def running_engines(self, now_s: float) -> int:
        return sum(1 for e in self.engines if e.is_up and not e.is_draining and e.up_at_s <= now_s)

    def price_usd(self, job: Job) -> float:
        per_input, per_output = self.given["usd_per_mtok_in"], self.given["usd_per_mtok_out"]
        return float(per_input * job.prompt_tokens + per_output * job.output_tokens) * 1e-6

    def bill(self, now_s: float) -> None:
        """An autoscaled site's replicas cost from their order on, cold start included."""
        self.replica_s += (now_s - self.billed_at_s) * len(self.engines)
        self.billed_at_s = now_s
        self.spent_usd = self.replica_s * self.usd_per_hour / 3600

    def place(self, job: Job) -> Engine | None:
        """The engine with the fewest jobs that is up, else the one that will be up first."""
        usable = [e for e in self.engines if e.is_up and not e.is_draining]
        return min(usable, key=lambda e: (e.up_at_s > job.sent_s, _place_key(e, job.sent_s)), default=None)


def _place_key(engine: Engine, now_s: float) -> tuple[float, int]:
    return (engine.jobs, 0) if engine.up_at_s <= now_s else (engine.up_at_s, engine.jobs)


@dataclass(slots=True)
class Simulation:
    """Plays jobs against sites under a router; `run` once. `poll_s`: how often the router sees polls."""

    jobs: list[Job]
    sites: list[Site]
    router: Router
    poll_s: float = 30.0
    now_s: float = 0.0
    _heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    _count: int = 0
    _left: int = 0

    @property
    def ends_s(self) -> float:
        return self.jobs[-1].arrived_s

    def run(self) -> None:
        self._left = len(self.jobs)
        for site in self.sites:
            for from_s, to_s in site.given.get("outages", ()):
                self._at(from_s, self._go_down, site)
                self._at(to_s, self._come_up, site)
        self._at(0.0, self._poll)
        self._at(0.0, self._scale)
        for job in self.jobs:
            self._at(job.arrived_s, self._dispatch, job)
        while self._heap and self._left > 0:
            self.now_s, _, act, given = heapq.heappop(self._heap)
            act(*given)
        for site in self.sites:
            if site.kind == "auto":
                site.bill(max(self.now_s, self.ends_s))

    def _at(self, at_s: float, act: Callable[..., None], *given: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, act, given))

    def _dispatch(self, job: Job) -> None:
        job.tries += 1
        picked = self.router.pick(job, self.now_s)
        if picked is None:
            self._fail(job, "none eligible")
            return
        site = self.sites[picked]
        job.site, job.sent_s = picked, self.now_s
        if site.kind == "external":
            self._call_provider(job, site)
        elif not site.is_up:
            self._retry(job, site, "connection", RETRY_S)
        else:
            site.in_flight += 1
            self.router.on_dispatch(job, site, self.now_s)
            self._place(job, site)

    def _call_provider(self, job: Job, site: Site) -> None:
        now_s, given = self.now_s, site.given
        passed_min = (now_s - site.filled_at_s) / 60
        site.requests_left = min(site.rpm, site.requests_left + passed_min * site.rpm)
        site.tokens_left = min(site.tpm, site.tokens_left + passed_min * site.tpm)
        site.filled_at_s = now_s
        tokens = job.prompt_tokens + job.output_tokens
        if not site.is_up or site.chance.random() < given.get("error_rate", 0.0):
            self._retry(job, site, "error", RETRY_S)
            return
        if site.requests_left < 1 or site.tokens_left < tokens:
            self._retry(job, site, "rate_limit", RETRY_LIMITED_S)
            return
        site.requests_left -= 1
        site.tokens_left -= tokens
        site.in_flight += 1
        job.cost_usd = site.price_usd(job)
        site.spent_usd += job.cost_usd
        ttft_s = given["ttft_p50"] * exp(site.chance.gauss(0, given["ttft_sigma"]))
        ttft_s += job.prompt_tokens * given.get("ttft_per_tok", TTFT_S_PER_PROMPT_TOKEN)
        tpot_s = given["tpot_p50"] * exp(site.chance.gauss(0, given.get("tpot_sigma", TPOT_SIGMA)))
        self._at(now_s + ttft_s, self._provider_first, job, tpot_s)
        self.router.on_dispatch(job, site, now_s)

    def _provider_first(self, job: Job, tpot_s: float) -> None:
        self._first(job)
        self._at(self.now_s + tpot_s * max(0, job.output_tokens - 1), self._done, job)

    def _place(self, job: Job, site: Site) -> None:
        engine = site.place(job)
        if engine is None:
            site.pending.append(job)
            site.wake_count = max(site.wake_count, 1)
            return
        engine.sync(self.now_s)
        engine.jobs += 1
        engine.waiting.append(job)
        if engine.head is None:
            self._schedule(engine, site)

    def _schedule(self, engine: Engine, site: Site) -> None:
        at_s = engine.next_event_s(self.now_s)
        if at_s is not None:
            self._at(at_s, self._engine_event, engine, site, engine.version)

    def _engine_event(self, engine: Engine, site: Site, version: int) -> None:
        if engine.version != version or not engine.is_up:
            return
        first, done = engine.advance(self.now_s)
        if first is not None:
            self._first(first)
        self.router.on_pace(site, engine.pace_s, self.now_s)
        for job in done:
            self._done(job)
        self._schedule(engine, site)

    def _first(self, job: Job) -> None:
        site = self.sites[job.site]
        job.first_s = self.now_s
        job.ttft_s = self.now_s - job.arrived_s + site.rtt_s
        site.latencies_ms.append(job.ttft_s * 1000)
        self.router.on_first(job, site, self.now_s)

    def _done(self, job: Job) -> None:
        site = self.sites[job.site]
        assert job.first_s is not None
        assert job.ttft_s is not None
        site.in_flight -= 1
        site.job_count += 1
        site.tokens += job.prompt_tokens + job.output_tokens
        rest = job.output_tokens - 1
        job.tpot_s = (self.now_s - job.first_s) / rest if rest > 0 else 0.0
        job.is_met = job.ttft_s <= job.ttft_objective_s and job.tpot_s <= job.tpot_objective_s
        self._left -= 1
        self.router.on_done(job, site, self.now_s)
        if site.pending and any(e.is_up and not e.is_draining for e in site.engines):
            self._place(site.pending.popleft(), site)

    def _retry(self, job: Job, site: Site, kind: str, pause_s: float) -> None:
        self.router.on_error(job, site, self.now_s, kind)
        if job.tries >= TRIES_MAX:
            self._fail(job, "retries")
        else:
            self._at(self.now_s + pause_s, self._dispatch, job)

    def _fail(self, job: Job, reason: str) -> None:
        job.failure = reason
        self._left -= 1

    def _go_down(self, site: Site) -> None:
        site.is_up = False
        for engine in site.engines:
            engine.sync(self.now_s)
            for job in engine.lose_all():
                site.in_flight -= 1
                # The router is told while the job still says whether its first token had come.
                self._retry(job, site, "lost", RETRY_S)
                job.first_s = None

    def _come_up(self, site: Site) -> None:
        site.is_up = True

    def _poll(self) -> None:
        for site in self.sites:
            polled = site.polled
            polled.update(at_s=self.now_s, is_up=float(site.is_up))
            if site.kind != "external":
                latencies = sorted(site.latencies_ms)
                p95_ms = latencies[int(0.95 * len(latencies))] if latencies else 0.0
                tokens_per_s = (site.tokens - site.tokens_polled) / self.poll_s
                polled.update(queue=site.queue_depth, tokens_per_s=tokens_per_s, p95_ms=p95_ms)
                polled.update(replicas=len(site.engines))
                site.tokens_polled = site.tokens
                site.latencies_ms.clear()
        self.router.on_poll(self.now_s)
        self._at(self.now_s + self.poll_s, self._poll)

    def _scale(self) -> None:
        for site in self.sites:
            if site.kind == "auto":
                self._scale_site(site)
        self._at(self.now_s + SCALE_INTERVAL_S, self._scale)

    def _scale_site(self, site: Site) -> None:
        now_s, given = self.now_s, site.given
        site.bill(now_s)
        by_load = ceil(site.in_flight / given.get("target_concurrency", 32))
        wanted = max(by_load, site.wake_count, self.router.replicas_wanted(site, now_s))
        wanted = min(max(wanted, given.get("min_replicas", 0)), site.replicas_max)
        site.wanted.append((now_s, wanted))
        while site.wanted and site.wanted[0][0] < now_s - given.get("scale_down_after", 300.0):
            site.wanted.popleft()
        active = [engine for engine in site.engines if not engine.is_draining]
        kept = max(count for _, count in site.wanted)
        if wanted > len(active):
            up_at_s = now_s + given.get("cold_start", 120.0)
            site.engines += [
                Engine(site.profile, now_s=now_s, up_at_s=up_at_s) for _ in range(wanted - len(active))
            ]
            site.wake_count = 0
            while site.pending:
                self._place(site.pending.popleft(), site)
        elif kept < len(active):
            for engine in sorted(active, key=lambda e: e.jobs)[: len(active) - kept]:
                engine.is_draining = True
        for engine in [e for e in site.engines if e.is_draining and e.jobs == 0]:
            engine.is_up = False
            site.engines.remove(engine)
