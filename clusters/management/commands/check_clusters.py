"""Probes all clusters by their free endpoints and says which are healthy, and what to fix."""

import json
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from clusters.report import ClusterReport, report_clusters
from routing.money import NANOUSD_PER_USD

HEADERS = (
    *("NAME", "STATE", "REACHABLE", "HEALTHY", "QUEUE", "TOK/S", "$/HOUR", "$/1K", "CERT", "CLOCK"),
    *("MODELS", "REASON"),
)
MODELS_SHOWN_MAX = 3


class Command(BaseCommand):
    """Exits 1 where no cluster is healthy."""

    help = "Probe all clusters by their free endpoints and show which are healthy, and what to fix."

    def add_arguments(self, parser: CommandParser) -> None:
        """`--no-probe` shows what the prober saw last."""
        parser.add_argument("--json", action="store_true", help="one list, for scripts")
        parser.add_argument(
            "--probe", action="store_true", default=True, help="ask the clusters now (the default)"
        )
        parser.add_argument(
            "--no-probe", action="store_false", dest="probe", help="show what was seen last, ask nobody"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Translate in, one call, translate out."""
        reports = report_clusters(now=timezone.now(), is_probing=options["probe"])
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(report) for report in reports]))
        else:
            self._print_table(reports)
        if not any(report.is_usable for report in reports):
            raise CommandError(
                "no cluster is healthy" if reports else "there is no cluster yet: add one in Admin > Clusters"
            )

    def _print_table(self, reports: list[ClusterReport]) -> None:
        rows = [HEADERS, *(_as_row(report) for report in reports)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())
        advice = [f"{report.name}: {text}" for report in reports for text in report.advice]
        if advice:
            self.stdout.write("\nTo fix:")
            for line in advice:
                self.stdout.write(f"  - {line}")


def _as_json(report: ClusterReport) -> dict[str, Any]:
    usd_per_1k = report.nanousd_per_1k
    return {
        "name": report.name,
        "state": report.state,
        "reachable": report.is_reachable,
        "healthy": report.is_healthy,
        "reason": report.reason,
        "models": list(report.models),
        "queue": report.queue_depth,
        "tokens_per_s": report.tokens_per_s,
        "usd_per_1k": None if usd_per_1k is None else float(_usd(usd_per_1k)),
        **(
            {}
            if report.address_count is None
            else {"addresses": report.address_count, "healthy_addresses": report.healthy_address_count}
        ),
        # Of those that may sleep; the others are always there.
        **({"temperature": report.temperature} if report.temperature else {}),
        "certificate_days": report.certificate_days,
        "clock_skew_s": report.clock_skew_s,
        "to_fix": list(report.advice),
    }


def _as_row(report: ClusterReport) -> tuple[str, ...]:
    more = len(report.models) - MODELS_SHOWN_MAX
    models = ", ".join(report.models[:MODELS_SHOWN_MAX]) + (f" (+{more})" if more > 0 else "")
    per_1k = report.nanousd_per_1k
    return (
        report.name,
        report.temperature if report.temperature in {"cold", "waking"} else report.state,
        {True: "yes", False: "NO", None: "?"}[report.is_reachable],
        _health(report),
        _known(report.queue_depth),
        _known(report.tokens_per_s),
        f"{_usd(report.cost_per_hour_nanousd):.4f}" if report.cost_per_hour_nanousd else "-",
        "-" if per_1k is None else f"{_usd(per_1k):.6f}",
        _days(report.certificate_days),
        "?" if report.clock_skew_s is None else f"{report.clock_skew_s:+d} s",
        models or "-",
        report.reason or "-",
    )


def _health(report: ClusterReport) -> str:
    """With how many of its addresses answer, where each is a server of its own."""
    word = "yes" if report.is_healthy else "NO"
    if report.address_count is None:
        return word
    return f"{word} ({report.healthy_address_count} of {report.address_count})"


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


def _usd(nanousd: int) -> Decimal:
    return Decimal(nanousd) / NANOUSD_PER_USD


def _days(certificate_days: int | None) -> str:
    if certificate_days is None:
        return "-"
    return "EXPIRED" if certificate_days < 0 else f"{certificate_days} d"
