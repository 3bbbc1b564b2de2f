"""Replays recorded requests against a fleet by production's decision: dollars and latency, before and after.

Data and chance are arguments. Own clusters and providers behave as in routing.physics; how a deployment
becomes a site, and what is assumed where nothing is known, stands in routing.replay_sites.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from routing import lengths
from routing.choose import choose
from routing.cost import cost_nanousd
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
from routing.physics import Chance, Job, Router, Simulation, Site
from routing.quota import limit_of
from routing.replay_sites import sites_of
from routing.types import ASLEEP, Deployment, Fleet, Objective, RequestProfile, RoutePlan, Usage

US_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """A request of the ledger: `arrived_s` from the period's begin, what it used, and where and for how much.

    `cost_nanousd` is what it cost at the prices of the time; `ttft_ms` None: its first token was not seen.
    """

    id: str
    arrived_s: float
    key_id: str
    model: str
    surface: str
    service_tier: str
    usage: Usage
    cluster: str
    cluster_kind: str
    ttft_ms: int | None
    cost_nanousd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one cluster served: requests, and their cost at its rates (an own cluster's are internal)."""

    cluster: str
    kind: str
    requests: int = 0
    cost_nanousd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run. Every request is served by a cluster, failed, or of a model that nothing serves.

    `ttft_*` are of the served ones, None where none was; `met_count` are those within the objective, the
    first token's and the tokens' after it. `placed` names each served request's cluster by its id;
    `unpriced_count` were served where no price is known, for nothing.
    """

    policy: str
    clusters: tuple[Served, ...]
    capacity_nanousd: int
    failed_count: int
    unpriced_count: int
    unserved: Mapping[str, int]
    met_count: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    placed: Mapping[str, str]

    @property
    def served_count(self) -> int:
        return sum(one.requests for one in self.clusters)

    @property
    def request_count(self) -> int:
        return self.served_count + self.failed_count + sum(self.unserved.values())

    @property
    def cost_nanousd(self) -> int:
        """All requests at the fleet's rates, as the ledger would have them."""
        return sum(one.cost_nanousd for one in self.clusters)

    @property
    def metered_nanousd(self) -> int:
        """What providers would charge."""
        return sum(one.cost_nanousd for one in self.clusters if one.kind != "own")

    @property
    def bill_nanousd(self) -> int:
        """What the period costs in cash: providers, and own clusters by the hour."""
        return self.metered_nanousd + self.capacity_nanousd


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the ledger says of a period's requests, to hold a replay against. Where none was seen: None."""

    request_count: int
    cost_nanousd: int
    metered_nanousd: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    placed: Mapping[str, str]


