"""What an experiment must look like to be kept: pure checks, each in words that say what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from routing.experiments import ARMS_MAX, RAMP_STEPS_MAX, WEIGHT_MAX

RAMP_S_MAX = 90 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleProblem:
    """What is wrong with an experiment, and in which of its fields."""

    field: str
    text: str


def find_problem(experiment: Any, *, started: Any | None) -> RuleProblem | None:
    """Of a row of experiments; `started` is the same row as it is kept, once it is no draft any more."""
    found = [
        ("arms", arms_problem(experiment.arms)),
        ("ramp", ramp_problem(ramp_s=experiment.ramp_s, steps=experiment.ramp_steps)),
    ]
    if started is not None:
        found.append(("arms", arms_change_problem(old=started.arms, new=experiment.arms)))
        if (started.name, started.route_id) != (experiment.name, experiment.route_id):
            found.append(("name", "an experiment that was started keeps its name and its route"))
    return next((RuleProblem(field=field, text=text) for field, text in found if text), None)


def arms_problem(arms: object) -> str:
    """Why these are no arms; empty: they are. The first is the control."""
    if not isinstance(arms, list) or not 2 <= len(arms) <= ARMS_MAX:
        return f"an experiment compares 2 to {ARMS_MAX} arms; name each with its model and its weight"
    if any(not isinstance(arm, dict) or set(arm) != {"model", "weight"} for arm in arms):
        return "each arm has a model and a weight, and nothing else"
    models = [arm["model"] for arm in arms]
    if any(not isinstance(model, str) or not model for model in models):
        return "each arm names a model"
    if len(set(models)) < len(models):
        return "two arms have the same model; an arm is known by its model, so name each once"
    weights = [arm["weight"] for arm in arms]
    if any(type(weight) is not int or not 0 <= weight <= WEIGHT_MAX for weight in weights):
        return f"a weight is a whole number from 0 to {WEIGHT_MAX:,}"
    return "" if sum(weights) else "all weights are 0; give at least one arm more"


def arms_change_problem(*, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> str:
    """Why the arms of an experiment that was started may not become these: what was counted is theirs."""
    control = [arm["model"] for arm in (old[0], new[0])]
    same = {arm["model"] for arm in old} == {arm["model"] for arm in new}
    if control[0] == control[1] and same:
        return ""
    return (
        "an experiment that was started keeps its arms and its control (weights may change); "
        "stop it and make another one under a new name"
    )


def ramp_problem(*, ramp_s: int, steps: object) -> str:
    """Why this is no ramp; empty: it is one, or none."""
    if not isinstance(steps, list) or len(steps) > RAMP_STEPS_MAX:
        return f"a ramp has at most {RAMP_STEPS_MAX} steps"
    if ramp_s > RAMP_S_MAX:
        return f"a ramp lasts at most {RAMP_S_MAX // 86_400} days"
    if steps and ramp_s:
        return "a ramp is a duration or a list of steps; leave one of them out"
    return _steps_problem(steps)


def _steps_problem(steps: list[Any]) -> str:
    if any(not isinstance(step, dict) or set(step) != {"after_s", "percent"} for step in steps):
        return "each step of a ramp says after how long it holds and how many percent"
    numbers = [(step["after_s"], step["percent"]) for step in steps]
    if any(type(number) is not int for pair in numbers for number in pair):
        return "a step's time and percentage are whole numbers"
    if any(not (0 <= after_s <= RAMP_S_MAX and 0 <= percent <= 100) for after_s, percent in numbers):
        return f"a step begins within {RAMP_S_MAX // 86_400} days of the start, at 0 to 100 percent"
    is_rising = all(
        after_s < next_s and percent <= next_percent
        for (after_s, percent), (next_s, next_percent) in pairwise(numbers)
    )
    return "" if is_rising else "steps follow each other in time and never fall: nobody goes back"
