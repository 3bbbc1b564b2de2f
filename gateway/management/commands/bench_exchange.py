"""Measures what it costs a choice that several processes share what they know."""

import json
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway.exchange import Exchange
from routing.choose import choose
from routing.learning import NOTHING_LEARNT, DeploymentState, Dispatched, Event, FirstToken, observe
from routing.types import Deployment, Fleet, Rate, RequestProfile, RoutePlan, RoutingSettings

MODEL = "model"
PROMPT_TOKENS = 500
DEPLOYMENTS_MAX, PROCESSES_MAX, CHOICES_MAX = 500, 64, 1_000_000
# The least of so many runs: what the machine did besides is not ours.
RUNS = 10
DISPATCHED = Dispatched(sent_s=0.0, prompt_tokens=PROMPT_TOKENS)
FIRST_TOKEN = FirstToken(
    ttft_ms=150.0, prompt_tokens=PROMPT_TOKENS, tokens_in_front=PROMPT_TOKENS, expected_s=0.1
)


class Process:
    """One process's part: its exchange and the states that belong to it."""

    def __init__(self, data_dir: Path) -> None:
        self.exchange = Exchange(clock=time.monotonic)
        self.states: dict[str, DeploymentState] = {}
        self.exchange.open(data_dir)

    def fold(self, deployment_id: str, event: Event) -> None:
        before = self.states.get(deployment_id, NOTHING_LEARNT)
        after = self.states[deployment_id] = observe(before, event, time.monotonic())
        self.exchange.tell(deployment_id, event, before=before, after=after)


class Command(BaseCommand):
    help = (
        "Measure the CPU time of a choice alone, and of reading and telling other processes, in microseconds."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--deployments", type=int, default=10)
        parser.add_argument("--processes", type=int, default=4)
        parser.add_argument("--choices", type=int, default=20_000)
        parser.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:
        for name, least, most in (
            ("deployments", 1, DEPLOYMENTS_MAX),
            ("processes", 2, PROCESSES_MAX),
            ("choices", RUNS, CHOICES_MAX),
        ):
            if not least <= options[name] <= most:
                raise CommandError(f"--{name} is {options[name]}: give a number from {least} to {most}")
        with tempfile.TemporaryDirectory() as folder:
            processes = [Process(Path(folder)) for _ in range(options["processes"])]
            try:
                for process in processes:
                    process.exchange.look()
                bench = Bench(processes, deployment_count=options["deployments"], choices=options["choices"])
                measured = bench.measure()
            finally:
                for process in processes:
                    process.exchange.close()
        if options["json"]:
            self.stdout.write(json.dumps(measured, indent=2))
            return
        for name, cpu_us in measured.items():
            self.stdout.write(f"{name.replace('_', ' '):50} {cpu_us:8.2f} us")


class Bench:
    """The first process measures; the others do something before it looks."""

    def __init__(self, processes: list[Process], *, deployment_count: int, choices: int) -> None:
        self._ours, *self._others = processes
        ids = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(deployment_count)]
        self._deployments = [_deployment(deployment_id) for deployment_id in ids]
        self._fleet = _fleet(self._deployments)
        self._choices = choices
        for process in processes:
            for deployment_id in ids:
                process.fold(deployment_id, DISPATCHED)
                process.fold(deployment_id, FIRST_TOKEN)
        self._hear()

    def measure(self) -> dict[str, float]:
        """Microseconds by what was measured."""
        count = self._choices
        return {
            "choice_alone": _cpu_us(self._choose, count=count),
            "others_read_with_nothing_new": _cpu_us(self._hear, count=count),
            "others_read_after_a_dispatch_of_each": _cpu_us(
                self._hear, count=count, before=partial(self._let_others, (DISPATCHED,))
            ),
            "others_read_after_a_dispatch_and_first_token_of_each": _cpu_us(
                self._hear, count=count, before=partial(self._let_others, (DISPATCHED, FIRST_TOKEN))
            ),
            "place_taken": _cpu_us(self._take_place, count=count),
            "event_told": _cpu_us(self._tell, count=count),
        }

    def _choose(self) -> None:
        choose(PROFILE, self._fleet, self._ours.states, time.monotonic(), 0.5)

    def _hear(self) -> None:
        self._ours.exchange.hear(self._ours.states, now_s=time.monotonic())

    def _let_others(self, events: Sequence[Event], number: int) -> None:
        for index, process in enumerate(self._others):
            deployment = self._deployments[(number + index) % len(self._deployments)]
            for event in events:
                process.fold(deployment.id, event)

    def _take_place(self) -> None:
        exchange = self._ours.exchange
        exchange.takes_place(self._deployments[0], self._ours.states, now_s=time.monotonic())

    def _tell(self) -> None:
        deployment_id = self._deployments[0].id
        state = self._ours.states[deployment_id]
        self._ours.exchange.tell(deployment_id, DISPATCHED, before=state, after=state)


def _cpu_us(act: Callable[[], None], *, count: int, before: Callable[[int], None] | None = None) -> float:
    """Microseconds of CPU time per call, without those of `before`, which runs before each."""
    least_s = float("inf")
    for _ in range(RUNS):
        spent_s = 0.0
        if before is None:
            begun_s = time.process_time()
            for _ in range(count // RUNS):
                act()
            spent_s = time.process_time() - begun_s
        else:
            for number in range(count // RUNS):
                before(number)
                begun_s = time.process_time()
                act()
                spent_s += time.process_time() - begun_s
        least_s = min(least_s, spent_s / (count // RUNS))
    return round(least_s * 1e6, 2)


PROFILE = RequestProfile(
    model=MODEL,
    surface="chat",
    body_bytes=4 * PROMPT_TOKENS,
    prompt_tokens_estimate=PROMPT_TOKENS,
    prompt_tokens_max=4 * PROMPT_TOKENS,
    output_tokens_max=200,
    choice_count=1,
    needs=frozenset(),
)


def _deployment(deployment_id: str) -> Deployment:
    return Deployment(
        id=deployment_id,
        cluster=deployment_id,
        cluster_kind="own",
        provider="",
        region="",
        model=MODEL,
        billing="committed",
        state="active",
        health="healthy",
        health_reason="",
        context_window=65_536,
        output_tokens_max=None,
        capabilities=frozenset(),
        rate=Rate.flat(input_microusd_per_mtok=1_000_000, output_microusd_per_mtok=1_000_000, source="bench"),
        cost_per_hour_nanousd=1_000_000_000,
        rated_tokens_per_s=1000,
        measured_tokens_per_s=None,
        queue_depth=None,
        latency_ms=None,
        in_flight_max=1_000_000,
    )


def _fleet(deployments: list[Deployment]) -> Fleet:
    settings = RoutingSettings(
        policy="marginal",
        latency_ms_max=5000,
        queue_depth_max=10,
        overhead_permille=1100,
        cluster_cost_threshold_nanousd=10_000_000,
        is_external_fallback_enabled=True,
    )
    plan = RoutePlan(model=MODEL, policy="", candidates=tuple(deployments), fallbacks=())
    return Fleet(routes={MODEL: plan}, settings=settings)
