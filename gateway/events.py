"""Tells what happened to an attempt to who listens: routing's memory, metrics, the log, the live page."""

from collections.abc import Callable
from typing import Any

import structlog

from billing.entries import Settlement
from gateway import metrics
from gateway.attempt import Attempt
from gateway.traffic import Traffic
from gateway.upstream import UpstreamFailure
from routing.types import Decision

logger = structlog.get_logger(__name__)


class Observer:
    """Tells routing's memory first, then the rest. Each listener gets a dict per settled attempt, at once."""

    def __init__(self, *, traffic: Traffic) -> None:
        self.traffic = traffic
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def on_dispatch(self, attempt: Attempt, *, decision: Decision, now_s: float) -> None:
        self.traffic.on_dispatch(attempt, now_s=now_s)
        deployment = attempt.candidate.deployment
        kind = "cluster" if deployment.cluster_kind == "own" else "external"
        reason = "reroute" if attempt.number > 1 else decision.reason
        metrics.decisions(deployment.cluster, kind, reason).untold += 1
        if attempt.number > 1:
            metrics.of_cluster(deployment.cluster).reroutes.untold += 1

    def on_failure(self, attempt: Attempt, failed: UpstreamFailure, *, now_s: float) -> None:
        """An attempt that failed before any content."""
        self.traffic.on_failure(attempt, failed, now_s=now_s)
        cluster = attempt.candidate.deployment.cluster
        metrics.of_cluster(cluster).failed.untold += 1
        logger.warning(
            "attempt_failed",
            cluster=cluster,
            attempt=attempt.number,
            code=failed.error.code,
            reason=failed.error.message,
            is_sent=failed.is_sent,
        )

    def on_end(self, attempt: Attempt, settlement: Settlement, *, request_id: str, now_s: float) -> None:
        """A settled attempt that had content, or whose caller left."""
        self.traffic.on_end(attempt, settlement, now_s=now_s)
        self._count(attempt, settlement)
        usage, deployment = settlement.usage, attempt.candidate.deployment
        line = {
            "request_id": request_id,
            "team": settlement.hold.attribution["team"],
            "key": settlement.hold.attribution["key_name"],
            "model": attempt.request.model,
            "cluster": deployment.cluster,
            "served_model": deployment.model,
            "outcome": settlement.outcome,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "is_estimate": usage.is_estimate,
            "cost_nanousd": settlement.cost_nanousd,
            "ttft_ms": settlement.ttft_ms,
            "duration_ms": settlement.duration_ms,
        }
        logger.info("request_settled", **line)
        for listener in self.listeners:
            listener(line)

    def on_lost(self, attempt: Attempt, *, now_s: float) -> None:
        """An attempt whose end could not be booked: the cluster is not to blame."""
        self.traffic.on_lost(attempt, now_s=now_s)

    def _count(self, attempt: Attempt, settlement: Settlement) -> None:
        counters = metrics.of_cluster(attempt.candidate.deployment.cluster)
        (counters.ok if settlement.outcome == "ok" else counters.failed).untold += 1
        counters.duration.observe(settlement.duration_ms / 1000)
        if attempt.ttft_s is not None:
            counters.ttft.observe(attempt.ttft_s)
        usage, cost, held = settlement.usage, settlement.cost_nanousd, settlement.hold.held_nanousd
        counters.input_tokens.untold += usage.input_tokens
        counters.cached_tokens.untold += usage.cache_read_tokens
        counters.output_tokens.untold += usage.output_tokens
        if cost > held:
            counters.cost.untold += held
            counters.variance.untold += cost - held
        else:
            counters.cost.untold += cost
        if usage.is_estimate:
            counters.estimates.untold += 1
