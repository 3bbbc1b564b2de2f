"""What capacity costs now: the accounts' latest day and this process's traffic together."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from billing import capacity
from billing.amounts import plain_usd_text
from billing.entries import LedgerUnavailableError
from gateway import metrics
from gateway.database_threads import DatabaseThreads
from gateway.fleet import FleetKeeper, FleetSnapshot
from routing.cost import PERMILLE
from routing.economics import CostFigures, Served, cost_figures
from routing.learning import States
from routing.money import NANOUSD_PER_USD
from routing.vitals import expected_ttft_s, failure_share, known_tpot_s, speed_tokens_per_s

logger = structlog.get_logger(__name__)

# The accounts are asked so often, for so many of their latest hours; the gauges are set more often.
READ_INTERVAL_S = 60.0
PUBLISH_INTERVAL_S = 5.0
SPAN = timedelta(hours=24)


class FigureKeeper:
    """Keeps what the accounts say of the clusters' latest day, and computes the figures when asked."""

    def __init__(
        self,
        *,
        keeper: FleetKeeper,
        states: States,
        threads: DatabaseThreads,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._keeper = keeper
        self._states = states
        self._threads = threads
        self._clock = clock
        self._wall_clock = wall_clock
        self._served: Mapping[str, Served] = {}

    def figures(self) -> dict[str, CostFigures]:
        """Each cluster's, by its name."""
        snapshot = self._keeper.snapshot
        return cost_figures(
            deployments=[target.deployment for target in snapshot.targets.values()],
            served=self._served,
            settings=snapshot.fleet.settings,
            state=self._states,
            now_s=self._clock(),
        )

    async def run(self) -> None:
        """Read and publish for ever; accounts that cannot be read leave what was read last."""
        read_at_s = self._clock() - READ_INTERVAL_S
        while True:
            if self._clock() - read_at_s >= READ_INTERVAL_S:
                read_at_s = self._clock()
                await self._read()
            publish(self.figures())
            publish_learnt(self._keeper.snapshot, states=self._states, now_s=self._clock())
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def _read(self) -> None:
        now = self._wall_clock()
        try:
            self._served = await self._threads.run(
                lambda: capacity.load_served(from_at=now - SPAN, to_at=now)
            )
        except LedgerUnavailableError as error:
            logger.warning("figures_not_read", error=str(error))


def publish(figures: Mapping[str, CostFigures]) -> None:
    """Set the gauges; what is not known has none."""
    known: dict[metrics.Labels, float] = {}
    for cluster, each in figures.items():
        for name, value in (
            ("average_measured_usd_per_1k", _usd(each.average_measured_nanousd)),
            ("average_nameplate_usd_per_1k", _usd(each.average_nameplate_nanousd)),
            ("marginal_usd_per_1k", _usd(each.marginal_nanousd)),
            ("idle_usd_per_hour", _usd(each.idle_nanousd_per_hour)),
            ("break_even_tokens_per_s", each.break_even_tokens_per_s),
            ("waking_usd", _usd(each.waking_nanousd)),
        ):
            if value is not None:
                known[cluster, name] = value
    metrics.CLUSTER_FIGURES.put(known)


def publish_learnt(snapshot: FleetSnapshot, *, states: States, now_s: float) -> None:
    """Set the gauges of what traffic taught; what is not known, or not any more, has none."""
    known: dict[metrics.Labels, float] = {}
    for target in snapshot.targets.values():
        deployment = target.deployment
        state = states.get(deployment.id)
        if state is None:
            continue
        vitals = state.vitals
        for name, value in (
            ("ttft_s", expected_ttft_s(vitals, polled_s=None, polled_age_s=0.0, now_s=now_s)),
            ("tpot_s", known_tpot_s(vitals, now_s=now_s)),
            ("failure_share", failure_share(vitals, now_s=now_s)),
            ("tokens_per_s", speed_tokens_per_s(vitals, running_count=state.all_in_flight, now_s=now_s)),
        ):
            if value is not None:
                known[deployment.cluster, deployment.model, name] = value
    metrics.LEARNT.put(known)


def as_document(each: CostFigures) -> dict[str, str | float | int | None]:
    """For GET /health: USD as exact decimals in text, as money is written everywhere."""
    overhead = each.overhead_measured_permille
    return {
        "name": each.cluster,
        "average_measured_usd_per_1k": _text(each.average_measured_nanousd),
        "average_nameplate_usd_per_1k": _text(each.average_nameplate_nanousd),
        "marginal_usd_per_1k": _text(each.marginal_nanousd),
        "marginal_kind": each.marginal_kind,
        "idle_usd_per_hour": _text(each.idle_nanousd_per_hour),
        "break_even_tokens_per_s": each.break_even_tokens_per_s,
        "served_tokens_per_s": each.served_tokens_per_s,
        "overhead_measured": None if overhead is None else overhead / PERMILLE,
        "waking_usd": _text(each.waking_nanousd),
    }


def _usd(nanousd: int | None) -> float | None:
    return None if nanousd is None else nanousd / NANOUSD_PER_USD


def _text(nanousd: int | None) -> str | None:
    return None if nanousd is None else plain_usd_text(nanousd)
