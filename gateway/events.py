"""Tells what happened to an attempt to who listens: routing's memory, metrics, the log, the live page."""

import random
from collections.abc import Callable
from typing import Any

import structlog

from billing.entries import Settlement
from gateway import metrics
from gateway.attempt import Attempt
from gateway.upstream import UpstreamFailure
from routing.learning import (
    NOTHING_LEARNT,
    Abandoned,
    DeploymentState,
    Dispatched,
    Event,
    Failed,
    Finished,
    FirstToken,
    observe,
)
from routing.types import Decision

logger = structlog.get_logger(__name__)

# Outcomes that say something bad about the cluster.
COUNTED_OUTCOMES = frozenset({"truncated"})


class Observer:
    """The process's memory of its deployments. Each listener gets a dict per settled attempt, at once."""

    def __init__(self) -> None:
        self.states: dict[str, DeploymentState] = {}
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def on_dispatch(self, attempt: Attempt, *, decision: Decision, now_s: float) -> None:
        self._fold(attempt, Dispatched(sent_s=attempt.started_s), now_s)
        deployment = attempt.candidate.deployment
        kind = "cluster" if deployment.cluster_kind == "own" else "external"
        reason = "reroute" if attempt.number > 1 else decision.reason
        metrics.decision_counter(deployment.cluster, kind, reason).inc()
        if attempt.number > 1:
            metrics.of_cluster(deployment.cluster).reroutes.inc()

    def on_failure(self, attempt: Attempt, failed: UpstreamFailure, *, now_s: float) -> None:
        """An attempt that failed before any content."""
        draw = random.random()  # noqa: S311 -- spreads the breakers' reopening
        event: Event = Abandoned(sent_s=attempt.started_s)
        if failed.is_counted:
            event = Failed(sent_s=attempt.started_s, draw=draw, retry_after_s=failed.retry_after_s)
        self._fold(attempt, event, now_s)
        cluster = attempt.candidate.deployment.cluster
        metrics.of_cluster(cluster).failed.inc()
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
        self._learn(attempt, settlement, now_s)
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
        self._fold(attempt, Abandoned(sent_s=attempt.started_s), now_s)

    def _learn(self, attempt: Attempt, settlement: Settlement, now_s: float) -> None:
        if attempt.ttft_s is not None:
            self._fold(attempt, FirstToken(ttft_ms=attempt.ttft_s * 1000), now_s)
        event: Event
        if settlement.outcome == "ok":
            event = Finished(
                sent_s=attempt.started_s,
                duration_ms=float(settlement.duration_ms),
                output_tokens=settlement.usage.output_tokens,
            )
        elif settlement.outcome in COUNTED_OUTCOMES and settlement.error_code != "draining":
            draw = random.random()  # noqa: S311 -- spreads the breakers' reopening
            event = Failed(sent_s=attempt.started_s, draw=draw)
        else:
            event = Abandoned(sent_s=attempt.started_s)
        self._fold(attempt, event, now_s)

    def _count(self, attempt: Attempt, settlement: Settlement) -> None:
        counters = metrics.of_cluster(attempt.candidate.deployment.cluster)
        (counters.ok if settlement.outcome == "ok" else counters.failed).inc()
        counters.duration.observe(settlement.duration_ms / 1000)
        if attempt.ttft_s is not None:
            counters.ttft.observe(attempt.ttft_s)
        counters.input_tokens.inc(settlement.usage.input_tokens)
        counters.output_tokens.inc(settlement.usage.output_tokens)
        counters.cost.inc(min(settlement.cost_nanousd, settlement.hold.held_nanousd))
        counters.variance.inc(max(settlement.cost_nanousd - settlement.hold.held_nanousd, 0))
        if settlement.usage.is_estimate:
            counters.estimates.inc()

    def _fold(self, attempt: Attempt, event: Event, now_s: float) -> None:
        deployment_id = attempt.candidate.deployment.id
        self.states[deployment_id] = observe(self.states.get(deployment_id, NOTHING_LEARNT), event, now_s)
