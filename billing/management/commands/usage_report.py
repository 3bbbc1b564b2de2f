"""Prints who spent what between two dates, for people or as JSON."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import capacity, reports
from billing.amounts import rounded_usd_text, usd_text
from billing.periods import PeriodError, period_of
from billing.rollup_rows import ReportError

GROUPS = ("key", "team", "model", "cluster", "day")
GROUPS_WITH_RATES = ("model", "cluster")


class Command(BaseCommand):
    help = (
        "The bill and tokens by key, team, model, cluster or day. Metered is what providers charge by the "
        "token, amortised what was used of the own clusters' paid hours, idle what nobody used of them: "
        "together they are the total. An hour counts when it is closed, five minutes after its end."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--group", choices=GROUPS, default="key")
        parser.add_argument(
            "--from", default="", metavar="DATE", help="the first day, in UTC (this month's first)"
        )
        parser.add_argument(
            "--to", default="", metavar="DATE", help="the last day, which counts whole (today)"
        )
        parser.add_argument("--json", action="store_true", help="print JSON, amounts in nano-USD")

    def handle(self, *args: Any, **options: Any) -> None:
        group = options["group"]
        try:
            period = period_of(
                name="custom", from_text=options["from"], to_text=options["to"], now=timezone.now()
            )
            report = reports.spend_report(group=group, from_at=period.from_at, to_at=period.to_at)
        except (PeriodError, ReportError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(_json(report=report, group=group)))
            return
        self._print(report=report, group=group)
        running = capacity.running_hours(from_at=period.from_at, to_at=period.to_at)
        if running is not None:
            self.stdout.write(
                f"Not in it: hours that close at {running.closes_at:%H:%M} UTC; so far they cost "
                f"{usd_text(running.cost_nanousd)}, about {usd_text(running.idle_nanousd)} of it idle."
            )

    def _print(self, *, report: reports.Report, group: str) -> None:
        width = max(len(row.name) for row in (*report.rows, report.totals))
        has_rates = group in GROUPS_WITH_RATES
        self.stdout.write(
            f"{group:<{width}} {'requests':>10} {'tokens in':>14} {'tokens out':>14} "
            f"{'metered':>16} {'amortised':>16}" + f" {'$/1M loaded':>12}" * has_rates
        )
        for row in (*report.rows, report.totals):
            loaded = row.loaded_nanousd_per_mtok
            self.stdout.write(
                f"{row.name:<{width}} {row.requests:>10,} {row.input_tokens:>14,} {row.output_tokens:>14,} "
                f"{usd_text(row.metered_nanousd):>16} {usd_text(row.amortised_nanousd):>16}"
                + f" {'-' if loaded is None else rounded_usd_text(loaded):>12}"
                * has_rates
            )
        totals = report.totals
        self.stdout.write(
            f"Idle: {usd_text(totals.idle_nanousd)}. Total bill: {usd_text(totals.bill_nanousd)}."
        )
        if totals.is_compared:
            self.stdout.write(
                f"Upstreams reported {usd_text(totals.reported_cost_nanousd)} as their own cost; ours for "
                f"the same answers is {usd_text(totals.compared_cost_nanousd)}, a difference of "
                f"{usd_text(totals.reported_difference_nanousd)}."
            )


def _json(*, report: reports.Report, group: str) -> dict[str, Any]:
    rows = []
    for row in report.rows:
        entry: dict[str, Any] = {group: row.name}
        if group == "key":
            # Names of keys may repeat; the id tells them apart.
            entry["key_id"] = row.id
        entry.update(
            requests=row.requests,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            metered_nanousd=row.metered_nanousd,
            amortised_nanousd=row.amortised_nanousd,
            idle_nanousd=row.idle_nanousd,
            **_details(row),
        )
        if group in GROUPS_WITH_RATES:
            entry.update(
                used_nanousd_per_mtok=row.used_nanousd_per_mtok,
                loaded_nanousd_per_mtok=row.loaded_nanousd_per_mtok,
            )
        if group == "cluster":
            entry["seed_nanousd_per_1k"] = row.seed_nanousd_per_1k
        rows.append(entry)
    totals = report.totals
    return {
        "rows": rows,
        "metered_nanousd": totals.metered_nanousd,
        "amortised_nanousd": totals.amortised_nanousd,
        "idle_nanousd": totals.idle_nanousd,
        "total_nanousd": totals.bill_nanousd,
        **_details(totals),
    }


def _details(row: reports.ReportRow) -> dict[str, int]:
    details = {"charged_nanousd": row.cost_nanousd}
    if row.is_compared:
        details.update(
            reported_nanousd=row.reported_cost_nanousd,
            compared_nanousd=row.compared_cost_nanousd,
            reported_difference_nanousd=row.reported_difference_nanousd,
        )
    return details
