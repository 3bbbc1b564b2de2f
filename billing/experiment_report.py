"""What each arm of an experiment came to: cost, latency, errors and feedback with their intervals.

Read from the sums that settling keeps, an hour's row for each arm: two queries, however many requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.db.models import Sum

from billing import intervals
from billing.experiment_sums import NOTHING, SUMS
from billing.intervals import Estimate
from billing.models import ExperimentHour, ExperimentLatency

TOKENS_PER_MTOK = 1_000_000
# What two arms are compared by.
COMPARED = (
    "cost_nanousd_per_request",
    "cost_nanousd_per_mtok",
    "ttft_ms_mean",
    "error_rate",
    "feedback_mean",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """One arm's figures; an estimate is None where nothing can be said yet.

    `attempts` are those that the arm's own model took; a request sent anew counts each time. Estimates of
    amounts are in nano-USD.
    """

    arm: str
    is_control: bool
    attempts: int
    crossed_over: int
    errors: int
    cost_nanousd: int
    tokens: int
    ttft_count: int
    feedback_count: int
    cost_nanousd_per_request: Estimate | None
    cost_nanousd_per_mtok: Estimate | None
    ttft_ms_mean: Estimate | None
    ttft_ms_p50: Estimate | None
    ttft_ms_p95: Estimate | None
    error_rate: Estimate | None
    feedback_mean: Estimate | None
    # Arm less control, by the names in COMPARED; of the control itself nothing.
    differences: Mapping[str, Estimate | None] = field(default_factory=dict)


def load_sums(*, experiment: str) -> dict[str, Mapping[str, float]]:
    """The sums of each arm that was ever asked, by the names in SUMS; one query."""
    hours = ExperimentHour.objects.filter(experiment=experiment).order_by("arm")
    rows = hours.values_list("arm").annotate(**{f"{name}_sum": Sum(name) for name in SUMS})
    return {arm: dict(zip(SUMS, sums, strict=True)) for arm, *sums in rows}


def load_report(*, experiment: str, arms: Sequence[str]) -> tuple[ArmReport, ...]:
    """The arms in this order, the control first; two queries."""
    sums = load_sums(experiment=experiment)
    counts = _load_latencies(experiment=experiment)
    reports: list[ArmReport] = []
    for arm in arms:
        control = reports[0] if reports else None
        reports.append(_report(arm, sums.get(arm, NOTHING), counts.get(arm, {}), control=control))
    return tuple(reports)


def _load_latencies(*, experiment: str) -> dict[str, dict[int, int]]:
    days = ExperimentLatency.objects.filter(experiment=experiment).order_by("arm", "bucket")
    found: dict[str, dict[int, int]] = {}
    for arm, bucket, count in days.values_list("arm", "bucket").annotate(total=Sum("count")):
        found.setdefault(arm, {})[bucket] = count
    return found


def _report(
    arm: str, sums: Mapping[str, float], counts: Mapping[int, int], *, control: ArmReport | None
) -> ArmReport:
    attempts, errors = int(sums["attempts"]), int(sums["errors"])
    estimates = {
        "cost_nanousd_per_request": intervals.mean(
            count=attempts, total=sums["cost_nanousd"], squares=sums["cost_squares"]
        ),
        "cost_nanousd_per_mtok": _cost_per_mtok(sums),
        "ttft_ms_mean": intervals.mean(
            count=int(sums["ttft_count"]), total=sums["ttft_ms"], squares=sums["ttft_ms_squares"]
        ),
        "error_rate": intervals.share(count=errors, total=attempts),
        "feedback_mean": intervals.mean(
            count=int(sums["feedback_count"]), total=sums["feedback_score"], squares=sums["feedback_squares"]
        ),
    }
    differences = {}
    if control is not None:
        differences = {
            name: intervals.difference(arm=estimates[name], control=getattr(control, name))
            for name in COMPARED
        }
    return ArmReport(
        arm=arm,
        is_control=control is None,
        attempts=attempts,
        crossed_over=int(sums["crossed_over"]),
        errors=errors,
        cost_nanousd=int(sums["cost_nanousd"]),
        tokens=int(sums["tokens"]),
        ttft_count=int(sums["ttft_count"]),
        feedback_count=int(sums["feedback_count"]),
        **estimates,
        ttft_ms_p50=intervals.quantile(counts, part=0.5),
        ttft_ms_p95=intervals.quantile(counts, part=0.95),
        differences=differences,
    )


def _cost_per_mtok(sums: Mapping[str, float]) -> Estimate | None:
    found = intervals.ratio(
        count=int(sums["attempts"]),
        top=sums["cost_nanousd"],
        top_squares=sums["cost_squares"],
        bottom=sums["tokens"],
        bottom_squares=sums["tokens_squares"],
        products=sums["cost_times_tokens"],
    )
    if found is None:
        return None
    return Estimate(
        value=found.value * TOKENS_PER_MTOK,
        low=found.low * TOKENS_PER_MTOK,
        high=found.high * TOKENS_PER_MTOK,
    )
