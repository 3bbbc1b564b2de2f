"""The live page's feed: what this process served and what it thinks of its fleet, once a second, lossy."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from uuid import UUID

import structlog
from channels.layers import get_channel_layer

from gateway.fleet import FleetKeeper
from routing.breaker import phase
from routing.cache_hits import hit_share
from routing.learning import NOTHING_LEARNT, DeploymentState
from routing.types import Deployment
from routing.vitals import expected_ttft_s, speed_tokens_per_s

logger = structlog.get_logger(__name__)

GROUP = "live"
INTERVAL_S = 1.0
REQUESTS_MAX = 50  # of one second; more are counted, not shown
COMPLAINT_INTERVAL_S = 60.0


class LiveFeed:
    """Collects settled requests and publishes them with the fleet's state to the channel layer.

    A layer that fails costs the page its news and nobody else anything.
    """

    def __init__(
        self,
        *,
        process_id: UUID,
        keeper: FleetKeeper,
        states: dict[str, DeploymentState],
        clock: Callable[[], float],
    ) -> None:
        self._process_id = str(process_id)
        self._keeper = keeper
        self._states = states
        self._clock = clock
        self._lines: deque[dict[str, Any]] = deque(maxlen=REQUESTS_MAX)
        self._request_count = 0
        self._cost_nanousd = 0
        self._served: Counter[tuple[str, str]] = Counter()
        self._updated_at_s = clock()
        self._complained_at_s = -COMPLAINT_INTERVAL_S

    def listener(self, line: dict[str, Any]) -> None:
        """Take note of a settled attempt: called on the hot path, so no more than an append."""
        self._lines.append(line)
        self._request_count += 1
        self._cost_nanousd += line["cost_nanousd"]
        self._served[line["cluster"], line["served_model"]] += 1

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                layer = get_channel_layer()
                await layer.group_send(GROUP, {"type": "live.update", "update": self.update()})
            except Exception as error:  # noqa: BLE001 -- the loop's edge: news may be lost, the loop may not
                self._complain(error)

    def update(self) -> dict[str, Any]:
        """What happened since the last call, and the fleet now; JSON values only."""
        requests, self._lines = list(self._lines), deque(maxlen=REQUESTS_MAX)
        count, self._request_count = self._request_count, 0
        cost, self._cost_nanousd = self._cost_nanousd, 0
        served, self._served = self._served, Counter()
        now_s = self._clock()
        elapsed_s, self._updated_at_s = max(now_s - self._updated_at_s, INTERVAL_S), now_s
        targets = self._keeper.snapshot.targets.values()
        return {
            "process": self._process_id,
            "request_count": count,
            "cost_nanousd": cost,
            "requests": requests,
            "fleet": [
                self._row(deployment, served=served, now_s=now_s, elapsed_s=elapsed_s)
                for deployment in (target.deployment for target in targets)
            ],
        }

    def _row(
        self, deployment: Deployment, *, served: Counter[tuple[str, str]], now_s: float, elapsed_s: float
    ) -> dict[str, Any]:
        state = self._states.get(deployment.id, NOTHING_LEARNT)
        speed = speed_tokens_per_s(state.vitals, running_count=state.all_in_flight, now_s=now_s)
        ttft_s = expected_ttft_s(state.vitals, polled_s=None, polled_age_s=0.0, now_s=now_s)
        return {
            "cluster": deployment.cluster,
            "model": deployment.model,
            "kind": deployment.cluster_kind,
            "state": deployment.state,
            "health": deployment.health,
            "reason": deployment.health_reason,
            "breaker": phase(state.breaker, now_s=now_s),
            "in_flight": state.in_flight,
            "queue_depth": deployment.queue_depth,
            "requests_per_s": round(served[deployment.cluster, deployment.model] / elapsed_s, 2),
            "tokens_per_s": deployment.measured_tokens_per_s if speed is None else round(speed),
            "ttft_ms": None if ttft_s is None else round(ttft_s * 1000),
            "cache_hit_share": hit_share(state.cache_hits, now_s=now_s),
        }

    def _complain(self, error: Exception) -> None:
        now_s = self._clock()
        if now_s - self._complained_at_s >= COMPLAINT_INTERVAL_S:
            self._complained_at_s = now_s
            logger.warning("live_feed_lost", error=str(error))
