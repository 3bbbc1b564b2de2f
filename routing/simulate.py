"""Plays a trace against a fleet under a policy: the same `choose` and `observe` as in production.

Data, clock and chance are arguments; the command `simulate` reads the files. Sources and physics: see
routing.physics and the NOTICE beside the traces.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routing import lengths, waking
from routing.choose import choose
from routing.forecast import first_token_s
from routing.learning import (
    NOTHING_LEARNT,
    DeploymentState,
    Dispatched,
    Event,
    Failed,
    Finished,
    FirstToken,
    Progressed,
    observe,
)
from routing.lengths import Lengths
from routing.money import NANOUSD_PER_USD
from routing.physics import Chance, Job, Router, Simulation, Site
from routing.sharing import Others, Row, new_row, note
from routing.types import (
    Deployment,
    Fleet,
    Objective,
    Rate,
    RequestProfile,
    RoutePlan,
    RoutingSettings,
)
from routing.waking import Spill

MODEL = "model"
IN_FLIGHT_MAX = 1_000_000
CONTEXT_WINDOW = 1_000_000
# What every router of the benchmark does after an error: it leaves the site alone for so long.
COOLDOWN_S = 5.0
ERRORS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One scenario under one policy. Amounts in USD; `lp_ratio` is None where no bound is known."""

    scenario: str
    policy: str
    metered_usd: float
    autoscaled_usd: float
    penalty_usd: float
    committed_usd: float
    slo_percent: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_miss_percent: float
    fail_percent: float
    lp_ratio: float | None
    perfect_ratio: float | None

    @property
    def total_usd(self) -> float:
        return self.metered_usd + self.autoscaled_usd + self.penalty_usd + self.committed_usd


