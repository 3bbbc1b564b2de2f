"""One request from admission to its settled row: read this first.

serve: admit -> a pump (a task of the process) takes over -> the caller reads the outbox.
pump:  (wait, where all is full or asleep) -> choose -> hold -> deliver (send, relay, settle, the last byte).
       A clamped budget may grant a shorter answer than was asked for, and that is what is sent.
       A fault before the first content chooses anew among the clusters not tried yet, and a refusal for
       length or content among the fallbacks meant for it, within the retry budget; the hold of the failed
       attempt is settled in the transaction that holds for the next.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog
from msgspec import Struct
from msgspec.structs import replace

from billing.entries import BudgetExceededError, Hold, LedgerUnavailableError, Settlement, WindowClaim
from billing.group_commit import GroupCommit
from billing.principals import Principal
from gateway import metrics
from gateway.accounting import OutputBound, WindowCalendar, clamped_hold, new_hold, output_bound
from gateway.admission import Admission, Ticket
from gateway.attempt import Attempt
from gateway.completion import CompletionRequest
from gateway.delivery import Delivery
from gateway.demand import WakeDemand
from gateway.errors import ClusterAsleepError, GatewayError, InternalError, LedgerDownError, OverloadedError
from gateway.events import Observer
from gateway.fleet import FleetSnapshot
from gateway.identifiers import new_attempt_id
from gateway.outbox import Headers, Outbox
from gateway.overload import UNCOUNTED, Work
from gateway.pumps import PumpSet
from gateway.refusals import budget_refusal, no_candidate_refusal
from gateway.reroutes import Course
from gateway.retry_budget import RetryBudget
from gateway.upstream import UpstreamFailure
from gateway.waiting import Patron, WaitRoom, is_worth_waiting
from routing.choose import choose
from routing.spilling import is_warm_up_known, is_woken, warm_in_s
from routing.types import Affinity, Candidate, Decision, RoutePlan

logger = structlog.get_logger(__name__)

# Tokens per choice that a clamped budget had left for the answer.
CLAMPED_HEADER = "x-gateway-max-tokens-clamped"
# So often a choice is made anew because another process took the place at the same time.
PLACE_TRIES_MAX = 8


class Job(Struct, frozen=True, kw_only=True):
    """One admitted request and all that its pump needs."""

    request_id: str
    principal: Principal
    request: CompletionRequest
    snapshot: FleetSnapshot
    claims: tuple[WindowClaim, ...]
    ticket: Ticket
    outbox: Outbox
    started_s: float
    work: Work = UNCOUNTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The process's parts that a request passes through; made once, in gateway.lifespan."""

    owner: UUID
    buffer_bytes_max: int
    reroutes_max: int
    admission: Admission
    ledger: GroupCommit
    delivery: Delivery
    pumps: PumpSet
    observer: Observer
    retries: RetryBudget
    waiting: WaitRoom
    demand: WakeDemand
    latest: Callable[[], FleetSnapshot]
    calendar: WindowCalendar
    clock: Callable[[], float]
    wall_clock: Callable[[], datetime]

    async def serve(
        self,
        *,
        principal: Principal,
        request: CompletionRequest,
        snapshot: FleetSnapshot,
        request_id: str,
        outbox: Outbox | None = None,
        work: Work = UNCOUNTED,
    ) -> Outbox:
        """Admit and start the answer, in the outbox if one is given; raises the GatewayError of a refusal.

        The work is the pump's from then on.
        """
        ticket = await self.admission.admit(principal=principal, request=request, snapshot=snapshot)
        if outbox is None:
            outbox = Outbox(bytes_max=self.buffer_bytes_max)
        job = Job(
            request_id=request_id,
            principal=principal,
            request=request,
            snapshot=snapshot,
            claims=self.calendar.claims_of(principal, now=self.wall_clock()),
            ticket=ticket,
            outbox=outbox,
            started_s=self.clock(),
            work=work,
        )
        work.is_pumps = True
        self.retries.on_request()
        self.pumps.start(self._pump(job))
        return outbox

    async def _pump(self, job: Job) -> None:
        """The edge of an answer: whatever happens, the caller hears of it and the place is given back."""
        tokens_used = 0
        try:
            settlement = await self._answer(job)
            tokens_used = settlement.usage.input_tokens + settlement.usage.output_tokens
        except GatewayError as error:
            job.outbox.fail(error)
        except BudgetExceededError as error:
            job.outbox.fail(budget_refusal(error))
        except LedgerUnavailableError:
            metrics.UNSETTLED.inc()
            job.outbox.fail(LedgerDownError("The ledger cannot record this request now; send it again."))
        except Exception:
            logger.exception("pump_crashed", request_id=job.request_id)
            job.outbox.fail(InternalError("Something failed inside the gateway; its log has the request id."))
        finally:
            job.outbox.close()
            job.work.end()
            self.admission.release(job.ticket, tokens_used=tokens_used)

    async def _answer(self, job: Job) -> Settlement:
        """Try the candidates in turn, each cluster once; raises the last one's error."""
        replaced: Settlement | None = None
        failure: UpstreamFailure | None = None
        course = Course()
        attempt: Attempt | None = await self._first_attempt(job, course)
        while attempt is not None:
            try:
                return await self._deliver(job, attempt, replaced=replaced)
            except UpstreamFailure as failed:
                failure = failed
                replaced = self.delivery.settlement_of_failure(attempt, failed)
                self.observer.on_failure(attempt, failed, now_s=self.clock())
                if not course.on_failure(attempt, failed) or job.outbox.is_abandoned:
                    break
            attempt = self._next_attempt(job, course)
        assert failure is not None, "the loop ends only after a failure"
        assert replaced is not None, "each failure is settled"
        await self.ledger.settle(replaced)
        raise course.final_error(failure, plan=_plan(job))

    async def _first_attempt(self, job: Job, course: Course) -> Attempt | None:
        """The attempt, at once where there is room and nobody waits, else after its turn in line."""
        patron = patron_of(job)
        if not patron.places_max or patron.wait_s_max <= 0.0:
            return self._next_attempt(job, course)
        refusal: GatewayError = OverloadedError(f"Others wait for `{patron.route}` already.")
        try:
            if not self.waiting.has_line(patron.route):
                return self._next_attempt(job, course)
            if _plan(job).sleepers:
                # It stands behind the others; what it waits for, and for how long, its refusal would say.
                self._choose(job, course, now_s=self.clock())
        except GatewayError as error:
            if not _is_only_full(course):
                raise
            refusal = error
        course.is_excused = course.last_decision is not None and is_woken(course.last_decision)
        job.work.put_down()
        attempt, headers = await self.waiting.wait(
            patron,
            outbox=job.outbox,
            refusal=refusal,
            take=partial(self._take, job, course),
            warm_in_s=self._warm_in_s(course) if isinstance(refusal, ClusterAsleepError) else None,
        )
        job.work.take_up()
        job.ticket.headers += headers
        return attempt

    def _warm_in_s(self, course: Course) -> float | None:
        """When what the request waits for should be awake, if anybody knows."""
        decision = course.last_decision
        if decision is None or not is_warm_up_known(decision):
            return None
        return warm_in_s(decision, now_s=self.clock())

    def _take(self, job: Job, course: Course) -> Attempt | None:
        """For who waits: None while everything is full. What was changed meanwhile counts."""
        snapshot = self.latest()
        if snapshot is not job.snapshot and job.request.model in snapshot.fleet.routes:
            job = replace(job, snapshot=snapshot)
        try:
            return self._next_attempt(job, course)
        except GatewayError:
            if not _is_only_full(course):
                raise
            return None

    def _next_attempt(self, job: Job, course: Course) -> Attempt | None:
        """Choose by what is known now, and count the attempt at once; None: there is no further one.

        Nothing is awaited between the choice and the count: a burst would choose one cluster past its limit.
        """
        for _ in range(PLACE_TRIES_MAX):
            now_s = self.clock()
            decision, affinity = self._choose(job, course, now_s=now_s)
            candidate = next(iter(decision.ranked), None)
            if candidate is None:
                return None
            if course.attempt_count and not self._may_reroute(decision, course.attempt_count):
                return None
            if self.observer.traffic.takes_place(candidate.deployment, now_s=now_s):
                break
        else:
            if course.attempt_count:
                # What failed before is settled and told.
                return None
            raise OverloadedError("Other requests took each place that this one was to have; send it again.")
        number = course.on_attempt(cluster=candidate.deployment.cluster)
        excused_s = now_s - job.started_s if course.is_excused else 0.0
        attempt = self._new_attempt(job, decision, candidate, number=number, excused_s=excused_s)
        if affinity is not None:
            self.observer.traffic.affinity.on_dispatch(
                affinity, deployment_id=candidate.deployment.id, now_s=now_s
            )
        self.observer.on_dispatch(attempt, decision=decision, now_s=now_s)
        if number == 1 and (plan := _plan(job)).growable:
            # Once a request: what a provider's failure sends on was counted.
            settings = job.snapshot.fleet.settings
            profile = job.request.profile
            self.demand.on_choice(decision, plan=plan, profile=profile, settings=settings, now_s=now_s)
        return attempt

    def _choose(self, job: Job, course: Course, *, now_s: float) -> tuple[Decision, Affinity | None]:
        """The decision, and what it went by to keep like with like; raises the refusal of a first choice."""
        traffic, key_id, fleet = self.observer.traffic, job.principal.key_id, job.snapshot.fleet
        affinity = traffic.affinity.of_request(
            job.request,
            key_id=key_id,
            plan=_plan(job),
            window_s=fleet.settings.stickiness_window_s,
            now_s=now_s,
        )
        profile = traffic.asked(
            course.told(job.request.profile),
            key_id=key_id,
            waited_s=0.0 if course.is_excused else now_s - job.started_s,
            tried=frozenset(course.tried),
            affinity=affinity,
        )
        draw = random.random()  # noqa: S311 -- spreads ties, guards nothing
        decision = course.last_decision = choose(profile, fleet, traffic.states, now_s, draw)
        if not decision.ranked and not course.attempt_count:
            self.demand.on_stranded(decision)
            raise no_candidate_refusal(decision, profile=profile, now_s=now_s)
        return decision, affinity

    def _may_reroute(self, decision: Decision, tried_count: int) -> bool:
        # A last resort is worth one attempt: with everything down, more would only amplify.
        is_worth_it = decision.reason != "last_resort" and tried_count <= self.reroutes_max
        return is_worth_it and self.retries.take()

    async def _deliver(self, job: Job, attempt: Attempt, *, replaced: Settlement | None) -> Settlement:
        try:
            _take_granted(attempt, await self.ledger.hold(attempt.hold, replaced=replaced))
            headers = _headers(job, attempt)
            return await self.delivery.carry(
                attempt, job.outbox, request_id=job.request_id, headers=headers, work=job.work
            )
        except UpstreamFailure:
            raise
        except BaseException:
            self.observer.on_lost(attempt, now_s=self.clock())
            raise
        finally:
            self.waiting.on_departure(job.request.model)

    def _new_attempt(
        self, job: Job, decision: Decision, candidate: Candidate, *, number: int, excused_s: float
    ) -> Attempt:
        """`excused_s`: spent on waiting for a cluster to wake, which is no miss of who serves it then."""
        objective = job.snapshot.fleet.settings.objective
        now = self.wall_clock()
        bound = output_bound(profile=job.request.profile, deployment=candidate.deployment)
        hold = new_hold(
            attempt_id=new_attempt_id(now_ms=int(now.timestamp() * 1000)),
            attempt_number=number,
            request_id=job.request_id,
            owner=self.owner,
            principal=job.principal,
            request=job.request,
            decision=decision,
            candidate=candidate,
            bound=bound,
            claims=job.claims,
            now=now,
        )
        return Attempt(
            request=job.request,
            target=job.snapshot.targets[candidate.deployment.id],
            candidate=candidate,
            bound=bound,
            hold=hold,
            number=number,
            request_started_s=job.started_s,
            started_s=self.clock(),
            ttft_objective_s=objective.ttft_allowed_s(job.request.profile.prompt_tokens_estimate) + excused_s,
            has_content_filter_fallbacks=bool(_plan(job).content_filter_fallbacks),
        )