def replayed(
    requests: Sequence[RecordedRequest],
    fleet: Fleet,
    *,
    replicas: Mapping[str, int],
    hourly_nanousd: int,
    period_us: int,
    chance_of: Callable[[int], Chance],
) -> Outcome:
    """Play the requests against the fleet; equal input, equal outcome, whatever the order they come in.

    Args:
        requests: as the ledger has them.
        fleet: routes, deployments and settings, see `as_if_unseen`.
        replicas: how many engines an own cluster runs all the time; one that is absent has one.
        hourly_nanousd: what all own clusters cost per hour together, those without a deployment too.
        period_us: the length of the period that is billed for, in microseconds.
        chance_of: a source of chance for each number.
    """
    fleet = as_if_unseen(fleet, replicas=replicas)
    ordered = sorted(requests, key=lambda request: (request.arrived_s, request.id))
    usable = {model for model, plan in fleet.routes.items() if any(_is_usable(d) for d in _deployments(plan))}
    unserved = Counter(request.model for request in ordered if request.model not in usable)
    played = [request for request in ordered if request.model in usable]
    sites = sites_of(_all_deployments(fleet), replicas=replicas, chance_of=chance_of)
    jobs = [_job(number, one, fleet.settings.objective) for number, one in enumerate(played)]
    router = ReplayRouter(played, fleet=fleet, sites=sites, chance=chance_of(0))
    if jobs:
        Simulation(jobs=jobs, sites=sites, router=router).run()
    return _outcome(
        jobs,
        router,
        fleet=fleet,
        unserved=unserved,
        # Rounded up once.
        capacity_nanousd=-(-hourly_nanousd * period_us // US_PER_HOUR),
    )


def recorded(requests: Sequence[RecordedRequest]) -> Recorded:
    """What the ledger itself says of the requests."""
    ttfts = sorted(one.ttft_ms / 1000 for one in requests if one.ttft_ms is not None)
    return Recorded(
        request_count=len(requests),
        cost_nanousd=sum(one.cost_nanousd for one in requests),
        metered_nanousd=sum(one.cost_nanousd for one in requests if one.cluster_kind != "own"),
        ttft_p50_s=_percentile(ttfts, 50),
        ttft_p99_s=_percentile(ttfts, 99),
        placed={one.id: one.cluster for one in requests},
    )


def with_recorded_latency(fleet: Fleet, requests: Sequence[RecordedRequest]) -> Fleet:
    """The fleet with each provider's median first token in the ledger, where it has any, as its latency."""
    seen: dict[str, list[int]] = {}
    for one in requests:
        if one.ttft_ms is not None and one.cluster_kind != "own":
            seen.setdefault(one.cluster, []).append(one.ttft_ms)
    medians = {cluster: sorted(found)[len(found) // 2] for cluster, found in seen.items()}
    return with_deployments(fleet, lambda d: replace(d, latency_ms=medians.get(d.cluster, d.latency_ms)))


def speedless_clusters(fleet: Fleet) -> tuple[str, ...]:
    """Own clusters of which no speed is rated or measured: the slowest is assumed of them."""
    found = (d for d in _all_deployments(fleet) if d.cluster_kind == "own" and _is_usable(d))
    return tuple(sorted({d.cluster for d in found if not (d.rated_tokens_per_s or d.measured_tokens_per_s)}))


def changed_count(before: Recorded | Outcome, after: Outcome) -> int:
    """How many requests another cluster serves, or only one of the two serves."""
    ids = before.placed.keys() | after.placed.keys()
    return sum(1 for one in ids if before.placed.get(one) != after.placed.get(one))


def with_policy(fleet: Fleet, policy: str) -> Fleet:
    """The fleet with the policy for every route, also for those that name one."""
    routes = {model: replace(plan, policy=policy) for model, plan in fleet.routes.items()}
    return Fleet(routes=routes, settings=replace(fleet.settings, policy=policy))


def with_deployments(fleet: Fleet, change: Callable[[Deployment], Deployment | None]) -> Fleet:
    """The fleet with each deployment changed, or without it where the change gives None."""

    def changed(deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
        return tuple(new for d in deployments if (new := change(d)) is not None)

    return Fleet(
        routes={
            model: replace(
                plan,
                candidates=changed(plan.candidates),
                fallbacks=changed(plan.fallbacks),
                context_fallbacks=changed(plan.context_fallbacks),
                content_filter_fallbacks=changed(plan.content_filter_fallbacks),
            )
            for model, plan in fleet.routes.items()
        },
        settings=fleet.settings,
    )


def as_if_unseen(fleet: Fleet, *, replicas: Mapping[str, int]) -> Fleet:
    """The fleet without what probes saw of it today, which says nothing of the period's load.

    An own cluster that runs no replica is not there.
    """

    def unseen(deployment: Deployment) -> Deployment | None:
        if deployment.cluster_kind == "own" and replicas.get(deployment.cluster, 1) < 1:
            return None
        is_own = deployment.cluster_kind == "own"
        latency_ms = None if is_own else deployment.latency_ms
        return replace(
            deployment,
            # Who sleeps now may have run then; how many replicas did is said by `replicas`.
            state="active" if deployment.state in ASLEEP else deployment.state,
            health="healthy",
            health_reason="",
            queue_depth=None,
            latency_ms=latency_ms,
        )

    return with_deployments(fleet, unseen)


@dataclass(slots=True)
class _Note:
    """What was thought of a request when it was sent, and which clusters refused it."""

    deployment: Deployment
    expected_s: float
    output_tokens: float
    tokens_in_front: int = 0
    tried: frozenset[str] = frozenset()


class ReplayRouter(Router):
    """Production's decision and what it learns, for a real fleet: states by deployment, sites by cluster."""

    def __init__(
        self, requests: Sequence[RecordedRequest], *, fleet: Fleet, sites: Sequence[Site], chance: Chance
    ) -> None:
        self._requests, self._fleet, self._chance = requests, fleet, chance
        self._site_of = {site.name: site.number for site in sites}
        self._engines_of = {site.name: max(1, len(site.engines)) for site in sites}
        self._ids_of: dict[str, set[str]] = {site.name: set() for site in sites}
        for plan in fleet.routes.values():
            for deployment in _deployments(plan):
                self._ids_of[deployment.cluster].add(deployment.id)
        self._states: dict[str, DeploymentState] = {}
        self._lengths: dict[tuple[str, str], Lengths] = {}
        self.placed: dict[int, Deployment] = {}

    def pick(self, job: Job, now_s: float) -> int | None:
        request, note = self._requests[job.number], job.note
        known = self._lengths.get((request.key_id, request.model))
        expected = None if known is None else lengths.expected_tokens(known, prompt_tokens=job.prompt_tokens)
        profile = RequestProfile(
            model=request.model,
            surface=request.surface,
            body_bytes=0,
            prompt_tokens_estimate=job.prompt_tokens,
            prompt_tokens_max=job.prompt_tokens,
            output_tokens_max=None,
            choice_count=1,
            needs=frozenset({request.surface}),
            output_tokens_expected=expected,
            waited_s=now_s - job.arrived_s,
            tried=note.tried if note else frozenset(),
        )
        decision = choose(profile, self._fleet, self._states, now_s, self._chance.random())
        if not decision.ranked:
            return None
        deployment = decision.ranked[0].deployment
        state = self._states.get(deployment.id, NOTHING_LEARNT)
        job.note = _Note(
            deployment=deployment,
            expected_s=first_token_s(state.forecast, prompt_tokens=job.prompt_tokens, now_s=now_s),
            output_tokens=expected or state.output_tokens or 0.0,
            tried=profile.tried,
        )
        return self._site_of[deployment.cluster]

    def on_dispatch(self, job: Job, site: Site, now_s: float) -> None:
        note: _Note = job.note
        forecast = self._states.get(note.deployment.id, NOTHING_LEARNT).forecast
        backlog_tokens = forecast.backlog_tokens + forecast.others_tokens
        note.tokens_in_front = backlog_tokens // self._engines_of[site.name] + job.prompt_tokens
        self.placed[job.number] = note.deployment
        self._fold(note.deployment.id, self._dispatched(job, now_s), now_s)

    def on_first(self, job: Job, site: Site, now_s: float) -> None:
        note: _Note = job.note
        assert job.ttft_s is not None
        event = FirstToken(
            ttft_ms=(now_s - job.sent_s) * 1000,
            prompt_tokens=job.prompt_tokens if note.deployment.cluster_kind == "own" else 0,
            tokens_in_front=note.tokens_in_front,
            expected_s=note.expected_s,
            is_missed=job.ttft_s > job.ttft_objective_s,
        )
        self._fold(note.deployment.id, event, now_s)

    def on_done(self, job: Job, site: Site, now_s: float) -> None:
        request = self._requests[job.number]
        if request.surface != "embeddings":
            place = (request.key_id, request.model)
            self._lengths[place] = lengths.on_answer(
                self._lengths.get(place, Lengths()),
                prompt_tokens=job.prompt_tokens,
                output_tokens=job.output_tokens,
            )
        finished = Finished(
            sent_s=job.sent_s,
            output_tokens=job.output_tokens,
            generation_s=None if job.first_s is None else now_s - job.first_s,
        )
        self._fold(job.note.deployment.id, finished, now_s)

    def on_error(self, job: Job, site: Site, now_s: float, kind: str) -> None:
        """A provider's limit, the only failure that is replayed: its cluster is not asked again."""
        note: _Note = job.note
        note.tried |= {note.deployment.cluster}
        self._fold(note.deployment.id, self._dispatched(job, now_s), now_s)
        refused = Failed(
            sent_s=now_s,
            draw=0.5,
            is_rate_limited=True,
            requests_per_min=limit_of(note.deployment.rpm_max),
            tokens_per_min=limit_of(note.deployment.tpm_max),
        )
        self._fold(note.deployment.id, refused, now_s)

    def on_pace(self, site: Site, pace_s: float, now_s: float) -> None:
        for deployment_id in self._ids_of[site.name]:
            if deployment_id in self._states:
                self._fold(deployment_id, Progressed(pace_s=pace_s), now_s)

    def on_poll(self, now_s: float) -> None:
        """Nothing: what a poll would tell is left out, see `as_if_unseen`."""

    def replicas_wanted(self, site: Site, now_s: float) -> int:
        return 0

    def id_of(self, job: Job) -> str:
        return self._requests[job.number].id

    def cost_nanousd(self, job: Job) -> int:
        """What the request's usage costs where it was placed; nothing where no price is known."""
        request, rate = self._requests[job.number], self.placed[job.number].rate
        if rate is None:
            return 0
        return cost_nanousd(usage=request.usage, rate=rate, service_tier=request.service_tier)

    def _dispatched(self, job: Job, now_s: float) -> Dispatched:
        note: _Note = job.note
        if note.deployment.cluster_kind == "own":
            return Dispatched(sent_s=now_s, prompt_tokens=job.prompt_tokens)
        return Dispatched(
            sent_s=now_s,
            tokens=job.prompt_tokens + note.output_tokens,
            requests_per_min=limit_of(note.deployment.rpm_max),
            tokens_per_min=limit_of(note.deployment.tpm_max),
        )

    def _fold(self, deployment_id: str, event: Event, now_s: float) -> None:
        self._states[deployment_id] = observe(self._states.get(deployment_id, NOTHING_LEARNT), event, now_s)


def _job(number: int, request: RecordedRequest, objective: Objective) -> Job:
    prompt_tokens = request.usage.input_tokens
    return Job(
        number=number,
        arrived_s=request.arrived_s,
        prompt_tokens=prompt_tokens,
        output_tokens=request.usage.output_tokens,
        ttft_objective_s=objective.ttft_allowed_s(prompt_tokens),
        tpot_objective_s=objective.tpot_s,
    )


def _outcome(
    jobs: Sequence[Job],
    router: ReplayRouter,
    *,
    fleet: Fleet,
    unserved: Mapping[str, int],
    capacity_nanousd: int,
) -> Outcome:
    served = [job for job in jobs if not job.failure]
    counts: Counter[str] = Counter()
    costs: Counter[str] = Counter()
    for job in served:
        deployment = router.placed[job.number]
        counts[deployment.cluster] += 1
        costs[deployment.cluster] += router.cost_nanousd(job)
    kinds = {d.cluster: d.cluster_kind for d in _all_deployments(fleet)}
    ttfts = sorted(job.ttft_s for job in served if job.ttft_s is not None)
    return Outcome(
        policy=fleet.settings.policy,
        clusters=tuple(
            Served(cluster=name, kind=kinds[name], requests=counts[name], cost_nanousd=costs[name])
            for name in sorted(kinds)
        ),
        capacity_nanousd=capacity_nanousd,
        failed_count=len(jobs) - len(served),
        unpriced_count=sum(1 for job in served if router.placed[job.number].rate is None),
        unserved=dict(sorted(unserved.items())),
        met_count=sum(1 for job in served if job.is_met),
        ttft_p50_s=_percentile(ttfts, 50),
        ttft_p99_s=_percentile(ttfts, 99),
        placed={router.id_of(job): router.placed[job.number].cluster for job in served},
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else None


def _is_usable(deployment: Deployment) -> bool:
    return deployment.state == "active"


def _deployments(plan: RoutePlan) -> tuple[Deployment, ...]:
    return (*plan.candidates, *plan.fallbacks, *plan.context_fallbacks, *plan.content_filter_fallbacks)


def _all_deployments(fleet: Fleet) -> list[Deployment]:
    """Each once, however many routes lead to it."""
    return list({d.id: d for plan in fleet.routes.values() for d in _deployments(plan)}.values())
