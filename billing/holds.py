"""Writes holds inside the ledger's transaction: steps 1 and 2 of the protocol in billing.ledger."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing.entries import Batch, BudgetExceededError, Checkpoint, Hold, WindowClaim
from billing.models import BudgetWindow, Reservation
from billing.statements import InsertStatement, chunks, converter, placeholders, uuid_of


def write_holds(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, BudgetExceededError]:
    if not holds:
        return {}
    try:
        # All at once behind one savepoint: the usual case, a statement per window.
        with transaction.atomic(using=settings.LEDGER_DATABASE):
            _insert_holds(cursor, connection, holds)
            return {}
    except BudgetExceededError:
        pass
    # Some window has no room for all of them: one by one, in order, so that each that fits passes.
    refused: dict[UUID, BudgetExceededError] = {}
    for hold in holds:
        try:
            with transaction.atomic(using=settings.LEDGER_DATABASE):
                _insert_holds(cursor, connection, [hold])
        except BudgetExceededError as error:
            refused[hold.attempt_id] = error
    return refused


def _insert_holds(cursor: Any, connection: Any, holds: Sequence[Hold]) -> None:
    rows = [
        {
            "attempt_id": hold.attempt_id,
            "request_id": hold.request_id,
            "owner": hold.owner,
            "state": Reservation.State.HELD.value,
            "held_nanousd": hold.held_nanousd,
            "windows": [claim.window_id for claim in hold.claims],
            "attribution": hold.attribution,
            "output_tokens_checkpoint": 0,
            "created_at": hold.at,
            "updated_at": hold.at,
        }
        for hold in holds
    ]
    suffix = "ON CONFLICT (attempt_id) DO NOTHING RETURNING attempt_id"
    inserted = InsertStatement(Reservation, connection=connection, suffix=suffix).execute(cursor, rows)
    # A hold repeated under the same attempt id is there already and is not counted again.
    new = {uuid_of(row[0]) for row in inserted}
    amounts: dict[str, int] = defaultdict(int)
    claims: dict[str, WindowClaim] = {}
    for hold in holds:
        for claim in hold.claims if hold.attempt_id in new else ():
            amounts[claim.window_id] += hold.held_nanousd
            claims[claim.window_id] = claim
    # In id order, so that two processes never lock two windows crosswise.
    for window_id in sorted(amounts):
        claim, amount = claims[window_id], amounts[window_id]
        sql = "UPDATE billing_budgetwindow SET held_nanousd = held_nanousd + %s WHERE id = %s"
        values: tuple[Any, ...] = (amount, window_id)
        if claim.is_hard:
            sql += " AND spent_nanousd + held_nanousd + %s <= %s"
            values = (*values, amount, claim.limit_nanousd)
        cursor.execute(sql, values)
        if cursor.rowcount != 1:
            raise BudgetExceededError(claim=claim, held_nanousd=amount)


def ensure_windows(cursor: Any, connection: Any, holds: Sequence[Hold]) -> None:
    claims = {claim.window_id: claim for hold in holds for claim in hold.claims}
    if not claims:
        return
    rows = [
        {
            "id": claim.window_id,
            "budget_id": claim.budget_id,
            "starts_at": claim.starts_at,
            "ends_at": claim.ends_at,
            "spent_nanousd": 0,
            "held_nanousd": 0,
        }
        for _, claim in sorted(claims.items())
    ]
    suffix = "ON CONFLICT (id) DO NOTHING"
    InsertStatement(BudgetWindow, connection=connection, suffix=suffix).execute(cursor, rows)


def lock_windows(cursor: Any, connection: Any, batch: Batch) -> None:
    """Lock every window that the batch touches, in id order, before anything that another process locks.

    Settlements lock windows and rollups, holds lock windows again, and one by one where one is refused:
    on PostgreSQL two processes would wait for each other. Settlements alone keep the order by themselves.
    """
    if connection.vendor == "sqlite" or not batch.holds:
        return
    holds = [*batch.holds, *(settlement.hold for settlement in batch.settlements)]
    for chunk in chunks(sorted({claim.window_id for hold in holds for claim in hold.claims})):
        sql = (
            f"SELECT id FROM billing_budgetwindow WHERE id IN ({placeholders(len(chunk))}) "  # noqa: S608 -- constants only
            f"ORDER BY id FOR NO KEY UPDATE"
        )
        cursor.execute(sql, chunk)


def write_checkpoints(cursor: Any, connection: Any, checkpoints: Sequence[Checkpoint]) -> None:
    latest = {checkpoint.attempt_id: checkpoint for checkpoint in checkpoints}
    uuid_value = converter(Reservation._meta.get_field("attempt_id"), connection=connection)
    sql = (
        "UPDATE billing_reservation SET output_tokens_checkpoint = %s, updated_at = %s "
        "WHERE attempt_id = %s AND state = 'held'"
    )
    moment_value = connection.ops.adapt_datetimefield_value
    for checkpoint in latest.values():
        at = moment_value(checkpoint.at)
        cursor.execute(sql, (checkpoint.output_tokens, at, uuid_value(checkpoint.attempt_id)))
