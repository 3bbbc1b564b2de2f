"""Stops experiments in which an arm fails more often, or answers later, than its control allows."""

from datetime import datetime

import structlog

from billing.experiment_report import load_sums
from clusters.experiments import ExperimentView, load_experiments, stop_experiment
from routing.sequential import Regression, Sample, find_regression

logger = structlog.get_logger(__name__)

NOTHING = Sample()


def check_experiments(*, now: datetime) -> tuple[str, ...]:
    """Look at each running experiment once; give back the names of those that were stopped."""
    stopped = []
    for view in load_experiments(state="running"):
        samples = load_samples(experiment=view.name)
        treatments = [model for model, _ in view.arms[1:]]
        found = find_regression(
            control=samples.get(view.control, NOTHING),
            arms={model: samples.get(model, NOTHING) for model in treatments},
            guards=view.guards,
        )
        if found is None:
            continue
        reason = reason_of(found, view=view)
        if stop_experiment(name=view.name, reason=reason, now=now):
            logger.warning("experiment_stopped", experiment=view.name, reason=reason)
            stopped.append(view.name)
    return tuple(stopped)


def load_samples(*, experiment: str) -> dict[str, Sample]:
    """What the guard looks at, by arm."""
    return {
        arm: Sample(
            attempts=int(sums["attempts"]),
            errors=int(sums["errors"]),
            ttft_count=int(sums["ttft_count"]),
            ttft_log_sum=sums["ttft_log"],
            ttft_log_squares=sums["ttft_log_squares"],
        )
        for arm, sums in load_sums(experiment=experiment).items()
    }


def reason_of(found: Regression, *, view: ExperimentView) -> str:
    """In words, for the one who finds it stopped."""
    if found.metric == "errors":
        return (
            f"{found.arm} failed in {found.arm_value:.1%} of its attempts, the control {view.control} in "
            f"{found.control_value:.1%}; {view.guards.error_increase_points:g} points more are allowed"
        )
    percent = view.guards.latency_increase_percent
    return (
        f"the first token of {found.arm} came after {found.arm_value:.0f} ms (geometric mean), that of the "
        f"control {view.control} after {found.control_value:.0f} ms; {percent} % more are allowed"
    )
