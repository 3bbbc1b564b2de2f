"""Starts and stops experiments, and lists them: a draft runs once, and what was stopped stays stopped."""

from dataclasses import dataclass
from datetime import datetime

from django.db import IntegrityError, transaction

from clusters.inventory import InventoryError, bump_revision
from clusters.models import Experiment
from routing.sequential import Guards

REASON_CHARACTERS_MAX = 300
LISTED_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentView:
    """An experiment as its row has it; `arms` are (model, weight), the control first."""

    name: str
    route: str
    arms: tuple[tuple[str, int], ...]
    state: str
    started_at: datetime | None
    stopped_at: datetime | None
    stopped_reason: str
    ramp_s: int
    ramp_steps: tuple[tuple[int, int], ...]  # (after_s, percent)
    guards: Guards

    @property
    def control(self) -> str:
        return self.arms[0][0]


def load_experiments(*, state: str | None = None) -> tuple[ExperimentView, ...]:
    """The latest ones, running before stopped before drafts as their moments say; one query."""
    rows = Experiment.objects.select_related("route").order_by("-created_at")
    if state is not None:
        rows = rows.filter(state=state)
    return tuple(view_of(row) for row in rows[:LISTED_MAX])


def get_experiment(*, name: str) -> ExperimentView:
    """Raises InventoryError where there is none of the name."""
    row = Experiment.objects.select_related("route").filter(name=name).first()
    if row is None:
        raise InventoryError(f"there is no experiment {name!r}; Admin > Experiments lists them")
    return view_of(row)


def start_experiment(*, name: str, now: datetime) -> bool:
    """Let a draft run; False: it runs already. One runs on a route at a time."""
    with transaction.atomic():
        row = Experiment.objects.select_for_update().filter(name=name).first()
        if row is None:
            raise InventoryError(f"there is no experiment {name!r}; create it first")
        if row.state == Experiment.State.RUNNING:
            return False
        if row.state == Experiment.State.STOPPED:
            raise InventoryError(
                f"experiment {name} was stopped and its figures are closed; make another one under a new name"
            )
        other = Experiment.objects.filter(route_id=row.route_id, state=Experiment.State.RUNNING).first()
        if other is not None:
            raise InventoryError(f"experiment {other.name} runs on this route; stop it first")
        row.state, row.started_at = Experiment.State.RUNNING, now
        try:
            row.save(update_fields=["state", "started_at", "updated_at"])
        except IntegrityError as error:
            raise InventoryError(
                "another experiment was just started on this route; stop it first"
            ) from error
        bump_revision()
    return True


def stop_experiment(*, name: str, reason: str, now: datetime) -> bool:
    """End it: the route goes back to its candidates at once. False: it did not run, and nothing changed."""
    with transaction.atomic():
        stopped_count = Experiment.objects.filter(name=name, state=Experiment.State.RUNNING).update(
            state=Experiment.State.STOPPED,
            stopped_at=now,
            stopped_reason=reason[:REASON_CHARACTERS_MAX],
            updated_at=now,
        )
        if stopped_count:
            bump_revision()
    return stopped_count == 1


def view_of(row: Experiment) -> ExperimentView:
    """Of a row with its route."""
    return ExperimentView(
        name=row.name,
        route=row.route.model,
        arms=tuple((arm["model"], arm["weight"]) for arm in row.arms),
        state=row.state,
        started_at=row.started_at,
        stopped_at=row.stopped_at,
        stopped_reason=row.stopped_reason,
        ramp_s=row.ramp_s,
        ramp_steps=tuple((step["after_s"], step["percent"]) for step in row.ramp_steps),
        guards=Guards(
            error_increase_permille=row.error_increase_permille,
            latency_increase_percent=row.latency_increase_percent,
            samples_min=row.samples_min,
        ),
    )
