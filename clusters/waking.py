"""Wakes autoscaled clusters: takes in what gateways spilt, decides by routing.waking, and calls the hooks.

The life of one call.

1. Gateways add what they spilt for want of a cluster's replicas, and when a request had nowhere else to go.
2. Every few seconds a worker folds that. Past the break-even, or for such a request, one replica more is
   wished for. The fold, the wish and the claim of its call are one conditional UPDATE: of several workers one
   alone makes the call.
3. The hook is called outside any transaction. What it does not take is tried again, with growing pauses,
   until the wish is too old. A worker that dies while it calls leaves a claim that ends by itself.
4. Once it was taken the cluster is waking: the prober looks often, and finds it warm (clusters.temperature).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F

from clusters.inventory import bump_revision
from clusters.models import Cluster, Waking
from clusters.snapshots import with_cost_in_force
from clusters.temperature import ERROR_CHARACTERS_MAX, await_replica, is_awaited
from clusters.wake_hook import WakeCall, WakeHookError, call_hook, prepare_call
from routing.money import NANOUSD_PER_USD
from routing.waking import PAUSE_S, Spill, on_choice, on_look

logger = logging.getLogger(__name__)

SPILL, REQUEST = "spill", "request"
SECONDS_PER_HOUR = 3600
# A call that was claimed and never reported may be made by another worker after so long.
CLAIM = timedelta(seconds=30)
# The pause after a first failure; it doubles up to the longest.
RETRY, RETRY_DOUBLINGS_MAX = timedelta(seconds=5), 5
# A wish, or a request without a place, older than that is not acted upon any more.
WISH_KEPT = timedelta(minutes=10)
ASKED_KEPT = timedelta(seconds=60)
CALLS_AT_ONCE_MAX = 20
NEVER_S = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """A claimed call."""

    cluster_id: UUID
    call: WakeCall | None
    error: str = ""


def note_demand(*, spilt_nanousd: Mapping[str, int], asked: Collection[str], now: datetime) -> None:
    """Add what a gateway spilt since the last time, by cluster, and whom requests asked for."""
    names = {*spilt_nanousd, *asked}
    with transaction.atomic():
        # Locked, so that none is deleted meanwhile, and in one order: gateways write at the same time.
        locked = Cluster.objects.select_for_update(no_key=True).filter(name__in=names).order_by("name")
        known = list(locked.values_list("name", "id"))
        rows = [Waking(cluster_id=cluster_id) for _, cluster_id in known]
        Waking.objects.bulk_create(rows, ignore_conflicts=True)
        for name, cluster_id in known:
            changes: dict[str, Any] = {}
            if name in spilt_nanousd:
                changes["spilt_nanousd"] = F("spilt_nanousd") + spilt_nanousd[name]
            if name in asked:
                changes["asked_at"] = now
            Waking.objects.filter(cluster_id=cluster_id).update(**changes)


def wake_due_clusters(*, now: datetime, clock: Callable[[], datetime]) -> list[str]:
    """Call the hooks that are due; gives back the names of the clusters whose hooks took the call.

    `now` decides, `clock` says when the answers came.
    """
    sleepers = Cluster.objects.filter(
        billing=Cluster.Billing.AUTOSCALED, state=Cluster.State.ACTIVE, waking__isnull=False
    ).exclude(wake_url="")
    clusters = list(with_cost_in_force(sleepers, now=now).select_related("waking").order_by("name"))
    due = [found for cluster in clusters if (found := _claimed(cluster, now=now)) is not None]
    if not due:
        return []
    answers = asyncio.run(_call_all([each.call for each in due], now=now))
    return [
        name
        for each, answer in zip(due, answers, strict=True)
        if (name := _record(each, answer=answer, now=clock())) is not None
    ]


def _claimed(cluster: Any, *, now: datetime) -> _Due | None:
    """Fold what is new of one cluster; its call, where one is due and nobody else makes it."""
    waking: Waking = cluster.waking
    changes = {**_folded(cluster, waking, now=now), **_abandoned(waking, now=now)}
    if not changes and waking.call_at is None and _is_asked(cluster, waking, now=now):
        changes |= {"call_at": now, "call_replicas": 1, "call_reason": REQUEST, "wished_at": now}
    call_at = changes.get("call_at", waking.call_at)
    is_due = call_at is not None and call_at <= now
    if is_due:
        changes |= {"call_at": now + CLAIM, "called_at": now}
    if not changes:
        return None
    seen = Waking.objects.filter(
        cluster_id=cluster.id,
        folded_nanousd=waking.folded_nanousd,
        folded_at=waking.folded_at,
        call_at=waking.call_at,
        called_at=waking.called_at,
    )
    if seen.update(**changes) != 1 or not is_due:
        return None
    replicas = changes.get("call_replicas", waking.call_replicas)
    reason = changes.get("call_reason", waking.call_reason)
    try:
        call = prepare_call(cluster=cluster, replicas_wanted=replicas, reason=reason)
    except WakeHookError as error:
        return _Due(cluster_id=cluster.id, call=None, error=str(error))
    return _Due(cluster_id=cluster.id, call=call)


def _folded(cluster: Any, waking: Waking, *, now: datetime) -> dict[str, Any]:
    """What the fold changes: empty where nothing was spilt and nothing is wished or forgotten."""
    new_nanousd = waking.spilt_nanousd - waking.folded_nanousd
    before = Spill(
        usd_per_s=waking.spill_nanousd_per_hour / NANOUSD_PER_USD / SECONDS_PER_HOUR,
        at_s=_s(waking.folded_at, default=now),
        replicas=waking.wished_replicas,
        woken_at_s=NEVER_S if waking.wished_at is None else waking.wished_at.timestamp(),
    )
    now_s = now.timestamp()
    spill = on_choice(before, provider_usd=new_nanousd / NANOUSD_PER_USD, now_s=now_s)
    running = _running_count(cluster)
    is_full = running >= cluster.replicas_max
    looked = on_look(
        spill,
        usd_per_replica_hour=cluster.cost_in_force / NANOUSD_PER_USD,
        replicas=running,
        is_waking=is_full or waking.call_at is not None or _is_awaited(cluster, waking, now=now),
        now_s=now_s,
    )
    if not new_nanousd and looked == spill:
        return {}
    changes: dict[str, Any] = {
        "folded_nanousd": waking.spilt_nanousd,
        "folded_at": now,
        "spill_nanousd_per_hour": round(looked.usd_per_s * NANOUSD_PER_USD * SECONDS_PER_HOUR),
        "wished_replicas": looked.replicas,
    }
    if looked.woken_at_s == now_s:
        changes |= {"wished_at": now, "call_at": now, "call_replicas": looked.replicas}
        changes["call_reason"] = SPILL
    return changes


def _abandoned(waking: Waking, *, now: datetime) -> dict[str, Any]:
    is_old = waking.wished_at is None or now - waking.wished_at > WISH_KEPT
    return {"call_at": None} if waking.call_at is not None and is_old else {}


def _is_asked(cluster: Any, waking: Waking, *, now: datetime) -> bool:
    """Whether a request had nowhere else to go lately, and nothing was done for it."""
    if waking.asked_at is None or now - waking.asked_at > ASKED_KEPT:
        return False
    if cluster.temperature == Cluster.Temperature.WARM or _is_awaited(cluster, waking, now=now):
        return False
    is_served = waking.accepted_at is not None and waking.asked_at <= waking.accepted_at
    is_paused = waking.called_at is not None and now - waking.called_at < timedelta(seconds=PAUSE_S)
    return not is_served and not is_paused


def _is_awaited(cluster: Any, waking: Waking, *, now: datetime) -> bool:
    return cluster.temperature == Cluster.Temperature.WAKING or is_awaited(waking, now=now)


def _running_count(cluster: Any) -> int:
    return 0 if cluster.temperature == Cluster.Temperature.COLD else max(cluster.replica_count, 1)


async def _call_all(calls: Sequence[WakeCall | None], *, now: datetime) -> list[int | WakeHookError | None]:
    slots = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    async def call_one(call: WakeCall | None) -> int | WakeHookError | None:
        if call is None:
            return None
        async with slots:
            try:
                return await call_hook(call, now=now)
            except WakeHookError as error:
                return error
            except Exception as error:
                # The edge of one call: a fault of ours with one hook must not lose all the others.
                logger.exception("wake_hook_crashed cluster=%s", call.cluster)
                return WakeHookError(f"the call itself failed ({type(error).__name__})")

    return await asyncio.gather(*(call_one(call) for call in calls))


def _record(due: _Due, *, answer: int | WakeHookError | None, now: datetime) -> str | None:
    """Note what came of a call; the cluster's name where it was taken."""
    error = due.error or (str(answer) if isinstance(answer, WakeHookError) else "")
    with transaction.atomic():
        cluster = Cluster.objects.select_for_update().filter(id=due.cluster_id).first()
        if cluster is None:
            return None
        waking = Waking.objects.get(cluster_id=cluster.id)
        if error:
            _note_failure(waking, error=error, now=now)
            logger.warning("wake_hook_failed cluster=%s error=%s", cluster.name, error)
        else:
            Waking.objects.filter(cluster_id=cluster.id).update(
                call_at=None, failure_count=0, error="", accepted_count=F("accepted_count") + 1
            )
            # Paid from now on, whatever it still has to load.
            cluster.replica_count = answer if isinstance(answer, int) else waking.call_replicas
            await_replica(cluster=cluster, waking=waking, now=now)
            cluster.save(update_fields=["replica_count", "temperature", "updated_at"])
            logger.info("cluster_woken name=%s replicas=%s", cluster.name, waking.call_replicas)
        bump_revision()
    return None if error else cluster.name


def _note_failure(waking: Waking, *, error: str, now: datetime) -> None:
    doublings = min(waking.failure_count, RETRY_DOUBLINGS_MAX)
    Waking.objects.filter(cluster_id=waking.cluster_id).update(
        call_at=now + RETRY * 2**doublings,
        failure_count=F("failure_count") + 1,
        error=error[:ERROR_CHARACTERS_MAX],
    )


def _s(moment: datetime | None, *, default: datetime) -> float:
    return (default if moment is None else moment).timestamp()