class PolicyRouter(Router):
    """A policy of production in the simulation."""

    def __init__(
        self,
        policy: str,
        *,
        sites: Sequence[Site],
        slo: Mapping[str, float],
        penalty: Mapping[str, float],
        chance: Chance,
    ) -> None:
        self._sites = sites
        self._chance = chance
        self._states: dict[str, DeploymentState] = {}
        self._lengths = Lengths()
        self._blocked_until_s = [-1.0] * len(sites)
        self._errors = [0] * len(sites)
        self._is_up = [True] * len(sites)
        self.spill: dict[int, Spill] = {site.number: Spill() for site in sites if site.kind == "auto"}
        objective = Objective(
            ttft_s=slo["ttft_s"],
            ttft_s_per_prompt_token=slo["ttft_s_per_prompt_token"],
            tpot_s=slo["tpot_s"],
            miss_input_microusd_per_mtok=round(penalty["inp"] * 1_000_000),
            miss_output_microusd_per_mtok=round(penalty["out"] * 1_000_000),
        )
        self._settings = RoutingSettings(
            policy=policy,
            latency_ms_max=5000,
            queue_depth_max=10,
            overhead_permille=1100,
            cluster_cost_threshold_nanousd=10_000_000,
            is_external_fallback_enabled=True,
            objective=objective,
        )
        self._deployments = [_deployment(site) for site in sites]
        # What this process tells the others, and what it heard of them.
        self.rows: dict[str, Row] = {}
        self.others = Others()

    def pick(self, job: Job, now_s: float) -> int | None:
        profile = RequestProfile(
            model=MODEL,
            surface="chat",
            body_bytes=0,
            prompt_tokens_estimate=job.prompt_tokens,
            prompt_tokens_max=job.prompt_tokens,
            output_tokens_max=None,
            choice_count=1,
            needs=frozenset(),
            output_tokens_expected=lengths.expected_tokens(self._lengths, prompt_tokens=job.prompt_tokens),
            waited_s=now_s - job.arrived_s,
        )
        usable = tuple(self._deployments[n] for n in self._usable(now_s))
        plan = RoutePlan(model=MODEL, policy="", candidates=usable, fallbacks=())
        fleet = Fleet(routes={MODEL: plan}, settings=self._settings)
        decision = choose(profile, fleet, self._states, now_s, self._chance.random())
        if not decision.ranked:
            return None
        chosen = decision.ranked[0]
        number = int(chosen.deployment.id)
        self._consider_waking(chosen.cost_nanousd / NANOUSD_PER_USD, number=number, now_s=now_s)
        state = self._states.get(chosen.deployment.id, NOTHING_LEARNT)
        expected_s = first_token_s(state.forecast, prompt_tokens=job.prompt_tokens, now_s=now_s)
        job.note = (expected_s, profile.output_tokens_expected)
        return number

    def on_dispatch(self, job: Job, site: Site, now_s: float) -> None:
        expected_s, output_tokens = job.note
        state = self._states.get(str(site.number), NOTHING_LEARNT)
        is_own = site.kind != "external"
        backlog_tokens = state.forecast.backlog_tokens + state.forecast.others_tokens
        in_front = backlog_tokens // max(1, len(site.engines)) + job.prompt_tokens
        job.note = (expected_s, in_front)
        event = Dispatched(sent_s=now_s, prompt_tokens=job.prompt_tokens if is_own else 0)
        if not is_own:
            event = Dispatched(
                sent_s=now_s,
                tokens=job.prompt_tokens + output_tokens,
                requests_per_min=site.rpm,
                tokens_per_min=site.tpm,
            )
        self._fold(site, event, now_s)

    def on_first(self, job: Job, site: Site, now_s: float) -> None:
        self._fold(site, self.first_token(job, now_s), now_s)

    def first_token(self, job: Job, now_s: float) -> FirstToken:
        expected_s, in_front = job.note
        assert job.ttft_s is not None
        is_own = self._sites[job.site].kind != "external"
        return FirstToken(
            ttft_ms=(now_s - job.sent_s) * 1000,
            prompt_tokens=job.prompt_tokens if is_own else 0,
            tokens_in_front=in_front,
            expected_s=expected_s,
            is_missed=job.ttft_s > job.ttft_objective_s,
        )

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        self._errors[site.number] = 0
        self._lengths = lengths.on_answer(
            self._lengths, prompt_tokens=job.prompt_tokens, output_tokens=job.output_tokens
        )
        finished = Finished(
            sent_s=job.sent_s,
            output_tokens=job.output_tokens,
            generation_s=None if job.first_s is None else now_s - job.first_s,
        )
        self._fold(site, finished, now_s)

    def on_error(self, job: Job, site: Site, now_s: float, kind: str) -> None:
        """As for every router of the benchmark; what was on its way is taken out of the backlog."""
        if kind == "error":
            self._errors[site.number] += 1
        if kind != "error" or self._errors[site.number] >= ERRORS_MAX:
            self._blocked_until_s[site.number] = now_s + COOLDOWN_S
        if kind == "lost":
            unseen = job.prompt_tokens if job.first_s is None else 0
            self._fold(site, Failed(sent_s=job.sent_s, draw=0.5, unseen_tokens=unseen), now_s)
        if kind == "rate_limit":
            event = Failed(
                sent_s=now_s,
                draw=0.5,
                is_rate_limited=True,
                requests_per_min=site.rpm,
                tokens_per_min=site.tpm,
            )
            self._fold(site, event, now_s, is_in_flight=False)

    def on_pace(self, site: Site, pace_s: float, now_s: float) -> None:
        self._fold(site, Progressed(pace_s=pace_s), now_s)

    def on_poll(self, now_s: float) -> None:
        for site in self._sites:
            self._is_up[site.number] = bool(site.polled["is_up"])

    def replicas_wanted(self, site: Site, now_s: float) -> int:
        return self.spill[site.number].replicas

    def hear(self, now_s: float) -> None:
        """Take in what the other processes told since the last choice."""
        for name, shared in self.others.news():
            self._states[name] = observe(self._states.get(name, NOTHING_LEARNT), shared, now_s)

    def _usable(self, now_s: float) -> list[int]:
        free = [s.number for s in self._sites if self._blocked_until_s[s.number] <= now_s]
        known = [number for number in free if self._is_up[number] and self._has_engine(number, now_s)]
        return known or free or [site.number for site in self._sites]

    def _has_engine(self, number: int, now_s: float) -> bool:
        site = self._sites[number]
        return site.kind == "external" or site.running_engines(now_s) > 0

    def _consider_waking(self, cost_usd: float, *, number: int, now_s: float) -> None:
        spilt = cost_usd if self._sites[number].kind == "external" else 0.0
        for site_number, spill in self.spill.items():
            site = self._sites[site_number]
            active = [engine for engine in site.engines if not engine.is_draining]
            self.spill[site_number] = waking.on_look(
                waking.on_choice(spill, provider_usd=spilt, now_s=now_s),
                usd_per_replica_hour=site.usd_per_hour,
                replicas=len(active),
                is_waking=any(engine.up_at_s > now_s for engine in site.engines),
                now_s=now_s,
            )

    def _fold(self, site: Site, event: Event, now_s: float, *, is_in_flight: bool = True) -> None:
        name = str(site.number)
        before = self._states.get(name, NOTHING_LEARNT)
        after = self._states[name] = observe(before, event, now_s)
        note(self.rows.setdefault(name, new_row()), event, before=before, after=after)


