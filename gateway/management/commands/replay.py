"""Plays a period of the ledger through today's routing and a changed one: dollars and latency of both."""

import json
import os
import random
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from billing.amounts import usd_text
from billing.periods import PeriodError, moment_from_text
from billing.price_book import PriceBook, rate_in
from billing.price_conditions import minute_of_day
from billing.price_files import PriceFileError, read_price_file
from billing.replayed import REQUESTS_MAX, Recording, ReplayedError, recording_of
from clusters.snapshots import ClusterView
from gateway.configuration.document import ConfigurationError
from gateway.configuration.importing import import_file
from gateway.fleet import FleetSnapshot, load_snapshot
from routing.cost import TOKENS_PER_S_ASSUMED
from routing.policies import POLICIES
from routing.replay import (
    Outcome,
    Recorded,
    changed_count,
    recorded,
    replayed,
    speedless_clusters,
    with_deployments,
    with_policy,
    with_recorded_latency,
)
from routing.types import Deployment, Fleet

DEFAULT_PERIOD = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A fleet to play the period against, how many engines each own cluster runs, and their cost per hour."""

    fleet: Fleet
    replicas: Mapping[str, int]
    hourly_nanousd: int


class Command(BaseCommand):
    help = (
        "Play the requests of a period again, by the same decision as in production: against today's fleet, "
        "prices and policy, which shows how far the model is off the ledger, and against changed ones. "
        f"At most {REQUESTS_MAX:,} requests. Nothing is written to any table."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", default="", metavar="MOMENT", help="a date or moment in UTC (a day ago)"
        )
        parser.add_argument("--to", default="", metavar="MOMENT", help="a date counts whole (now)")
        parser.add_argument("--policy", help=f"for every route, one of: {', '.join(POLICIES)}")
        parser.add_argument(
            "--prices", metavar="FILE.csv", type=Path, help="at these prices, as export_prices writes"
        )
        parser.add_argument(
            "--config",
            metavar="FILE.yaml",
            type=Path,
            help="with the fleet as an import of this file would leave it",
        )
        parser.add_argument("--json", action="store_true", help="print JSON, amounts in nano-USD")

    def handle(self, *_args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["policy"] and options["policy"] not in POLICIES:
            raise CommandError(f"there is no policy {options['policy']!r}: there are {', '.join(POLICIES)}")
        from_at, to_at = _period(options, now=now)
        is_changed = bool(options["policy"] or options["prices"] or options["config"])
        try:
            recording = recording_of(from_at=from_at, to_at=to_at)
            today = _plan(load_snapshot(now=now, now_s=time.monotonic()))
            changed = self._changed(options, now=now) if is_changed else None
        except ReplayedError as error:
            raise CommandError(str(error)) from error
        for name in speedless_clusters((changed or today).fleet):
            self.stderr.write(
                f"warning: {name} has no rated or measured speed, so {TOKENS_PER_S_ASSUMED} tokens/s are "
                "assumed: set its rated output tokens/s for figures to go by"
            )
        period = (from_at, to_at)
        before = _played(recording, today, period=period, whose="today's")
        after = None if changed is None else _played(recording, changed, period=period, whose="the changed")
        if options["json"]:
            self.stdout.write(json.dumps(_document(recording, before, after, period=period), indent=2))
        else:
            self._print(recording, before, after, period=period)

    def _changed(self, options: Mapping[str, Any], *, now: datetime) -> Plan:
        plan = self._configured(options["config"], now=now) if options["config"] else None
        if plan is None:
            plan = _plan(load_snapshot(now=now, now_s=time.monotonic()))
        if options["prices"]:
            plan = replace(plan, fleet=_repriced(plan.fleet, options["prices"], now=now))
        if options["policy"]:
            plan = replace(plan, fleet=with_policy(plan.fleet, options["policy"]))
        return plan

    def _configured(self, path: Path, *, now: datetime) -> Plan:
        """The fleet as the import of the file leaves it; the import is taken back."""
        try:
            with transaction.atomic():
                report = import_file(path=path, environment=os.environ, now=now)
                plan = _plan(load_snapshot(now=now, now_s=time.monotonic()))
                transaction.set_rollback(True)
        except ConfigurationError as error:
            raise CommandError("\n".join([*error.lines, "nothing was replayed"])) from error
        for warning in report.warnings:
            self.stderr.write(f"warning: {warning}")
        return plan

    def _print(
        self,
        recording: Recording,
        before: Outcome,
        after: Outcome | None,
        *,
        period: tuple[datetime, datetime],
    ) -> None:
        for line in _lines(recording, before, after, period=period):
            self.stdout.write(line)


def _period(options: Mapping[str, Any], *, now: datetime) -> tuple[datetime, datetime]:
    """What is still to come is not in it: own clusters are not billed for it."""
    try:
        to_at = moment_from_text(options["to"], is_end=True) if options["to"] else now
        to_at = min(to_at, now)
        from_at = to_at - DEFAULT_PERIOD
        if options["from"]:
            from_at = moment_from_text(options["from"], is_end=False)
    except PeriodError as error:
        raise CommandError(str(error)) from error
    if from_at >= to_at:
        raise CommandError(
            f"the period ends ({to_at:%Y-%m-%d %H:%M} UTC) before it begins ({from_at:%Y-%m-%d %H:%M} UTC): "
            "--from must lie before --to and before now"
        )
    return from_at, to_at


def _plan(snapshot: FleetSnapshot) -> Plan:
    paid = [one for one in snapshot.clusters if one.kind == "own" and one.state != "disabled"]
    return Plan(
        fleet=snapshot.fleet,
        replicas={one.name: _replicas(one) for one in snapshot.clusters},
        hourly_nanousd=sum(one.cost_per_hour_nanousd * _replicas(one) for one in paid),
    )


def _replicas(cluster: ClusterView) -> int:
    """Speed and hourly cost are of a whole committed cluster, but of each replica of an autoscaled one."""
    return cluster.replica_count if cluster.billing == "autoscaled" else 1


def _repriced(fleet: Fleet, path: Path, *, now: datetime) -> Fleet:
    try:
        book = PriceBook.latest_of(read_price_file(path, now=now))
    except (OSError, PriceFileError) as error:
        raise CommandError(f"cannot read the prices of {path}: {error}") from error
    rates = book.rates_at(minute=minute_of_day(now))

    def repriced(deployment: Deployment) -> Deployment:
        rate = rate_in(rates=rates, model=deployment.model, cluster_name=deployment.cluster)
        return deployment if rate is None else replace(deployment, rate=rate)

    return with_deployments(fleet, repriced)


def _played(recording: Recording, plan: Plan, *, period: tuple[datetime, datetime], whose: str) -> Outcome:
    outcome = replayed(
        recording.requests,
        with_recorded_latency(plan.fleet, recording.requests),
        replicas=plan.replicas,
        hourly_nanousd=plan.hourly_nanousd,
        period_us=(period[1] - period[0]) // MICROSECOND,
        chance_of=random.Random,
    )
    if sum(outcome.unserved.values()) == outcome.request_count:
        models = ", ".join(outcome.unserved)
        raise CommandError(
            f"no active deployment of {whose} fleet serves any model of the period ({models}): add one"
        )
    return outcome


def _document(
    recording: Recording, before: Outcome, after: Outcome | None, *, period: tuple[datetime, datetime]
) -> dict[str, Any]:
    ledger = recorded(recording.requests)
    pruned_before = recording.pruned_before
    document: dict[str, Any] = {
        "from": period[0].isoformat(),
        "to": period[1].isoformat(),
        "pruned_before": None if pruned_before is None else pruned_before.isoformat(),
        "failed_first_attempts": recording.failed_count,
        "ledger": {
            "requests": ledger.request_count,
            "cost_nanousd": ledger.cost_nanousd,
            "metered_nanousd": ledger.metered_nanousd,
            "ttft_p50_s": ledger.ttft_p50_s,
            "ttft_p99_s": ledger.ttft_p99_s,
        },
        "before": _outcome_document(before),
        "model_error": {
            "cost_nanousd": before.cost_nanousd - ledger.cost_nanousd,
            "metered_nanousd": before.metered_nanousd - ledger.metered_nanousd,
            "elsewhere": changed_count(ledger, before),
        },
        "after": None,
        "difference": None,
    }
    if after is not None:
        document["after"] = _outcome_document(after)
        document["difference"] = {
            "bill_nanousd": after.bill_nanousd - before.bill_nanousd,
            "cost_nanousd": after.cost_nanousd - before.cost_nanousd,
            "metered_nanousd": after.metered_nanousd - before.metered_nanousd,
            "capacity_nanousd": after.capacity_nanousd - before.capacity_nanousd,
            "changed_decisions": changed_count(before, after),
        }
    return document


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    return {
        "policy": outcome.policy,
        "requests": outcome.request_count,
        "served": outcome.served_count,
        "failed": outcome.failed_count,
        "unpriced": outcome.unpriced_count,
        "unserved_models": dict(outcome.unserved),
        "cost_nanousd": outcome.cost_nanousd,
        "metered_nanousd": outcome.metered_nanousd,
        "capacity_nanousd": outcome.capacity_nanousd,
        "bill_nanousd": outcome.bill_nanousd,
        "within_objective": outcome.met_count,
        "ttft_p50_s": outcome.ttft_p50_s,
        "ttft_p99_s": outcome.ttft_p99_s,
        "clusters": [
            {
                "cluster": one.cluster,
                "kind": one.kind,
                "requests": one.requests,
                "cost_nanousd": one.cost_nanousd,
            }
            for one in outcome.clusters
        ],
    }


def _lines(
    recording: Recording, before: Outcome, after: Outcome | None, *, period: tuple[datetime, datetime]
) -> list[str]:
    ledger = recorded(recording.requests)
    outcomes = [before] if after is None else [before, after]
    titles = ["ledger", "replay, today", *(() if after is None else ("replay, changed",))]
    rows = [["", *titles], *_figures(ledger, outcomes), *_cluster_rows(recording, outcomes)]
    lines = [f"{period[0]:%Y-%m-%d %H:%M} to {period[1]:%Y-%m-%d %H:%M} UTC"]
    name_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells in rows:
        right = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append("   ".join((f"{name:<{name_width}}", *right)))
    error_nanousd = before.cost_nanousd - ledger.cost_nanousd
    lines.append(
        f"The model's error: the replay of today's settings is {usd_text(error_nanousd)} off the ledger's "
        f"cost, and places {changed_count(ledger, before):,} of {ledger.request_count:,} requests elsewhere."
    )
    if after is not None:
        lines.append(
            f"The change: {usd_text(after.bill_nanousd - before.bill_nanousd)} on the bill; "
            f"{changed_count(before, after):,} decisions changed."
        )
    return lines + _remarks(recording, before, after)


def _figures(ledger: Recorded, outcomes: list[Outcome]) -> list[list[str]]:
    return [
        ["policy", "", *(one.policy for one in outcomes)],
        ["requests", f"{ledger.request_count:,}", *(f"{one.request_count:,}" for one in outcomes)],
        ["cost at its rates", usd_text(ledger.cost_nanousd), *(usd_text(o.cost_nanousd) for o in outcomes)],
        [
            "  of it metered",
            usd_text(ledger.metered_nanousd),
            *(usd_text(o.metered_nanousd) for o in outcomes),
        ],
        ["own capacity by the hour", "", *(usd_text(one.capacity_nanousd) for one in outcomes)],
        ["bill (metered + capacity)", "", *(usd_text(one.bill_nanousd) for one in outcomes)],
        ["first token p50", _seconds(ledger.ttft_p50_s), *(_seconds(one.ttft_p50_s) for one in outcomes)],
        ["first token p99", _seconds(ledger.ttft_p99_s), *(_seconds(one.ttft_p99_s) for one in outcomes)],
        ["within the objective", "", *(_share(one.met_count, one.request_count) for one in outcomes)],
        ["failed for want of room", "", *(f"{one.failed_count:,}" for one in outcomes)],
    ]


def _cluster_rows(recording: Recording, outcomes: list[Outcome]) -> list[list[str]]:
    """Requests and cost of each cluster that the ledger or a fleet knows."""
    counts: dict[str, int] = {}
    costs: dict[str, int] = {}
    for one in recording.requests:
        counts[one.cluster] = counts.get(one.cluster, 0) + 1
        costs[one.cluster] = costs.get(one.cluster, 0) + one.cost_nanousd
    served = [{one.cluster: one for one in outcome.clusters} for outcome in outcomes]
    rows = []
    for name in sorted(counts.keys() | {cluster for each in served for cluster in each}):
        cells = [_cluster_text(counts.get(name, 0), costs.get(name, 0))]
        for each in served:
            found = each.get(name)
            cells.append("-" if found is None else _cluster_text(found.requests, found.cost_nanousd))
        rows.append([f"on {name}", *cells])
    return rows


def _cluster_text(requests: int, cost_nanousd: int) -> str:
    return f"{requests:,} for {usd_text(cost_nanousd)}"


def _remarks(recording: Recording, before: Outcome, after: Outcome | None) -> list[str]:
    """What is not in the figures."""
    remarks = []
    for whose, outcome in (("Today's", before), ("The changed", after)):
        if outcome is None:
            continue
        if outcome.unserved:
            models = ", ".join(f"{model} ({count:,})" for model, count in outcome.unserved.items())
            remarks.append(
                f"{whose} fleet has no active deployment of: {models}. They are not in its figures."
            )
        if outcome.unpriced_count:
            remarks.append(
                f"{whose} fleet serves {outcome.unpriced_count:,} requests without a price, so for nothing: "
                "import prices for their models."
            )
    if recording.failed_count:
        remarks.append(
            f"{recording.failed_count:,} first attempts that failed before any content are left out."
        )
    if recording.pruned_before is not None:
        remarks.append(
            f"Attempts begun before {recording.pruned_before:%Y-%m-%d %H:%M} UTC are pruned, so not in it."
        )
    return remarks


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"