def _plan(job: Job) -> RoutePlan:
    return job.snapshot.fleet.routes[job.request.model]


def _is_only_full(course: Course) -> bool:
    """Whether what was refused may find a place by waiting."""
    return course.last_decision is not None and is_worth_waiting(course.last_decision)


def patron_of(job: Job) -> Patron:
    """How the request would wait: by its route's or the installation's bounds, or less if it says so."""
    settings, plan = job.snapshot.fleet.settings, _plan(job)
    wait_s = settings.queue_wait_s_max if plan.queue_wait_s_max is None else plan.queue_wait_s_max
    wished_s = job.request.wait_s_max
    return Patron(
        route=job.request.model,
        team=job.principal.team,
        weight=job.principal.weight,
        priority=job.principal.priority,
        places_max=settings.queue_places_max if plan.queue_places_max is None else plan.queue_places_max,
        wait_s_max=wait_s if wished_s is None else min(wait_s, wished_s),
    )


def _take_granted(attempt: Attempt, granted: Hold) -> None:
    """A clamped budget may have granted a shorter answer than was asked for: that is what is sent."""
    if granted.clamped_output_tokens is None:
        return
    attempt.hold = clamped_hold(granted)
    attempt.bound = OutputBound(tokens_max=granted.clamped_output_tokens, is_injected=True)


def _headers(job: Job, attempt: Attempt) -> Headers:
    deployment = attempt.candidate.deployment
    clamped = attempt.hold.clamped_output_tokens
    told = () if clamped is None else ((CLAMPED_HEADER, str(clamped)),)
    return (
        *job.ticket.headers,
        ("x-gateway-cluster", deployment.cluster),
        ("x-gateway-model", deployment.model),
        ("x-gateway-attempt", str(attempt.number)),
        *told,
    )