class ProcessesRouter(Router):
    """Several processes of a policy, with requests dealt in turn.

    What one does the others hear `told_after_s` later, at their next choice or first token; None: never.
    """

    def __init__(self, processes: Sequence[PolicyRouter], *, told_after_s: float | None) -> None:
        self._processes, self._told_after_s = processes, told_after_s
        # Who wakes replicas looks at the installation's spending, not at one process's.
        for process in processes:
            process.spill = processes[0].spill
        self._untold: deque[tuple[float, int, str, tuple[int, ...]]] = deque()
        for teller, process in enumerate(processes):
            for other in processes:
                if other is not process:
                    other.others.meet(str(teller), {})

    def pick(self, job: Job, now_s: float) -> int | None:
        self._hear(job, now_s)
        return self._of(job).pick(job, now_s)

    def on_dispatch(self, job: Job, site: Site, now_s: float) -> None:
        self._of(job).on_dispatch(job, site, now_s)
        self._tell(job, site, now_s)

    def on_first(self, job: Job, site: Site, now_s: float) -> None:
        self._hear(job, now_s)
        self._of(job).on_first(job, site, now_s)
        self._tell(job, site, now_s)

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        self._of(job).on_done(job, site, now_s)
        self._tell(job, site, now_s)

    def on_error(self, job: Job, site: Site, now_s: float, kind: str) -> None:
        self._of(job).on_error(job, site, now_s, kind)
        self._tell(job, site, now_s)

    def on_pace(self, site: Site, pace_s: float, now_s: float) -> None:
        for process in self._processes:
            process.on_pace(site, pace_s, now_s)

    def on_poll(self, now_s: float) -> None:
        for process in self._processes:
            process.on_poll(now_s)

    def replicas_wanted(self, site: Site, now_s: float) -> int:
        return self._processes[0].replicas_wanted(site, now_s)

    def _of(self, job: Job) -> PolicyRouter:
        return self._processes[job.number % len(self._processes)]

    def _hear(self, job: Job, now_s: float) -> None:
        while self._untold and self._untold[0][0] <= now_s:
            _, teller, name, row = self._untold.popleft()
            for index, process in enumerate(self._processes):
                if index != teller:
                    process.others.hear(str(teller), name, row)
        self._of(job).hear(now_s)

    def _tell(self, job: Job, site: Site, now_s: float) -> None:
        name = str(site.number)
        row = self._of(job).rows.get(name)
        if self._told_after_s is not None and row is not None:
            teller = job.number % len(self._processes)
            self._untold.append((now_s + self._told_after_s, teller, name, tuple(row)))


