"""Rules that others route by, for comparison in the simulation alone.

Each is re-implemented from reading the named system at the named version, not run from its code.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import Protocol

from routing.physics import Chance, Job, Router, Site

COOLDOWN_S = 5.0
ERRORS_MAX = 3
OUTPUT_TOKENS_EXPECTED = 200
PEAK_TAU_S = 10.0
# The ancestor's checker keeps this speed where a cluster's statistics report none.
TOKENS_PER_S_ASSUMED = 10.0


class Draw(Chance, Protocol):
    """What random.Random has of it."""

    def choice(self, given: Sequence[int], /) -> int: ...

    def choices(self, given: Sequence[int], weights: Sequence[float], /) -> list[int]: ...

    def sample(self, given: Sequence[int], count: int, /) -> list[int]: ...


class Baseline(Router):
    """Knows which sites are up from polls, and leaves one alone for a while after errors, as all do."""

    def __init__(self, sites: Sequence[Site], chance: Draw) -> None:
        self.sites, self.chance = sites, chance
        self._blocked_until_s = [-1.0] * len(sites)
        self._errors = [0] * len(sites)
        self._is_up = [True] * len(sites)

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        raise NotImplementedError

    def pick(self, job: Job, now_s: float) -> int | None:
        free = [n for n, until_s in enumerate(self._blocked_until_s) if until_s <= now_s]
        usable = [n for n in free if self._is_up[n]] or free or list(range(len(self.sites)))
        return self.choose(job, usable, now_s)

    def on_dispatch(self, job: Job, site: Site, now_s: float) -> None:
        """Nothing to note."""

    def on_first(self, job: Job, site: Site, now_s: float) -> None:
        """Nothing to note."""

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        self._errors[site.number] = 0

    def on_error(self, job: Job, site: Site, now_s: float, kind: str) -> None:
        if kind == "error":
            self._errors[site.number] += 1
        if kind != "error" or self._errors[site.number] >= ERRORS_MAX:
            self._blocked_until_s[site.number] = now_s + COOLDOWN_S

    def on_pace(self, site: Site, pace_s: float, now_s: float) -> None:
        """Nothing to note."""

    def on_poll(self, now_s: float) -> None:
        for site in self.sites:
            self._is_up[site.number] = bool(site.polled["is_up"])

    def replicas_wanted(self, site: Site, now_s: float) -> int:
        return 0


class RoundRobin(Baseline):
    _count = 0

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        self._count += 1
        return usable[self._count % len(usable)]


class RandomChoice(Baseline):
    """LiteLLM 1.109.1, simple-shuffle."""

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        return self.chance.choice(usable)


class LeastBusy(Baseline):
    """LiteLLM 1.109.1, least-busy; SkyServe 0.14.1, least_load."""

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        least = min(self.sites[n].in_flight for n in usable)
        return self.chance.choice([n for n in usable if self.sites[n].in_flight == least])


class InstanceAware(Baseline):
    """SkyServe 0.14.1, instance_aware_least_load: in flight by target rate."""

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        return min(usable, key=lambda n: self.sites[n].in_flight / self.sites[n].given["target_qps"])


class LeastOfTwo(Baseline):
    """Envoy, least request: the less busy of two drawn."""

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        if len(usable) == 1:
            return usable[0]
        one, other = self.chance.sample(usable, 2)
        return one if self.sites[one].in_flight <= self.sites[other].in_flight else other


class LowestLatency(Baseline):
    """LiteLLM 1.109.1, latency-based: the mean of the last 10 first tokens."""

    def __init__(self, sites: Sequence[Site], chance: Draw) -> None:
        super().__init__(sites, chance)
        self._latest: list[deque[float]] = [deque(maxlen=10) for _ in sites]

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        super().on_done(job, site, now_s)
        assert job.ttft_s is not None
        self._latest[site.number].append(job.ttft_s)

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        means = {n: sum(self._latest[n]) / max(len(self._latest[n]), 1) for n in usable}
        least = min(means.values())
        return self.chance.choice([n for n in usable if means[n] == least])


class PeakEwma(Baseline):
    """Finagle's, Linkerd's and Helicone's: two drawn, by decayed peak latency times in-flight."""

    def __init__(self, sites: Sequence[Site], chance: Draw) -> None:
        super().__init__(sites, chance)
        self._peaks = [(0.0, 0.0)] * len(sites)

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        super().on_done(job, site, now_s)
        seen_s, decayed_s = now_s - job.sent_s, self._decayed_s(site.number, now_s)
        weight = exp(-(now_s - self._peaks[site.number][1]) / PEAK_TAU_S)
        peak_s = seen_s if seen_s > decayed_s else decayed_s + seen_s * (1 - weight)
        self._peaks[site.number] = (peak_s, now_s)

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        if len(usable) == 1:
            return usable[0]
        one, other = self.chance.sample(usable, 2)
        return one if self._load(one, now_s) <= self._load(other, now_s) else other

    def _load(self, number: int, now_s: float) -> float:
        return self._decayed_s(number, now_s) * (self.sites[number].in_flight + 1)

    def _decayed_s(self, number: int, now_s: float) -> float:
        peak_s, at_s = self._peaks[number]
        return peak_s * exp(-(now_s - at_s) / PEAK_TAU_S)


