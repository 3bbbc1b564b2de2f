"""Plays traces against simulated fleets, by the same decision as in production, and says what they cost."""

import csv
import gzip
import json
import random
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import exp, log
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway.management.simulation_plot import plot_svg
from routing.baselines import BASELINES
from routing.clairvoyant import PERFECT_INFORMATION, PerfectRouter
from routing.physics import Router, Site
from routing.policies import POLICIES
from routing.simulate import PolicyRouter, ProcessesRouter, Result, play

TRACES = Path(settings.ROOT) / "routing" / "traces"
DEFAULT_POLICIES = ("marginal", "seed-formula")
SECTIONS = ("profiles", "fleets", "slo", "miss_penalty_usd_per_mtok", "scenarios")
SEED = 7
SLO_PERCENT_MIN = 99.0
KNOWN = (*POLICIES, *BASELINES, PERFECT_INFORMATION)


class Command(BaseCommand):
    help = "Play traces against simulated fleets under one or more policies."

    def add_arguments(self, parser: ArgumentParser) -> None:
        names = ", ".join(KNOWN)
        parser.add_argument("--suite", default="dev", help="dev, or a folder with fleets.json and its traces")
        parser.add_argument("--policy", action="append", help=f"all, or any of: {names} (repeatable)")
        parser.add_argument("--scenario", action="append", help="only these scenarios (repeatable)")
        parser.add_argument(
            "--processes", type=int, default=1, help="gateway processes that share the traffic"
        )
        parser.add_argument(
            "--told-after-ms", type=float, default=0.0, help="how late processes hear; -1: never"
        )
        parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the results as well")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        folder = TRACES if options["suite"] == "dev" else Path(options["suite"])
        suite = _suite(folder)
        scenarios = _chosen(suite, options["scenario"])
        results = [
            result
            for policy in _policies(options["policy"])
            for result in self._played(policy, suite, scenarios, folder, options)
        ]
        if options["plot"] is not None:
            _write_plot(options["plot"], results)
        if options["json"]:
            self.stdout.write(json.dumps(_document(results), indent=2))
            return
        self.stdout.write(f"{'geomean of total / LP bound':52} " + _geomeans_text(results))

    def _played(
        self,
        policy: str,
        suite: Mapping[str, Any],
        scenarios: Sequence[Mapping[str, Any]],
        folder: Path,
        options: Mapping[str, Any],
    ) -> Iterator[Result]:
        for scenario in scenarios:
            result = play(
                scenario=scenario,
                suite=suite,
                rows=_rows(folder / scenario["trace"]),
                policy=policy,
                router_of=partial(_router, policy, suite, options["processes"], options["told_after_ms"]),
                chance_of=random.Random,
            )
            if not options["json"]:
                self.stdout.write(_line(result))
            yield result


def _router(
    policy: str, suite: Mapping[str, Any], processes: int, told_after_ms: float, sites: Sequence[Site]
) -> Router:
    if policy in BASELINES:
        return BASELINES[policy](sites, random.Random(SEED))  # noqa: S311 -- a simulation
    if policy == PERFECT_INFORMATION:
        processes = 1  # it knows all there is, so more would know the same
    kind = PerfectRouter if policy == PERFECT_INFORMATION else PolicyRouter
    routers = [
        kind(
            policy,
            sites=sites,
            slo=suite["slo"],
            penalty=suite["miss_penalty_usd_per_mtok"],
            chance=random.Random(SEED + number),  # noqa: S311 -- a simulation
        )
        for number in range(processes)
    ]
    if processes == 1:
        return routers[0]
    told_after_s = None if told_after_ms < 0 else told_after_ms / 1000
    return ProcessesRouter(routers, told_after_s=told_after_s)


def _suite(folder: Path) -> Mapping[str, Any]:
    try:
        suite: Mapping[str, Any] = json.loads((folder / "fleets.json").read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {folder / 'fleets.json'}: {error}") from error
    missing = [
        name
        for name in ("profiles", "fleets", "slo", "miss_penalty_usd_per_mtok", "scenarios")
        if name not in suite
    ]
    if missing:
        raise CommandError(f"{folder / 'fleets.json'} lacks {', '.join(missing)}")
    return suite


def _chosen(suite: Mapping[str, Any], names: Sequence[str] | None) -> list[Mapping[str, Any]]:
    known = {scenario["name"]: scenario for scenario in suite["scenarios"]}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise CommandError(f"there is no scenario {unknown[0]!r}: there are {', '.join(known)}")
    return [known[name] for name in names or known]


def _policies(names: Sequence[str] | None) -> list[str]:
    if names and "all" in names:
        return list(KNOWN)
    unknown = [name for name in names or () if name not in KNOWN]
    if unknown:
        raise CommandError(f"there is no policy {unknown[0]!r}: there are {', '.join(KNOWN)}")
    return list(names or DEFAULT_POLICIES)


def _rows(path: Path) -> list[tuple[int, int, int]]:
    try:
        with gzip.open(path, "rt") as file:
            reader = csv.reader(file)
            next(reader)
            return [(int(t_ms), int(given), int(made)) for t_ms, given, made, *_ in reader]
    except (OSError, ValueError, StopIteration) as error:
        raise CommandError(f"cannot read the trace {path}: {error}") from error


def _line(result: Result) -> str:
    ratio = "-" if result.lp_ratio is None else f"{result.lp_ratio:.3f}"
    parts = (
        f"{result.scenario:26} {result.policy:24}",
        f"${result.total_usd:8.2f}",
        f"x LP {ratio:>6}",
        f"SLO {result.slo_percent:6.2f} %",
        f"metered ${result.metered_usd:.2f}",
        f"autoscaled ${result.autoscaled_usd:.2f}",
        f"penalty ${result.penalty_usd:.2f}",
        f"TTFT p50 {result.ttft_p50_s:.2f} s",
        f"p99 {result.ttft_p99_s:.2f} s",
    )
    return "  ".join(parts)


def _geomeans(results: Sequence[Result]) -> dict[str, float]:
    ratios: dict[str, list[float]] = {}
    for result in results:
        if result.lp_ratio is not None:
            ratios.setdefault(result.policy, []).append(result.lp_ratio)
    return {policy: exp(sum(map(log, found)) / len(found)) for policy, found in ratios.items()}


def _geomeans_text(results: Sequence[Result]) -> str:
    return "  ".join(f"{policy} {ratio:.3f}" for policy, ratio in _geomeans(results).items())


def _write_plot(path: Path, results: Sequence[Result]) -> None:
    try:
        path.write_text(plot_svg(results, geomeans=_geomeans(results), slo_percent_min=SLO_PERCENT_MIN))
    except OSError as error:
        raise CommandError(f"cannot write the plot: {error}") from error


def _document(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "scenarios": [
            {
                "name": result.scenario,
                "policy": result.policy,
                "total_usd": result.total_usd,
                "metered_usd": result.metered_usd,
                "autoscaled_usd": result.autoscaled_usd,
                "penalty_usd": result.penalty_usd,
                "committed_usd": result.committed_usd,
                "lp_ratio": result.lp_ratio,
                "perfect_ratio": result.perfect_ratio,
                "slo_percent": result.slo_percent,
                "ttft_p50_s": result.ttft_p50_s,
                "ttft_p99_s": result.ttft_p99_s,
                "tpot_miss_percent": result.tpot_miss_percent,
                "fail_percent": result.fail_percent,
            }
            for result in results
        ],
        "geomean_lp_ratio": _geomeans(results),
    }
