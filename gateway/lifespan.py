"""Makes the one long-lived object of a web process, starts its loops and ends them in order."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import connections
from redis.asyncio import Redis

from billing import ledger
from billing.group_commit import GroupCommit
from billing.ownership import Owner
from gateway import metrics
from gateway.accounting import WindowCalendar
from gateway.admission import Admission
from gateway.answer_seal import AnswerSeal
from gateway.attempt import Reader
from gateway.complaints import Complaints
from gateway.database_threads import DatabaseThreads
from gateway.delivery import Delivery, Limits
from gateway.demand import WakeDemand
from gateway.events import Observer
from gateway.exchange import Exchange
from gateway.figures import FigureKeeper
from gateway.fleet import FleetKeeper
from gateway.idempotency import AnswerKeeper
from gateway.leases import LeasedLimiter
from gateway.live import LiveFeed
from gateway.nodes import NodeExchange
from gateway.overload import Door
from gateway.pipeline import Pipeline
from gateway.pumps import PumpSet
from gateway.ratelimit import LocalLimiter
from gateway.retry_budget import RetryBudget
from gateway.sending import Sender
from gateway.token_counts import TokenCounter
from gateway.traffic import Traffic, call_later
from gateway.upstream import Upstreams
from gateway.waiting import WaitRoom

logger = structlog.get_logger(__name__)

CONNECT_STORE_S = 0.5
CLAIM_THREADS = 2
GAUGE_INTERVAL_S = 1.0
CANCELLATIONS_MAX = 10
CANCELLATION_WAIT_S = 0.5


def wall_clock() -> datetime:
    return datetime.now(tz=UTC)


def wall_clock_s() -> int:
    return int(time.time())


def _store() -> Redis | None:
    """A client of the store, with connections of its own; None: there is no store."""
    if not settings.REDIS_URL:
        return None
    client: Redis = Redis.from_url(settings.REDIS_URL, socket_connect_timeout=CONNECT_STORE_S)
    return client


def _shared_limiter(*, process: str, clock: Callable[[], float]) -> LeasedLimiter | None:
    """Where limits are shared; None: without a store each process counts alone."""
    store = _store()
    return None if store is None else LeasedLimiter(redis=store, process=process, clock=clock)


def _node_exchange(exchange: Exchange, *, clock: Callable[[], float]) -> NodeExchange | None:
    """Where this node's processes may speak to other nodes; None: there is no store, or nothing to tell."""
    store, folder = _store(), exchange.folder
    if store is None or folder is None:
        return None
    return NodeExchange(redis=store, folder=folder, clock=clock)