class SeedFormula(Baseline):
    """The seed's: lowest average cost per 1K tokens, filters and measured speed from polls, 60 s sticky."""

    is_nameplate = False
    sticky_s = 60.0

    def __init__(self, sites: Sequence[Site], chance: Draw) -> None:
        super().__init__(sites, chance)
        self._current, self._since_s = -1, -1e9

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        fit = [n for n in usable if self._is_fit(self.sites[n])]
        if self._current in fit and now_s - self._since_s < self.sticky_s:
            return self._current
        self._current = min(fit or usable, key=lambda n: self._usd_per_1k(self.sites[n]))
        self._since_s = now_s
        return self._current

    def _is_fit(self, site: Site) -> bool:
        if site.kind == "external":
            return True
        return site.polled.get("p95_ms", 0.0) <= 5000 and site.polled.get("queue", 0) <= 10

    def _usd_per_1k(self, site: Site) -> float:
        if site.kind == "external":
            return float(site.given["usd_per_mtok_in"] + site.given["usd_per_mtok_out"]) / 2000
        replicas = 1 if self.is_nameplate else max(1, len(site.engines))
        tokens_per_s = site.given["nameplate_tps"] if self.is_nameplate else site.polled["tokens_per_s"]
        usd_per_s = site.usd_per_hour * replicas / 3600
        return float(usd_per_s / (tokens_per_s or TOKENS_PER_S_ASSUMED) * 1.1 * 1000)


class SeedFormulaNameplate(SeedFormula):
    """The same at rated speed."""

    is_nameplate = True


class LowestCost(Baseline):
    """LiteLLM 1.109.1, lowest-cost: the unweighted sum of prices, own clusters amortised at rated speed."""

    def __init__(self, sites: Sequence[Site], chance: Draw) -> None:
        super().__init__(sites, chance)
        self._minute: list[deque[tuple[float, int]]] = [deque() for _ in sites]

    def on_dispatch(self, job: Job, site: Site, now_s: float) -> None:
        self._minute[site.number].append((now_s, job.prompt_tokens + job.output_tokens))

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        fit = [n for n in usable if self._has_room(self.sites[n], job, now_s)]
        return min(fit, key=lambda n: self._usd_per_1k(self.sites[n]), default=None)

    def _has_room(self, site: Site, job: Job, now_s: float) -> bool:
        if site.kind != "external":
            return True
        minute = self._minute[site.number]
        while minute and minute[0][0] < now_s - 60:
            minute.popleft()
        tokens = sum(count for _, count in minute) + job.prompt_tokens if site.tpm < 1e8 else 0
        return len(minute) + 1 <= site.rpm and tokens <= site.tpm

    def _usd_per_1k(self, site: Site) -> float:
        if site.kind == "external":
            return float(site.given["usd_per_mtok_in"] + site.given["usd_per_mtok_out"]) / 1000
        return float(2 * site.usd_per_hour / (site.given["nameplate_tps"] * 3600) * 1000)


class InverseSquarePrice(Baseline):
    """OpenRouter's documents: drawn by 1 / price squared, own clusters amortised at rated speed."""

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        weights = [1 / self._usd(self.sites[n], job) ** 2 for n in usable]
        return self.chance.choices(usable, weights)[0]

    def _usd(self, site: Site, job: Job) -> float:
        if site.kind != "external":
            tokens = job.prompt_tokens + OUTPUT_TOKENS_EXPECTED
            return float(tokens * site.usd_per_hour / (site.given["nameplate_tps"] * 3600))
        return _price_usd(site, job)


class StaticSpillover(Baseline):
    """Own clusters up to a fixed number in flight per replica, then the cheapest provider."""

    per_replica = 10

    def choose(self, job: Job, usable: list[int], now_s: float) -> int | None:
        own = [n for n in usable if self.sites[n].kind != "external"]
        free = [n for n in own if self.sites[n].in_flight < self._room(self.sites[n])]
        if free:
            return min(free, key=lambda n: self.sites[n].in_flight / self._room(self.sites[n]))
        providers = [n for n in usable if self.sites[n].kind == "external"]
        if providers:
            return min(providers, key=lambda n: _price_usd(self.sites[n], job))
        return min(usable, key=lambda n: self.sites[n].in_flight)

    def _room(self, site: Site) -> float:
        return float(self.per_replica * max(1, len(site.engines)) * site.given.get("cap_w", 1.0))


class StaticSpillover20(StaticSpillover):
    """The same with room for 20."""

    per_replica = 20


class StaticSpillover30(StaticSpillover):
    """The same with room for 30."""

    per_replica = 30


def _price_usd(site: Site, job: Job) -> float:
    per_input, per_output = site.given["usd_per_mtok_in"], site.given["usd_per_mtok_out"]
    return float(per_input * job.prompt_tokens + per_output * OUTPUT_TOKENS_EXPECTED) * 1e-6


BASELINES: Mapping[str, Callable[[Sequence[Site], Draw], Router]] = {
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "least-busy": LeastBusy,
    "instance-aware": InstanceAware,
    "p2c-least-request": LeastOfTwo,
    "p2c-peak-ewma": PeakEwma,
    "lowest-latency": LowestLatency,
    "seed-formula": SeedFormula,
    "seed-formula-nameplate": SeedFormulaNameplate,
    "lowest-cost": LowestCost,
    "inverse-square-price": InverseSquarePrice,
    "static-spillover-10": StaticSpillover,
    "static-spillover-20": StaticSpillover20,
    "static-spillover-30": StaticSpillover30,
}
