"""Writes holds inside the ledger's transaction: steps 1 and 2 of the protocol in billing.ledger."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from operator import not_
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from billing.doubt import load_in_doubt
from billing.entries import Batch, BudgetExceededError, Checkpoint, Clamp, Hold, Verdict, WindowClaim
from billing.models import BudgetWindow, Reservation
from billing.statements import (
    chunks,
    execute_all,
    insert_into,
    moment_value,
    placeholders,
    uuid_of,
    uuid_value,
)


class _NoRoomError(Exception):
    """Some hard window has no room for all that was to be added to it, or no one rule for it."""


def write_holds(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, Verdict]:
    """Take the holds; give back those that a hard budget refused and those that a clamped one lowered.

    The windows are locked by this transaction (`lock_windows`): what is read of them stays so.
    """
    if not holds:
        return {}
    try:
        # All at once behind one savepoint: the usual case. It is set by hand, in one round trip with the
        # insert, and ends with the transaction.
        return _insert_holds(cursor, connection, holds, [("SAVEPOINT all_holds", [])])
    except _NoRoomError:
        cursor.execute("ROLLBACK TO SAVEPOINT all_holds")
    # Some window has no room for all of them: each in order takes what is left then, or is refused.
    verdicts = _load_verdicts(cursor, connection, holds)
    taken = [
        hold for hold in (verdicts.get(hold.attempt_id, hold) for hold in holds) if isinstance(hold, Hold)
    ]
    if taken:
        # By the same conditional UPDATE: under the lock there is the room that was read.
        verdicts.update(_insert_holds(cursor, connection, taken, is_decided=True))
    return verdicts


def _insert_holds(
    cursor: Any,
    connection: Any,
    holds: Sequence[Hold],
    before: Sequence[tuple[str, Sequence[Any]]] = (),
    *,
    is_decided: bool = False,
) -> dict[UUID, Verdict]:
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
    new: set[Any] = set()
    for statement in insert_into(Reservation, connection=connection, suffix=suffix).statements(rows):
        execute_all(cursor, connection, [*before, statement])
        # A hold repeated under the same attempt id is there already and is not counted again.
        new.update(attempt_id for (attempt_id,) in cursor.fetchall())
        before = ()
    is_new = [uuid_value(hold.attempt_id, connection=connection) in new for hold in holds]
    added = list(compress(holds, is_new))
    _add_to_windows(cursor, connection, added, is_decided=is_decided)
    known = compress(holds, map(not_, is_new))
    repeated = [hold for hold in known if hold.clamp is not None]
    return _as_taken_before(cursor, connection, repeated) if repeated else {}


def _add_to_windows(cursor: Any, connection: Any, holds: Sequence[Hold], *, is_decided: bool) -> None:
    amounts: dict[str, int] = defaultdict(int)
    claims: dict[str, WindowClaim] = {}
    latest: dict[str, int] = {}
    for hold in holds:
        for claim in hold.claims:
            amounts[claim.window_id] += hold.held_nanousd
            known = claims.get(claim.window_id, claim)
            if not is_decided and _rule(known) != _rule(claim):
                # While a budget changes two rules are known: each hold keeps to its own, one by one.
                raise _NoRoomError
            # Where it was decided on each by its own, the last one's counts.
            claims[claim.window_id] = claim
            latest[claim.window_id] = hold.held_nanousd
    # In id order, so that two processes never lock two windows crosswise.
    statements = [
        _addition(claims[window_id], amount=amounts[window_id], latest=latest[window_id])
        for window_id in sorted(amounts)
    ]
    if execute_all(cursor, connection, statements) != [1] * len(statements):
        raise _NoRoomError


def _addition(claim: WindowClaim, *, amount: int, latest: int) -> tuple[str, list[Any]]:
    sql = "UPDATE billing_budgetwindow SET held_nanousd = held_nanousd + %s WHERE id = %s"
    if not claim.is_hard:
        return sql, [amount, claim.window_id]
    # A crossing one needs room for all but the latest hold, and a nano-USD more.
    limit = claim.limit_nanousd + (latest - 1 if claim.is_crossed else 0)
    return f"{sql} AND spent_nanousd + held_nanousd + %s <= %s", [amount, claim.window_id, amount, limit]


def _rule(claim: WindowClaim) -> tuple[bool, bool, int]:
    return claim.is_hard, claim.is_crossed, claim.limit_nanousd


def _load_verdicts(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, Verdict]:
    """Decide on each hold by the sums of its windows and what those before it take; all in three queries."""
    present = _load_held(cursor, connection, holds)
    sums = _load_sums(cursor, sorted({claim.window_id for hold in holds for claim in hold.claims}))
    in_doubt = load_in_doubt(cursor)
    verdicts: dict[UUID, Verdict] = {}
    for hold in holds:
        if hold.attempt_id in present:
            continue
        verdict = _verdict(hold, sums, in_doubt)
        if verdict is not None:
            verdicts[hold.attempt_id] = verdict
        if isinstance(verdict, BudgetExceededError):
            continue
        taken = hold if verdict is None else verdict
        for claim in taken.claims:
            spent, held = sums[claim.window_id]
            sums[claim.window_id] = (spent, held + taken.held_nanousd)
    return verdicts


def _verdict(hold: Hold, sums: Mapping[str, tuple[int, int]], in_doubt: Mapping[str, int]) -> Verdict | None:
    """None where it fits; lowered to the room that is left where all that lack room are clamped."""
    refusals: list[BudgetExceededError] = []
    rooms: list[int] = []
    for claim in hold.claims:
        spent, held = sums[claim.window_id]
        room = claim.limit_nanousd - spent - held
        clamp = hold.clamp if claim.is_clamped else None
        needed = _least_needed(hold, claim, clamp)
        if claim.is_hard and room < needed:
            refusal = BudgetExceededError(
                claim=claim,
                needed_nanousd=needed,
                spent_nanousd=spent,
                held_nanousd=held,
                in_doubt_nanousd=in_doubt.get(claim.window_id, 0),
                output_tokens_min=clamp.output_tokens_min if clamp else None,
            )
            refusals.append(refusal)
        elif clamp is not None:
            rooms.append(room)
    if refusals:
        # The one that is furthest from having room: where one is spent, waiting for another is no use.
        return min(refusals, key=_lasting_room)
    if min(rooms, default=hold.held_nanousd) >= hold.held_nanousd:
        return None
    lowered = _lowered(hold, room_nanousd=min(rooms))
    assert lowered is not None, "there is room for the least"
    return lowered


def _lasting_room(refusal: BudgetExceededError) -> int:
    """What would be left if all that runs now cost nothing."""
    bound_nanousd = refusal.spent_nanousd + refusal.in_doubt_nanousd + refusal.needed_nanousd
    return refusal.claim.limit_nanousd - bound_nanousd


def _least_needed(hold: Hold, claim: WindowClaim, clamp: Clamp | None) -> int:
    """The room without which the window refuses the hold."""
    if claim.is_crossed:
        return 1
    if clamp is not None:
        return clamp.held_nanousd(output_tokens=clamp.output_tokens_min)
    return hold.held_nanousd


def _lowered(hold: Hold, *, room_nanousd: int) -> Hold | None:
    """The hold for the longest answer that the room pays; None: not even the shortest."""
    assert hold.clamp is not None
    tokens = hold.clamp.affordable_tokens(room_nanousd=room_nanousd)
    if tokens is None:
        return None
    held = hold.clamp.held_nanousd(output_tokens=tokens)
    assert held <= room_nanousd
    return replace(hold, held_nanousd=held, clamped_output_tokens=tokens)


def _as_taken_before(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, Verdict]:
    """Of holds that are there already, those that were lowered: their caller hears of it each time."""
    present = _load_held(cursor, connection, holds)
    verdicts: dict[UUID, Verdict] = {}
    for hold in holds:
        held = present[hold.attempt_id]
        if held < hold.held_nanousd:
            lowered = _lowered(hold, room_nanousd=held)
            # Less than the least: it was released, and nothing may be sent for it.
            refusal = BudgetExceededError(claim=hold.claims[0], needed_nanousd=hold.held_nanousd)
            verdicts[hold.attempt_id] = refusal if lowered is None else lowered
    return verdicts


def _load_held(cursor: Any, connection: Any, holds: Sequence[Hold]) -> dict[UUID, int]:
    """What those of the attempts that are there already hold."""
    held: dict[UUID, int] = {}
    for chunk in chunks([uuid_value(hold.attempt_id, connection=connection) for hold in holds]):
        sql = (
            f"SELECT attempt_id, held_nanousd FROM billing_reservation "  # noqa: S608 -- constants only
            f"WHERE attempt_id IN ({placeholders(len(chunk))})"
        )
        cursor.execute(sql, chunk)
        held.update((uuid_of(attempt_id), amount) for attempt_id, amount in cursor.fetchall())
    return held


def _load_sums(cursor: Any, window_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(spent, held) of each window."""
    sums: dict[str, tuple[int, int]] = {}
    for chunk in chunks(window_ids):
        sql = (
            f"SELECT id, spent_nanousd, held_nanousd FROM billing_budgetwindow "  # noqa: S608 -- constants only
            f"WHERE id IN ({placeholders(len(chunk))})"
        )
        cursor.execute(sql, chunk)
        sums.update((window_id, (spent, held)) for window_id, spent, held in cursor.fetchall())
    return sums


