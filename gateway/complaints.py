"""Tells the control plane which clusters fail this process's requests, and which answer again."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from billing.entries import LedgerUnavailableError
from clusters.traffic_signs import note_traffic
from gateway.database_threads import DatabaseThreads
from gateway.fleet import FleetKeeper
from routing.learning import DeploymentState

logger = structlog.get_logger(__name__)

# Looking costs a walk over what is remembered of deployments; a person who looks waits no longer for it.
LOOK_S = 0.25


class Complaints:
    """Looks at the breakers instead of listening: the hot path does nothing for it."""

    def __init__(
        self,
        *,
        keeper: FleetKeeper,
        states: Mapping[str, DeploymentState],
        threads: DatabaseThreads,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
    ) -> None:
        """`states` are by the id of their deployment, on the monotonic `clock`."""
        self._keeper = keeper
        self._states = states
        self._threads = threads
        self._clock = clock
        self._wall_clock = wall_clock
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.tell()

    async def tell(self) -> None:
        """Tell what changed since the last telling; what could not be told is told at the next look."""
        open_until_s = self._open_until_s()
        news = {name: until_s for name, until_s in open_until_s.items() if self._told.get(name) != until_s}
        recovered = [name for name in self._told if name not in open_until_s]
        if not news and not recovered:
            return
        now, now_s = self._wall_clock(), self._clock()
        avoided = {name: now + timedelta(seconds=until_s - now_s) for name, until_s in news.items()}
        try:
            await self._threads.run(lambda: note_traffic(avoided=avoided, recovered=recovered, now=now))
        except LedgerUnavailableError as error:
            logger.warning("complaints_not_told", error=str(error))
            return
        self._told = open_until_s

    def _open_until_s(self) -> dict[str, float]:
        """By cluster, of its deployments' breakers that are not closed the one that stays so for longest."""
        found: dict[str, float] = {}
        targets = self._keeper.snapshot.targets
        for deployment_id, state in self._states.items():
            until_s = state.breaker.open_until_s
            target = targets.get(deployment_id) if until_s != 0.0 else None
            if target is not None:
                name = target.deployment.cluster
                found[name] = max(found.get(name, 0.0), until_s)
        return found
