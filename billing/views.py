"""The usage page and its CSV: who spent what on which model and cluster."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import capacity, charts, reports
from billing.amounts import plain_usd_text
from billing.cells import neutral_text
from billing.periods import PERIODS, Period, PeriodError, period_of
from billing.rollup_rows import ReportError, ReportFilter

TABS = {"day": "Day", "team": "Team", "key": "Key", "model": "Model", "cluster": "Cluster"}
FILTERS = {
    "organisation": "organisation",
    "team": "team",
    "key": "key_id",
    "model": "model",
    "cluster": "cluster",
}
# A click on a row shows what is inside it: its filter, and the tab that opens.
DRILL_DOWN = {
    "organisation": "team",
    "team": "key",
    "key": "model",
    "model": "cluster",
    "cluster": "model",
}
# Where idle is known by row, and where a million tokens has one price worth comparing.
GROUPS_BY_TIME = ("day", "hour")
GROUPS_WITH_IDLE = (*GROUPS_BY_TIME, "model", "cluster")
GROUPS_WITH_RATES = ("model", "cluster")
# The columns after the owned one: charged, requests, tokens in and out, share; and those that may be there.
COLUMNS_AFTER_BILL = 5
COLUMN_COUNTS = {"is_idle_column": 1, "is_rate_column": 2, "is_seed_column": 1, "is_reported_column": 2}
ROWS_SHOWN_MAX = 100
# The CSV's line for what no row has.
IDLE_LINE = "(idle)"
TEXT_CHARACTERS_MAX = 200
HOURLY_CHART_SPAN_MAX = timedelta(days=2)
DAILY_CHART_SPAN_MAX = timedelta(days=100)
STEP_LABELS = {"hour": "%H:%M", "day": "%d %b", "month": "%b %Y"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a request asks to see."""

    group: str
    period: Period
    only: ReportFilter
    parameters: dict[str, str]

    def link(self, path: str, **changes: str) -> str:
        """The same question with some answers changed; an empty one is left out."""
        merged = {**self.parameters, **changes}
        return f"{path}?{urlencode({name: value for name, value in merged.items() if value})}"


View = Callable[[HttpRequest], HttpResponse]


