"""Follows the list of models that a cluster gives: adds what is new, marks what vanished from it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from clusters.health import Observation
from clusters.inventory import (
    CONTEXT_WINDOW_ASSUMED,
    DISCOVERED_MODELS_MAX,
    add_deployments,
    bump_revision,
)
from clusters.models import Cluster, Deployment
from clusters.record_checks import name_problem
from clusters.snapshots import ClusterView

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a listing changes."""

    new: tuple[str, ...]
    vanished: tuple[UUID, ...]
    returned: tuple[UUID, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.new or self.vanished or self.returned)


def follow_models(*, view: ClusterView, observation: Observation, now: datetime) -> None:
    """By the cluster's setting; an observation that says nothing of models changes nothing.

    A provider lists hundreds; which of them we pay for is for its administrator to say, or its default model.
    """
    cluster_id = UUID(view.id)
    windows = dict(observation.context_windows)
    if view.discovery == Cluster.Discovery.NEVER:
        return
    if not view.deployments and view.default_model:
        add_deployments(cluster_id=cluster_id, model_names=(view.default_model,), context_windows=windows)
    elif view.kind != Cluster.Kind.OWN or observation.models is None:
        return
    elif view.discovery == Cluster.Discovery.ALWAYS:
        follow_list(cluster_id=cluster_id, models=observation.models, context_windows=windows, now=now)
    elif not view.deployments and observation.models:
        add_deployments(cluster_id=cluster_id, model_names=observation.models, context_windows=windows)


def follow_list(
    *, cluster_id: UUID, models: Sequence[str], context_windows: Mapping[str, int], now: datetime
) -> None:
    """Make the deployments those of the list: none is deleted, since prices and history name them."""
    if _plan(cluster_id=cluster_id, models=models).is_empty:
        return
    with transaction.atomic():
        # Locked, and looked at again: two workers may have seen the same.
        cluster = Cluster.objects.select_for_update().filter(id=cluster_id).first()
        if cluster is None:
            return
        plan = _plan(cluster_id=cluster_id, models=models)
        Deployment.objects.filter(id__in=plan.vanished).update(vanished_at=now)
        Deployment.objects.filter(id__in=plan.returned).update(vanished_at=None)
        Deployment.objects.bulk_create(
            Deployment(
                cluster=cluster,
                model=name,
                context_window=max(1, context_windows.get(name, CONTEXT_WINDOW_ASSUMED)),
            )
            for name in plan.new
        )
        bump_revision()
    logger.warning(
        "models_followed cluster=%s new=%s vanished=%s returned=%s",
        cluster.name,
        len(plan.new),
        len(plan.vanished),
        len(plan.returned),
    )


def _plan(*, cluster_id: UUID, models: Sequence[str]) -> _Plan:
    deployments = list(Deployment.objects.filter(cluster_id=cluster_id))
    listed = set(models)
    # Who serves a model under another name has it, and a name of ours is taken.
    taken = {name for each in deployments for name in (each.model, each.upstream_name)}
    room = max(0, DISCOVERED_MODELS_MAX - len(deployments))
    return _Plan(
        new=tuple(name for name in dict.fromkeys(models) if name not in taken and name_problem(name) == "")[
            :room
        ],
        vanished=tuple(
            each.id for each in deployments if each.vanished_at is None and _served(each) not in listed
        ),
        returned=tuple(
            each.id for each in deployments if each.vanished_at is not None and _served(each) in listed
        ),
    )


def _served(deployment: Deployment) -> str:
    return deployment.upstream_name or deployment.model
