"""The experiment of a route in the configuration file: read, written, and said in a line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusters.catalogue import ExperimentEntry
from clusters.experiment_rules import RAMP_S_MAX, arms_problem, ramp_problem
from gateway.configuration import conversion
from gateway.configuration.conversion import quoted
from gateway.configuration.document import Listing, Place
from gateway.configuration.members import Field, Members, Notes, written_values
from routing.experiments import WEIGHT_MAX

MODEL_NAME = conversion.text(length_max=200)
STATES = ("draft", "running", "stopped")
_KEYS = ("name", "arms", "state", "ramp", "guards")
_WEIGHT = conversion.whole_number(least=0, most=WEIGHT_MAX)
_DURATION = conversion.seconds(least=0)
_PERCENT = conversion.whole_number(least=0, most=100)
GUARDS = (
    Field(
        key="errorIncreasePoints",
        target="error_increase_permille",
        kind=conversion.scaled_number(digits=1, least=0, most=100, unit="percentage points"),
    ),
    Field(
        key="latencyIncreasePercent",
        target="latency_increase_percent",
        kind=conversion.whole_number(least=0, most=10_000),
    ),
    Field(key="minSamples", target="samples_min", kind=conversion.whole_number(least=30, most=1_000_000)),
)
_QUIET_GUARDS = {"error_increase_permille": 50, "latency_increase_percent": 50, "samples_min": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExperiment:
    """What the file says of a route's experiment; an empty state: a new one runs, a known one stays."""

    name: str
    place: Place
    state: str
    values: Mapping[str, Any]


def read_experiment(members: Members, *, notes: Notes) -> FileExperiment | None:
    """The member `experiment` of a route; whatever is wrong is noted at its place."""
    item = members.item("experiment")
    if item is None:
        return None
    experiment = Members(item, known=_KEYS, notes=notes)
    for key in ("name", "arms"):
        if key not in experiment:
            notes.refuse(experiment.place, f"{key} is missing; write it")
    name = experiment.read("name", conversion.name(length_max=64))
    arms = _arms(experiment, notes=notes)
    ramp_s, steps = _ramp(experiment, notes=notes)
    if "arms" in experiment and (problem := arms_problem(arms)):
        notes.refuse(experiment.place_of("arms"), problem)
    if problem := ramp_problem(ramp_s=ramp_s, steps=steps):
        notes.refuse(experiment.place_of("ramp"), problem)
    state = experiment.read("state", conversion.choice(*STATES)) or ""
    guards: dict[str, Any] = {}
    guards_item = experiment.item("guards")
    if guards_item is not None:
        guards = Members(guards_item, known=[each.key for each in GUARDS], notes=notes).values(GUARDS)
    if name is None:
        return None
    values = {"arms": arms, "ramp_s": ramp_s, "ramp_steps": steps, **guards}
    return FileExperiment(name=name, place=experiment.place_of("name"), state=state, values=values)


def experiment_text(entry: ExperimentEntry) -> str:
    """As one value in flow style; what a new experiment has anyway is left out."""
    values = entry.values
    arms = ", ".join(f"{{model: {quoted(arm['model'])}, weight: {arm['weight']}}}" for arm in values["arms"])
    parts = [f"name: {quoted(entry.name)}", f"arms: [{arms}]"]
    if entry.state != "running":
        parts.append(f"state: {entry.state}")
    if values["ramp_steps"]:
        steps = (
            f"{{after: {step['after_s']}s, percent: {step['percent']}}}" for step in values["ramp_steps"]
        )
        parts.append(f"ramp: [{', '.join(steps)}]")
    elif values["ramp_s"]:
        parts.append(f"ramp: {values['ramp_s']}s")
    loud = {target: values[target] for target, quiet in _QUIET_GUARDS.items() if values[target] != quiet}
    if loud:
        written = written_values(loud, fields=GUARDS)
        parts.append(f"guards: {{{', '.join(f'{key}: {value}' for key, value in written.items())}}}")
    return "{" + ", ".join(parts) + "}"


def _arms(experiment: Members, *, notes: Notes) -> list[dict[str, Any]]:
    arms = []
    for item in experiment.listing("arms"):
        arm = Members(item, known=("model", "weight"), notes=notes)
        for key in ("model", "weight"):
            if key not in arm:
                notes.refuse(arm.place, f"{key} is missing; write it")
        arms.append({"model": arm.read("model", MODEL_NAME), "weight": arm.read("weight", _WEIGHT)})
    return arms


def _ramp(experiment: Members, *, notes: Notes) -> tuple[int, list[dict[str, Any]]]:
    """A duration, or a list of steps {after, percent}."""
    item = experiment.item("ramp")
    if item is None:
        return 0, []
    if not isinstance(item, Listing):
        ramp_s = experiment.read("ramp", _DURATION) or 0
        return min(ramp_s, RAMP_S_MAX + 1), []
    steps = []
    for step_item in item.items:
        step = Members(step_item, known=("after", "percent"), notes=notes)
        steps.append({"after_s": step.read("after", _DURATION), "percent": step.read("percent", _PERCENT)})
    return 0, steps