class Gateway:
    """All that a web process keeps between requests; `start` before the first, `stop` after the last."""

    def __init__(self) -> None:
        clock = time.monotonic
        self.owner = Owner()
        self.keeper = FleetKeeper(clock=clock, wall_clock=wall_clock)
        self.ledger = GroupCommit(owner=self.owner, wall_clock=wall_clock)
        self.limiter = _shared_limiter(process=str(self.owner.id), clock=clock)
        # Where processes cannot ask each other, each has its part of every limit.
        local = self.limiter.local if self.limiter is not None else LocalLimiter(clock=clock)
        local.share = settings.WORKERS
        self.admission = Admission(limiter=self.limiter or local, in_flight_max=settings.IN_FLIGHT_MAX)
        self.pumps = PumpSet(
            detached_max=settings.DETACHED_PUMPS_MAX, detached_drain_s=settings.DETACHED_DRAIN_S
        )
        # Reports may take long: claims do not wait for them.
        self.claim_threads = DatabaseThreads(count=CLAIM_THREADS)
        self.report_threads = DatabaseThreads(count=1)
        self.demand_threads = DatabaseThreads(count=1)
        self.demand = WakeDemand(threads=self.demand_threads, wall_clock=wall_clock)
        self.answers = AnswerKeeper(
            owner=self.owner,
            threads=self.claim_threads,
            pumps=self.pumps,
            seal=AnswerSeal(keys=settings.ENCRYPTION_KEYS),
            kept_for=timedelta(hours=settings.IDEMPOTENCY_HOURS),
            answer_bytes_max=settings.IDEMPOTENT_ANSWER_BYTES_MAX,
            buffer_bytes_max=settings.STREAM_BUFFER_BYTES_MAX,
            wall_clock=wall_clock,
        )
        self.upstreams = Upstreams(
            connect_timeout_s=settings.CONNECT_TIMEOUT_S, clock=clock, wall_clock_s=wall_clock_s
        )
        self.token_counter = TokenCounter(upstreams=self.upstreams, clock=clock)
        self.exchange = Exchange(clock=clock)
        door = Door(clock=clock, cpu_clock=time.process_time, call_later=call_later)
        self.door = door if settings.SHEDS_LOAD else None
        self.traffic = Traffic(clock=clock, exchange=self.exchange)
        self.observer = Observer(traffic=self.traffic)
        self.live = LiveFeed(
            process_id=self.owner.id, keeper=self.keeper, states=self.traffic.states, clock=clock
        )
        self.observer.listeners.append(self.live.listener)
        self.figures = FigureKeeper(
            keeper=self.keeper,
            states=self.traffic.states,
            threads=self.report_threads,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.pipeline = Pipeline(
            owner=self.owner.id,
            buffer_bytes_max=settings.STREAM_BUFFER_BYTES_MAX,
            reroutes_max=settings.REROUTES_MAX,
            admission=self.admission,
            ledger=self.ledger,
            delivery=self._delivery(clock),
            pumps=self.pumps,
            observer=self.observer,
            retries=RetryBudget(clock=clock),
            waiting=WaitRoom(clock=clock, is_draining=lambda: self.admission.is_draining),
            demand=self.demand,
            latest=lambda: self.keeper.snapshot,
            calendar=WindowCalendar(),
            clock=clock,
            wall_clock=wall_clock,
        )
        self._nodes: NodeExchange | None = None
        self._loops: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Recover what dead processes left, read the control plane, start the loops: then we are ready."""
        await asyncio.to_thread(self._recover)
        await self.keeper.load()
        self.ledger.start()
        self.exchange.open(settings.DATA_DIR)
        watch = self.keeper.watch(poll_s=settings.SNAPSHOT_POLL_S, stale_s=settings.SNAPSHOT_STALE_S)
        loops = [watch, self._publish_gauges(), self.live.run(), self.answers.run(), self.figures.run()]
        loops += [self.exchange.run(self.traffic.states), self.demand.run(), self._complaints().run()]
        self._nodes = _node_exchange(self.exchange, clock=time.monotonic)
        if self._nodes is not None:
            loops.append(self._nodes.run())
        if self.limiter is not None:
            loops.append(self.limiter.run())
        for loop in loops:
            task = asyncio.get_running_loop().create_task(loop)
            self._loops.add(task)
            task.add_done_callback(self._on_loop_ended)
        await self.exchange.be_met()
        logger.info("gateway_ready", models=len(self.keeper.snapshot.fleet.routes))

    async def stop(self) -> None:
        """Let every answer settle, commit what is queued, and give up the claim to life last."""
        await self.pumps.join()
        await self._end_loops()
        self.exchange.close()
        await asyncio.to_thread(self.ledger.stop)
        await asyncio.to_thread(self.keeper.close)
        await asyncio.to_thread(self.claim_threads.close)
        await asyncio.to_thread(self.report_threads.close)
        await asyncio.to_thread(self.demand_threads.close)
        await self.upstreams.aclose()
        for shared in (self.limiter, self._nodes):
            if shared is not None:
                await shared.aclose()
        await asyncio.to_thread(self.owner.release)
        logger.info("gateway_stopped")

    def begin_drain(self, *, timeout_s: float) -> None:
        """Take nothing new; after `timeout_s` end what still runs, each with an error event."""
        if self.admission.is_draining:
            return
        self.admission.is_draining = True
        self.pipeline.waiting.ring()
        asyncio.get_running_loop().call_later(timeout_s, self.pumps.cut)
        logger.info("drain_started", in_flight=self.admission.in_flight, timeout_s=timeout_s)

    def _complaints(self) -> Complaints:
        return Complaints(
            keeper=self.keeper,
            states=self.traffic.states,
            threads=self.demand_threads,
            clock=time.monotonic,
            wall_clock=wall_clock,
        )

    def _delivery(self, clock: Callable[[], float]) -> Delivery:
        return Delivery(
            limits=Limits(
                first_byte_s=settings.FIRST_BYTE_TIMEOUT_S,
                plain_s=settings.PLAIN_TIMEOUT_S,
                idle_s=settings.IDLE_TIMEOUT_S,
                total_s=settings.TOTAL_TIMEOUT_S,
            ),
            ledger=self.ledger,
            sender=Sender(upstreams=self.upstreams, clock=clock, wall_clock_s=wall_clock_s),
            reader=Reader(
                ledger=self.ledger,
                on_first_token=self.traffic.on_first_token,
                on_progress=self.traffic.on_progress,
                clock=clock,
                wall_clock=wall_clock,
                response_bytes_max=settings.RESPONSE_BYTES_MAX,
                line_bytes_max=settings.STREAM_LINE_BYTES_MAX,
            ),
            pumps=self.pumps,
            observer=self.observer,
            clock=clock,
            wall_clock=wall_clock,
        )

    def _recover(self) -> None:
        self.owner.claim()
        in_doubt = ledger.mark_in_doubt(now=wall_clock())
        if in_doubt:
            logger.warning("attempts_in_doubt", count=in_doubt)
        connections.close_all()

    async def _publish_gauges(self) -> None:
        while True:
            metrics.IN_FLIGHT.set(self.admission.in_flight)
            metrics.LEDGER_QUEUE.set(self.ledger.queue_depth)
            if self.door is not None:
                metrics.OVERLOAD_LIMIT.set(self.door.limit)
            metrics.tell_tallies()
            await asyncio.sleep(GAUGE_INTERVAL_S)

    async def _end_loops(self) -> None:
        """Cancel the loops until they end: a client library may swallow a cancellation that meets an answer.

        (Seen with the channel layer's at a busy stop: the process then hung until it was killed.)
        """
        for _ in range(CANCELLATIONS_MAX):
            if not self._loops:
                return
            for task in list(self._loops):
                task.cancel()
            await asyncio.wait(list(self._loops), timeout=CANCELLATION_WAIT_S)
        if self._loops:
            logger.error("loops_did_not_end", count=len(self._loops))

    def _on_loop_ended(self, task: asyncio.Task[None]) -> None:
        self._loops.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("loop_ended", exc_info=task.exception())
