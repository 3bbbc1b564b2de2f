"""Tells the control plane what is spilt for want of autoscaled clusters, so that it wakes them.

On the hot path nothing is written: sums by cluster, which a loop hands over about once a second, or at once
for a request that has nowhere else to go. What could not be handed over is kept and added to.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from billing.entries import LedgerUnavailableError
from clusters.waking import note_demand
from gateway import metrics
from gateway.database_threads import DatabaseThreads
from routing.spilling import spilt_for, stranded_for
from routing.types import Decision, RequestProfile, RoutePlan, RoutingSettings

logger = structlog.get_logger(__name__)

TELL_S = 1.0
# Between two tellings, however many requests have nowhere to go.
TELL_S_MIN = 0.1


class WakeDemand:
    """One per process; costs nothing where no cluster of a route can be woken."""

    def __init__(self, *, threads: DatabaseThreads, wall_clock: Callable[[], datetime]) -> None:
        self._threads = threads
        self._wall_clock = wall_clock
        self._spilt_nanousd: dict[str, int] = {}
        self._asked: set[str] = set()
        self._bell = asyncio.Event()

    def on_choice(
        self,
        decision: Decision,
        *,
        plan: RoutePlan,
        profile: RequestProfile,
        settings: RoutingSettings,
        now_s: float,
    ) -> None:
        """A request goes to the best of a decision."""
        deployment = spilt_for(decision, plan=plan, profile=profile, settings=settings, now_s=now_s)
        if deployment is None:
            return
        cluster, cost = deployment.cluster, decision.ranked[0].cost_nanousd
        self._spilt_nanousd[cluster] = self._spilt_nanousd.get(cluster, 0) + cost
        metrics.SPILT.labels(cluster).inc(cost)

    def on_stranded(self, decision: Decision) -> None:
        """A request found nobody."""
        deployment = stranded_for(decision)
        if deployment is not None and deployment.cluster not in self._asked:
            self._asked.add(deployment.cluster)
            self._bell.set()

    async def run(self) -> None:
        """Hand over for ever."""
        while True:
            try:
                async with asyncio.timeout(TELL_S):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()
            await self.tell()
            await asyncio.sleep(TELL_S_MIN)

    async def tell(self) -> None:
        """Hand over what there is; where the control plane cannot be reached it is kept."""
        if not self._spilt_nanousd and not self._asked:
            return
        spilt, self._spilt_nanousd = self._spilt_nanousd, {}
        asked, self._asked = self._asked, set()
        now = self._wall_clock()
        try:
            await self._threads.run(lambda: note_demand(spilt_nanousd=spilt, asked=asked, now=now))
        except LedgerUnavailableError as error:
            logger.warning("wake_demand_not_told", error=str(error))
            for cluster, amount in spilt.items():
                self._spilt_nanousd[cluster] = self._spilt_nanousd.get(cluster, 0) + amount
            self._asked |= asked
