"""Puts a request into its arm where an experiment runs on its route: by who asks, before anything else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec.structs import replace as with_changes

from clusters.experiments import ExperimentView
from gateway.completion import CompletionRequest
from routing.experiments import Arm, Experiment, RampStep, arm_plan, assign
from routing.types import Deployment, RoutePlan

SESSION_HEADER = b"x-gateway-session"
# A longer name is none: its request goes by its key.
SESSION_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """What runs on which route, and who may answer for (route, arm)."""

    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    plans: Mapping[tuple[str, str], RoutePlan] = field(default_factory=dict)


def join_arms(
    views: Iterable[ExperimentView], *, routes: dict[str, RoutePlan], deployments: Iterable[Deployment]
) -> Arms:
    """Of experiments whose route is in service. Arms that such a route does not name join its candidates."""
    known = list(deployments)
    experiments: dict[str, Experiment] = {}
    plans: dict[tuple[str, str], RoutePlan] = {}
    for view in views:
        route = routes.get(view.route)
        if route is None:
            continue
        experiment = experiments[view.route] = experiment_of(view)
        models = {arm.model for arm in experiment.arms}
        joined = [each for each in known if each.model in models and each not in route.candidates]
        route = replace(
            route,
            candidates=(*route.candidates, *joined),
            fallbacks=tuple(each for each in route.fallbacks if each not in joined),
        )
        routes[view.route] = route
        for model in models:
            plans[view.route, model] = arm_plan(model=model, route=route)
    return Arms(experiments=experiments, plans=plans)


def experiment_of(view: ExperimentView) -> Experiment:
    """As routing knows it; the name is the salt, so that callers are drawn anew in each experiment."""
    assert view.started_at is not None, "what runs was started"
    return Experiment(
        name=view.name,
        salt=view.name,
        arms=tuple(Arm(model=model, weight=weight) for model, weight in view.arms),
        started_s=view.started_at.timestamp(),
        ramp_s=view.ramp_s,
        ramp_steps=tuple(RampStep(after_s=after_s, percent=percent) for after_s, percent in view.ramp_steps),
    )


def in_its_arm(
    request: CompletionRequest,
    *,
    arms: Arms,
    key_id: str,
    headers: Iterable[tuple[bytes, bytes]],
    now_s: float,
) -> CompletionRequest:
    """The request with its experiment and arm, if one runs on its route; `now_s` is the wall clock."""
    experiment = arms.experiments.get(request.model)
    if experiment is None:
        return request
    caller = caller_of(key_id=key_id, headers=headers, document=request.document)
    arm = assign(experiment, caller=caller, now_s=now_s)
    return with_changes(request, profile=with_changes(request.profile, experiment=experiment.name, arm=arm))


def caller_of(*, key_id: str, headers: Iterable[tuple[bytes, bytes]], document: Mapping[str, Any]) -> str:
    """Who stays in an arm: the session of the header, else the body's `user`, else the key as a whole.

    Names of sessions and users hold within a key: two keys' users of one name are two callers.
    """
    named = next((value for name, value in headers if name == SESSION_HEADER), b"")
    if 0 < len(named) <= SESSION_CHARACTERS_MAX:
        return f"{key_id}\0session\0{named.decode('latin-1')}"
    user = document.get("user")
    if isinstance(user, str) and 0 < len(user) <= SESSION_CHARACTERS_MAX:
        return f"{key_id}\0user\0{user}"
    return key_id