def lock_windows(cursor: Any, connection: Any, batch: Batch) -> None:
    """Before anything else: make the windows that are missing, lock all that the batch touches, in id order.

    Settlements lock windows and rollups, holds lock windows again: on PostgreSQL two processes would wait
    for each other. Settlements alone keep the order by themselves.
    """
    if not batch.holds:
        return
    statements = list(_missing_windows(connection, batch.holds))
    if connection.vendor != "sqlite":
        holds = [*batch.holds, *(settlement.hold for settlement in batch.settlements)]
        for chunk in chunks(sorted({claim.window_id for hold in holds for claim in hold.claims})):
            sql = (
                f"SELECT id FROM billing_budgetwindow WHERE id IN ({placeholders(len(chunk))}) "  # noqa: S608 -- constants only
                f"ORDER BY id FOR NO KEY UPDATE"
            )
            statements.append((sql, list(chunk)))
    execute_all(cursor, connection, statements)


def _missing_windows(connection: Any, holds: Sequence[Hold]) -> Iterator[tuple[str, list[Any]]]:
    claims = {claim.window_id: claim for hold in holds for claim in hold.claims}
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
    return insert_into(BudgetWindow, connection=connection, suffix=suffix).statements(rows)


def write_checkpoints(cursor: Any, connection: Any, checkpoints: Sequence[Checkpoint]) -> None:
    latest = {checkpoint.attempt_id: checkpoint for checkpoint in checkpoints}
    sql = (
        "UPDATE billing_reservation SET output_tokens_checkpoint = %s, updated_at = %s "
        "WHERE attempt_id = %s AND state = 'held'"
    )
    for checkpoint in latest.values():
        at = moment_value(checkpoint.at, connection=connection)
        attempt_id = uuid_value(checkpoint.attempt_id, connection=connection)
        cursor.execute(sql, (checkpoint.output_tokens, at, attempt_id))
