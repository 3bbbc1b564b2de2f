"""Experiments on a route: which arm a caller is in, the same one at each request, and how a ramp widens it.

Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005)
draws one number per caller and arm, so a changed weight moves callers only to or from the arm it belongs to,
and the order of the arms means nothing. A ramp asks a second number of the caller: below the ramp's share it
is in the arm that was drawn, else in the control. Shares of a ramp only grow, so nobody goes back.
"""

import hashlib
import math
from dataclasses import dataclass, replace

from routing.types import Deployment, Exclusion, RoutePlan

OTHER_ARM = "other_arm"
ARMS_MAX = 10
WEIGHT_MAX = 1_000_000
RAMP_STEPS_MAX = 20
_POINTS = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A model that answers a share of the callers; weights are relative to each other."""

    model: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """From so many seconds after the start on, this percentage of the treatments' full shares."""

    after_s: int
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A running experiment. The first arm is the control; ramps widen the others from nothing.

    Steps, where there are some, hold instead of the line over `ramp_s`; neither: full shares at once.
    """

    name: str
    salt: str
    arms: tuple[Arm, ...]
    started_s: float  # wall clock, seconds since 1970
    ramp_s: int = 0
    ramp_steps: tuple[RampStep, ...] = ()

    @property
    def control(self) -> str:
        return self.arms[0].model


def assign(experiment: Experiment, *, caller: str, now_s: float) -> str:
    """The caller's arm, by its model's name; `now_s` is the clock of `started_s`."""
    drawn = min(experiment.arms, key=lambda arm: (_distance(experiment.salt, caller, arm), arm.model)).model
    if drawn == experiment.control:
        return drawn
    is_reached = _point(experiment.salt, "ramp", caller) < ramp_share(experiment, now_s=now_s)
    return drawn if is_reached else experiment.control


def ramp_share(experiment: Experiment, *, now_s: float) -> float:
    """The part of the treatments' full shares that is reached, 0 to 1; it never falls as time goes on."""
    since_s = now_s - experiment.started_s
    if experiment.ramp_steps:
        return max(
            (step.percent / 100 for step in experiment.ramp_steps if step.after_s <= since_s), default=0
        )
    if experiment.ramp_s == 0:
        return 1.0
    return min(max(since_s / experiment.ramp_s, 0.0), 1.0)


def shares(experiment: Experiment, *, now_s: float) -> dict[str, float]:
    """The part of the callers that each arm has now, by its model's name; they add up to 1."""
    total = sum(arm.weight for arm in experiment.arms)
    reached = ramp_share(experiment, now_s=now_s)
    found = {arm.model: arm.weight / total * reached for arm in experiment.arms[1:]}
    return {experiment.control: 1.0 - sum(found.values()), **found}


def arm_plan(*, model: str, route: RoutePlan) -> RoutePlan:
    """The arm's part of the route's plan. It has no fallbacks: those are the whole route."""
    own = tuple(each for each in route.candidates if each.model == model)
    return replace(route, candidates=own, fallbacks=(), context_fallbacks=(), content_filter_fallbacks=())


def other_arms(*, model: str, route: RoutePlan) -> tuple[Exclusion, ...]:
    """All of the route's deployments that do not answer for the arm."""
    others = (each for each in (*route.candidates, *route.fallbacks) if each.model != model)
    return tuple(Exclusion(deployment=each, reason=OTHER_ARM) for each in others)


def is_crossed_over(*, arm: str, deployment: Deployment) -> bool:
    """Whether who was assigned to the arm is answered by another one."""
    return bool(arm) and deployment.model != arm


def _distance(salt: str, caller: str, arm: Arm) -> float:
    """Exponentially distributed with the weight as its rate: the least one wins in proportion to weights."""
    if arm.weight == 0:
        return math.inf
    return -math.log(_point(salt, arm.model, caller)) / arm.weight


def _point(salt: str, name: str, caller: str) -> float:
    """A number in (0, 1], evenly spread, always the same for the same three."""
    key = f"{salt}\0{name}\0{caller}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 1) / _POINTS
