"""The door for what clusters cost per hour over time: a row is never changed, a later one follows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import OuterRef, Q, Subquery

from clusters.inventory import InventoryError, bump_revision
from clusters.models import Cluster, HourlyCost

COST_PER_HOUR_NANOUSD_MAX = 10**6 * 10**9
SOURCE_CHARACTERS_MAX = 100
ROWS_PER_PUT_MAX = 100_000
ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChange:
    """What a cluster (of an autoscaled one: a replica) costs per hour from a moment on."""

    effective_at: datetime
    cost_per_hour_nanousd: int


def put_hourly_cost(
    *, cluster_name: str, effective_at: datetime, cost_per_hour_nanousd: int, source: str = "manual"
) -> bool:
    """Write what a cluster costs from `effective_at` on; False where this very row is there already."""
    change = CostChange(effective_at=effective_at, cost_per_hour_nanousd=cost_per_hour_nanousd)
    return put_hourly_costs(changes={cluster_name: [change]}, source=source) == 1


def put_hourly_costs(*, changes: Mapping[str, Sequence[CostChange]], source: str) -> int:
    """Write many, by the clusters' names: all or none; returns how many were not there already.

    A cost of a moment in the past counts for minutes that nobody sampled yet (after an outage): what is in
    the accounts stays. Rows that repeat the cost before them are kept, since another may come in between.
    """
    if not source or len(source) > SOURCE_CHARACTERS_MAX or not source.isprintable():
        raise InventoryError(f"the source must be one line of 1 to {SOURCE_CHARACTERS_MAX} characters")
    if (count := sum(map(len, changes.values()))) > ROWS_PER_PUT_MAX:
        raise InventoryError(f"{count} hourly costs at once: split them, at most {ROWS_PER_PUT_MAX}")
    with transaction.atomic():
        # Locked, so that two imports of one moment do not both find it free.
        found = Cluster.objects.select_for_update().filter(name__in=changes).order_by("name")
        clusters = {cluster.name: cluster for cluster in found}
        rows = [row for name, of_one in changes.items() for row in _new_rows(clusters, name, of_one, source)]
        HourlyCost.objects.bulk_create(rows, batch_size=ROWS_PER_STATEMENT)
        if rows:
            bump_revision()
    return len(rows)


def withdraw_hourly_cost(*, hourly_cost_id: UUID, now: datetime) -> None:
    """Delete a cost that is not in force yet."""
    with transaction.atomic():
        deleted_count, _ = HourlyCost.objects.filter(id=hourly_cost_id, effective_at__gt=now).delete()
        if deleted_count == 0:
            raise InventoryError("this hourly cost is in force or was: it stays. Add a new one to follow it.")
        bump_revision()


def load_changes(*, from_at: datetime, to_at: datetime) -> dict[str, tuple[CostChange, ...]]:
    """The costs in force from one moment to another, by cluster and in the order of time; one query.

    The first of each may be older: it was in force at `from_at`.
    """
    before = HourlyCost.objects.filter(cluster=OuterRef("cluster"), effective_at__lte=from_at)
    in_force = Subquery(before.order_by("-effective_at").values("id")[:1])
    rows = HourlyCost.objects.filter(Q(effective_at__gt=from_at) | Q(id=in_force), effective_at__lte=to_at)
    found: dict[str, list[CostChange]] = {}
    for name, effective_at, cost in rows.order_by("cluster__name", "effective_at").values_list(
        "cluster__name", "effective_at", "cost_per_hour_nanousd"
    ):
        change = CostChange(effective_at=effective_at, cost_per_hour_nanousd=cost)
        found.setdefault(name, []).append(change)
    return {name: tuple(changes) for name, changes in found.items()}


def _new_rows(
    clusters: Mapping[str, Cluster], name: str, changes: Sequence[CostChange], source: str
) -> list[HourlyCost]:
    if name not in clusters:
        raise InventoryError(f"there is no cluster {name!r}: create it first")
    known = dict(
        HourlyCost.objects.filter(cluster=clusters[name]).values_list("effective_at", "cost_per_hour_nanousd")
    )
    rows = []
    for change in changes:
        _check(change, name=name)
        if (cost := known.get(change.effective_at)) is None:
            known[change.effective_at] = change.cost_per_hour_nanousd
            rows.append(
                HourlyCost(
                    cluster=clusters[name],
                    effective_at=change.effective_at,
                    cost_per_hour_nanousd=change.cost_per_hour_nanousd,
                    source=source,
                )
            )
        elif cost != change.cost_per_hour_nanousd:
            raise InventoryError(
                f"an hourly cost of {name!r} from {change.effective_at.isoformat()} exists already and "
                f"differs: costs are never changed, choose a later moment"
            )
    return rows


def _check(change: CostChange, *, name: str) -> None:
    if change.effective_at.tzinfo is None:
        raise InventoryError(
            f"the moment {change.effective_at} of an hourly cost of {name!r} needs a time zone"
        )
    if not 0 <= change.cost_per_hour_nanousd <= COST_PER_HOUR_NANOUSD_MAX:
        raise InventoryError(
            f"the cost per hour of {name!r} is not between 0 and {COST_PER_HOUR_NANOUSD_MAX // 10**9:,} USD"
        )