def _deployment(site: Site) -> Deployment:
    given = site.given
    is_own = site.kind != "external"
    rate = None
    if not is_own:
        rate = Rate.flat(
            input_microusd_per_mtok=round(given["usd_per_mtok_in"] * 1_000_000),
            output_microusd_per_mtok=round(given["usd_per_mtok_out"] * 1_000_000),
            source="fleets.json",
        )
    billing = {"committed": "committed", "auto": "autoscaled"}.get(site.kind, "metered")
    return Deployment(
        id=str(site.number),
        cluster=site.name,
        cluster_kind="own" if is_own else "provider",
        provider="",
        region="",
        model=MODEL,
        billing=billing,
        state="active",
        health="healthy",
        health_reason="",
        context_window=CONTEXT_WINDOW,
        output_tokens_max=None,
        capabilities=frozenset(),
        rate=rate,
        cost_per_hour_nanousd=round(given.get("usd_per_hour", 0.0) * NANOUSD_PER_USD),
        rated_tokens_per_s=given.get("nameplate_tps"),
        measured_tokens_per_s=None,
        queue_depth=None,
        latency_ms=None,
        in_flight_max=IN_FLIGHT_MAX,
        rtt_s=site.rtt_s,
        rpm_max=None if is_own else round(site.rpm),
        tpm_max=None if is_own else round(site.tpm),
    )


RouterFactory = Callable[[Sequence[Site]], Router]


def play(
    *,
    scenario: Mapping[str, Any],
    suite: Mapping[str, Any],
    rows: Sequence[tuple[int, int, int]],
    policy: str,
    router_of: RouterFactory,
    chance_of: Callable[[int], Chance],
) -> Result:
    """One scenario of a suite (fleets.json) under one router. `rows`: t_ms, input and output tokens."""
    slo, penalty = suite["slo"], suite["miss_penalty_usd_per_mtok"]
    jobs = [
        Job(
            number=number,
            arrived_s=t_ms / 1000 / scenario["time_compression"],
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            ttft_objective_s=slo["ttft_s"] + slo["ttft_s_per_prompt_token"] * prompt_tokens,
            tpot_objective_s=slo["tpot_s"],
        )
        for number, (t_ms, prompt_tokens, output_tokens) in enumerate(rows)
    ]
    given = suite["fleets"][scenario["fleet"]]["clusters"]
    sites = [
        Site(number, one, suite["profiles"], chance_of(1000 + number)) for number, one in enumerate(given)
    ]
    simulation = Simulation(jobs=jobs, sites=sites, router=router_of(sites))
    simulation.run()
    return _result(simulation, scenario=scenario, penalty=penalty, policy=policy)


def _result(
    simulation: Simulation, *, scenario: Mapping[str, Any], penalty: Mapping[str, float], policy: str
) -> Result:
    jobs, sites = simulation.jobs, simulation.sites
    count = len(jobs)
    missed = [job for job in jobs if not job.is_met]
    penalty_usd = (
        sum(penalty["inp"] * j.prompt_tokens + penalty["out"] * j.output_tokens for j in missed) / 1e6
    )
    spent = {kind: sum(s.spent_usd for s in sites if s.kind == kind) for kind in ("external", "auto")}
    committed = [site for site in sites if site.kind == "committed"]
    committed_usd = sum(s.usd_per_hour * len(s.engines) for s in committed) * simulation.ends_s / 3600
    ttfts = sorted(60.0 if job.ttft_s is None else job.ttft_s for job in jobs)
    late = sum(1 for job in jobs if job.tpot_s is not None and job.tpot_s > job.tpot_objective_s)
    total_usd = spent["external"] + spent["auto"] + penalty_usd + committed_usd
    lp_usd, perfect_usd = scenario.get("lp_total_usd"), scenario.get("perfect_information_total_usd")
    return Result(
        scenario=scenario["name"],
        policy=policy,
        metered_usd=spent["external"],
        autoscaled_usd=spent["auto"],
        penalty_usd=penalty_usd,
        committed_usd=committed_usd,
        slo_percent=100 * (1 - len(missed) / count),
        ttft_p50_s=ttfts[count // 2],
        ttft_p99_s=ttfts[min(count * 99 // 100, count - 1)],
        tpot_miss_percent=100 * late / count,
        fail_percent=100 * sum(1 for job in jobs if job.failure) / count,
        lp_ratio=None if not lp_usd else total_usd / lp_usd,
        perfect_ratio=None if not perfect_usd else total_usd / perfect_usd,
    )
