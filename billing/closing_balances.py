"""What pruned rows added to sums that stay: the balances that proofs count beside the rows still there."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from billing.models import ClosingBalance
from billing.statements import chunks


def load_hour_balances(row_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """By the id of the hour's rollup."""
    found = _load(kind=ClosingBalance.Kind.HOUR, row_ids=list(row_ids))
    return {balance.row_id: balance.sums for balance in found.values()}


def add_window_balances(spent: Mapping[str, int], *, now: datetime) -> None:
    additions = {window_id: {"spent_nanousd": value} for window_id, value in spent.items()}
    _add(additions, kind=ClosingBalance.Kind.WINDOW, now=now)


def add_hour_balances(sums: Mapping[str, Mapping[str, int]], *, now: datetime) -> None:
    _add(sums, kind=ClosingBalance.Kind.HOUR, now=now)


def delete_hour_balances(row_ids: Iterable[str]) -> None:
    """When the hours themselves go: their days keep the sums."""
    for chunk in chunks([_id(ClosingBalance.Kind.HOUR, row_id) for row_id in row_ids]):
        ClosingBalance.objects.filter(id__in=chunk).delete()


def _add(additions: Mapping[str, Mapping[str, int]], *, kind: ClosingBalance.Kind, now: datetime) -> None:
    """Only one pruning runs at a time, in the ledger's transaction: what is read here stays."""
    known = _load(kind=kind, row_ids=list(additions))
    rows = []
    for row_id, sums in additions.items():
        before = known[_id(kind, row_id)].sums if _id(kind, row_id) in known else {}
        total = {name: before.get(name, 0) + value for name, value in sums.items()}
        rows.append(
            ClosingBalance(id=_id(kind, row_id), kind=kind, row_id=row_id, sums=total, updated_at=now)
        )
    ClosingBalance.objects.bulk_create(
        rows,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["sums", "updated_at"],
    )


def _load(*, kind: ClosingBalance.Kind, row_ids: list[str]) -> dict[str, ClosingBalance]:
    found: dict[str, ClosingBalance] = {}
    for chunk in chunks([_id(kind, row_id) for row_id in row_ids]):
        found.update({each.id: each for each in ClosingBalance.objects.filter(id__in=chunk)})
    return found


def _id(kind: ClosingBalance.Kind, row_id: str) -> str:
    return f"{kind.value}:{row_id}"