def _explain_bad_question(view: View) -> View:
    """Answer 400 with a page that says what was wrong."""

    @wraps(view)
    def explained(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except (PeriodError, ReportError) as error:
            return render(request, "billing/usage_error.html", {"message": str(error)}, status=400)

    return explained


@require_safe
@staff_member_required
@_explain_bad_question
def show_usage(request: HttpRequest) -> HttpResponse:
    now = timezone.now()  # noqa: TID251 -- a view is an edge
    question = _question(request, now=now)
    period = question.period
    step = _step(period)
    report, series = reports.report_and_series(
        group=question.group, step=step, from_at=period.from_at, to_at=period.to_at, only=question.only
    )
    context = {
        "title": "Usage",
        "period": period,
        "group": question.group,
        "group_label": TABS.get(question.group, question.group.capitalize()),
        "totals": report.totals,
        **_bill(question, totals=report.totals),
        "failed_percent": charts.percent_text(part=report.totals.failures, whole=report.totals.requests),
        "estimated_percent": charts.percent_text(part=report.totals.estimates, whole=report.totals.requests),
        "rows": [
            _table_row(row, question=question, totals=report.totals) for row in _shown(report.rows, question)
        ],
        "hidden_row_count": max(0, len(report.rows) - ROWS_SHOWN_MAX),
        "csv_url": question.link(reverse("billing:usage_csv")),
        **_navigation(question),
        **_drawings(series, question=question, step=step, now=now),
    }
    return render(request, "billing/usage.html", context)


@require_safe
@staff_member_required
@_explain_bad_question
def download_usage(request: HttpRequest) -> HttpResponse:
    question = _question(request, now=timezone.now())  # noqa: TID251 -- a view is an edge
    period = question.period
    report = reports.spend_report(
        group=question.group, from_at=period.from_at, to_at=period.to_at, only=question.only
    )
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    name = f"usage-{question.group}-{period.from_at:%Y-%m-%d}-{period.last_date:%Y-%m-%d}.csv"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    writer = csv.writer(response)
    writer.writerow((question.group, "id", "belongs_to", *CSV_SUMS, *CSV_AMOUNTS, "charged_usd", "bill_usd"))
    idle = reports.ReportRow(name=IDLE_LINE, idle_nanousd=report.unshared_idle_nanousd)
    for row in (*report.rows, *([idle] if idle.idle_nanousd else [])):
        texts = [neutral_text(text) for text in (row.name, row.id, row.detail)]
        sums = [getattr(row, column) for column in CSV_SUMS]
        amounts = [getattr(row, name) for name in CSV_AMOUNTS.values()]
        dollars = [plain_usd_text(amount) for amount in (row.cost_nanousd, row.bill_nanousd)]
        writer.writerow((*texts, *sums, *amounts, *dollars))
    return response


def _shown(rows: Sequence[reports.ReportRow], question: Question) -> Sequence[reports.ReportRow]:
    """The dearest, or where they come in the order of time the latest."""
    return rows[-ROWS_SHOWN_MAX:] if question.group in GROUPS_BY_TIME else rows[:ROWS_SHOWN_MAX]


CSV_SUMS = (
    "requests",
    "failures",
    "estimates",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
)
# Columns of the CSV, and the fields they show.
CSV_AMOUNTS = {
    "charged_nanousd": "cost_nanousd",
    "metered_nanousd": "metered_nanousd",
    "amortised_nanousd": "amortised_nanousd",
    "idle_nanousd": "idle_nanousd",
    "bill_nanousd": "bill_nanousd",
    "used_nanousd_per_mtok": "used_nanousd_per_mtok",
    "loaded_nanousd_per_mtok": "loaded_nanousd_per_mtok",
    "seed_nanousd_per_1k": "seed_nanousd_per_1k",
    "reported_nanousd": "reported_cost_nanousd",
    "compared_nanousd": "compared_cost_nanousd",
    "reported_difference_nanousd": "reported_difference_nanousd",
}


def _question(request: HttpRequest, *, now: datetime) -> Question:
    parameters = {name: _text(request, name) for name in ("period", "from", "to", "group", *FILTERS)}
    period = period_of(
        name=parameters["period"], from_text=parameters["from"], to_text=parameters["to"], now=now
    )
    if period.name != "custom":
        parameters.update({"from": "", "to": ""})
    parameters.update(period=period.name, group=parameters["group"] or "day")
    chosen: dict[str, Any] = {field: parameters[name] for name, field in FILTERS.items() if parameters[name]}
    return Question(
        group=parameters["group"],
        period=period,
        only=ReportFilter(**chosen),
        parameters=parameters,
    )


def _text(request: HttpRequest, name: str) -> str:
    value = request.GET.get(name, "").strip()
    if len(value) > TEXT_CHARACTERS_MAX or not value.isprintable():
        raise ReportError(f"the value of {name!r} is longer than any name, or no text")
    return value


def _navigation(question: Question) -> dict[str, Any]:
    path = reverse("billing:usage")
    return {
        "period_links": [
            {
                "label": label,
                "url": question.link(
                    path, period=name, **({} if name == "custom" else {"from": "", "to": ""})
                ),
                "is_current": name == question.period.name,
            }
            for name, label in PERIODS.items()
            if name != "custom" or question.period.name == "custom"
        ],
        "group_links": [
            {"label": label, "url": question.link(path, group=name), "is_current": name == question.group}
            for name, label in TABS.items()
        ],
        "filters": [
            {
                "label": name,
                "value": question.parameters[name],
                "remove_url": question.link(path, **{name: ""}),
            }
            for name in FILTERS
            if question.parameters[name]
        ],
        # What the form for two dates carries along.
        "kept_parameters": {
            name: question.parameters[name] for name in ("group", *FILTERS) if question.parameters[name]
        },
    }


def _table_row(row: reports.ReportRow, *, question: Question, totals: reports.ReportRow) -> dict[str, Any]:
    opens = DRILL_DOWN.get(question.group)
    url = ""
    if opens is not None:
        chosen = row.id if question.group == "key" else row.name
        url = question.link(reverse("billing:usage"), group=opens, **{question.group: chosen})
    return {
        "sums": row,
        "url": url,
        "share": charts.share(part=row.cost_nanousd, whole=totals.cost_nanousd),
        "percent": charts.percent_text(part=row.cost_nanousd, whole=totals.cost_nanousd),
    }


def _bill(question: Question, *, totals: reports.ReportRow) -> dict[str, Any]:
    """What the page says of the owned clusters' part of the bill, and of the hours that are still open."""
    only = question.only
    # Idle is nobody's: a part of the keys, teams or models has a bill without it.
    has_idle = not any((only.key_id, only.team, only.organisation, only.model))
    period = question.period
    running = capacity.running_hours(from_at=period.from_at, to_at=period.to_at, cluster=only.cluster)
    group = question.group
    columns = {
        "is_idle_column": has_idle and group in GROUPS_WITH_IDLE,
        "is_rate_column": group in GROUPS_WITH_RATES,
        "is_seed_column": group == "cluster",
        "is_reported_column": totals.is_compared,
    }
    return {
        **columns,
        "has_idle": has_idle,
        "running": running if has_idle else None,
        # The lines of idle and of the bill put their one amount below the owned column, their words after it.
        "column_count_after_bill": COLUMNS_AFTER_BILL
        + sum(COLUMN_COUNTS[name] for name, is_there in columns.items() if is_there),
    }


def _step(period: Period) -> str:
    """By hours, days or months, so that a few dozen bars say it."""
    span = period.to_at - period.from_at
    if span <= HOURLY_CHART_SPAN_MAX:
        return "hour"
    return "day" if span <= DAILY_CHART_SPAN_MAX else "month"


def _drawings(series: reports.Series, *, question: Question, step: str, now: datetime) -> dict[str, Any]:
    split = question.group if question.group in reports.SPLITS else "cluster"
    by_moment = [sum(amounts) for amounts in zip(*series.values_nanousd, strict=True)]
    past = [value for moment, value in zip(series.moments, by_moment, strict=False) if moment <= now]
    return {
        "split": split,
        "chart": charts.stacked_bars(
            labels=[format(moment, STEP_LABELS[step]) for moment in series.moments],
            names=series.names,
            values_nanousd=series.values_nanousd,
            title=f"Charged per {step} by {split}",
        ),
        "bar_list": charts.bar_list(
            names=series.names, values_nanousd=[sum(amounts) for amounts in series.values_nanousd]
        ),
        "sparkline": charts.sparkline(past),
    }
