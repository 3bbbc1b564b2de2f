"""The page of experiments: each one's state, and what its arms came to, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing.amounts import rounded_usd_text
from billing.experiment_report import ArmReport, load_report
from billing.intervals import Estimate
from clusters.experiments import ExperimentView, get_experiment, load_experiments
from clusters.inventory import InventoryError
from gateway.arms import experiment_of
from routing.experiments import ramp_share, shares

STATE_BADGES = {"running": "ok", "stopped": "bad", "draft": "muted"}
UNKNOWN = "-"

Write = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A figure as it is shown, with its interval, and how the arm differs from the control in it."""

    label: str
    value: str
    interval: str = ""
    difference: str = ""
    verdict: str = ""  # better | worse | "": the interval of the difference holds 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmColumn:
    """One arm as the page shows it."""

    model: str
    is_control: bool
    weight: int
    share: str
    cells: tuple[Cell, ...]


@require_safe
@never_cache
@staff_member_required
def show_experiments(request: HttpRequest) -> HttpResponse:
    """All that there are; the arms of the one that is asked for, else of the latest that was started."""
    now = timezone.now()  # noqa: TID251 -- an edge: a page is drawn
    views = load_experiments()
    try:
        chosen = _chosen(views, name=request.GET.get("name", ""))
    except InventoryError as error:
        unknown = {"views": _listed(views, chosen=None), "message": str(error)}
        return render(request, "gateway/experiments.html", unknown, status=404)
    context: dict[str, Any] = {"views": _listed(views, chosen=chosen), "chosen": None}
    if chosen is not None:
        context.update(_chosen_context(chosen, now=now))
    return render(request, "gateway/experiments.html", context)


def arm_columns(view: ExperimentView, *, now: datetime) -> tuple[ArmColumn, ...]:
    """The arms in their order, the control first."""
    reports = load_report(experiment=view.name, arms=[model for model, _ in view.arms])
    weights = dict(view.arms)
    parts: dict[str, float] = {}
    if view.state == "running":
        parts = shares(experiment_of(view), now_s=now.timestamp())
    return tuple(
        ArmColumn(
            model=report.arm,
            is_control=report.is_control,
            weight=weights[report.arm],
            share=f"{parts[report.arm]:.1%}" if parts else "",
            cells=_cells(report),
        )
        for report in reports
    )


def _chosen(views: Sequence[ExperimentView], *, name: str) -> ExperimentView | None:
    if name:
        return get_experiment(name=name)
    started = [view for view in views if view.state != "draft"]
    running = [view for view in started if view.state == "running"]
    return next(iter([*running, *started, *views]), None)


def _listed(views: Sequence[ExperimentView], *, chosen: ExperimentView | None) -> list[dict[str, Any]]:
    return [
        {"name": view.name, "is_current": chosen is not None and view.name == chosen.name} for view in views
    ]


def _chosen_context(view: ExperimentView, *, now: datetime) -> dict[str, Any]:
    columns = arm_columns(view, now=now)
    rows = [
        {"label": cells[0].label, "cells": cells}
        for cells in zip(*(column.cells for column in columns), strict=True)
    ]
    ramp = ""
    if view.state == "running" and (view.ramp_s or view.ramp_steps):
        ramp = f"{ramp_share(experiment_of(view), now_s=now.timestamp()):.0%}"
    return {
        "chosen": view,
        "badge": STATE_BADGES[view.state],
        "columns": columns,
        "rows": rows,
        "ramp": ramp,
        "error_points": f"{view.guards.error_increase_points:g}",
        "guards": view.guards,
    }


def _cells(report: ArmReport) -> tuple[Cell, ...]:
    def cell(
        label: str,
        name: str,
        write: Write,
        *,
        write_difference: Write | None = None,
        is_low_good: bool = True,
    ) -> Cell:
        estimate: Estimate | None = getattr(report, name)
        difference = report.differences.get(name)
        if estimate is None:
            return Cell(label=label, value=UNKNOWN)
        return Cell(
            label=label,
            value=write(estimate.value),
            interval=f"{write(estimate.low)} to {write(estimate.high)}",
            difference="" if difference is None else _told(difference, write_difference or write),
            verdict=_verdict(difference, is_low_good=is_low_good),
        )

    return (
        Cell(label="Attempts", value=f"{report.attempts:,}"),
        Cell(label="Crossed over", value=f"{report.crossed_over:,}"),
        cell("Cost per request", "cost_nanousd_per_request", _usd),
        cell("Cost per 1M tokens", "cost_nanousd_per_mtok", _usd),
        cell("First token, mean", "ttft_ms_mean", _ms),
        cell("First token, p50", "ttft_ms_p50", _ms),
        cell("First token, p95", "ttft_ms_p95", _ms),
        cell("Errors", "error_rate", _percent, write_difference=_points),
        cell("Feedback, 0 to 1", "feedback_mean", _score, is_low_good=False),
        Cell(label="Scores given", value=f"{report.feedback_count:,}"),
    )


def _told(difference: Estimate, write: Write) -> str:
    low, high = (_signed(end, write) for end in (difference.low, difference.high))
    return f"{_signed(difference.value, write)} ({low} to {high})"


def _verdict(difference: Estimate | None, *, is_low_good: bool) -> str:
    """Nothing while the interval holds 0."""
    if difference is None or difference.low <= 0 <= difference.high:
        return ""
    return "better" if (difference.high < 0) == is_low_good else "worse"


def _signed(value: float, write: Write) -> str:
    return ("\N{MINUS SIGN}" if value < 0 else "+") + write(abs(value))


def _usd(nanousd: float) -> str:
    return rounded_usd_text(round(nanousd))


def _ms(value: float) -> str:
    return f"{value:,.0f} ms"


def _points(value: float) -> str:
    return f"{value * 100:.1f} points"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _score(value: float) -> str:
    return f"{value:.2f}"
