"""Claims on Idempotency-Keys: which request runs, whose answer is kept, and when a key is free again.

1. claim: one row per API key and header, inserted before the request runs, in a transaction of its own. Who
   finds a row learns what it stands for: a request that runs, or one that is done.
2. finish: the request was answered and settled; its sealed answer is written before the last byte leaves.
3. release: the request ended otherwise; the row goes, and a repeat runs.
4. A process that died while running leaves its claim. Whoever finds it and has proof of that death
   (billing.ownership) takes it over, never by time-out. Died between settling and step 2, the request was
   charged and nobody has its whole answer: the repeat runs, and is charged, anew.

Each step is conditional on the request's own id: one that lost its claim changes nothing of the next's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from billing import ownership
from billing.ledger import ledger_transaction
from billing.models import IdempotentRequest

# Two that free and claim the same key at once meet once or twice, not for ever.
CLAIM_TRIES_MAX = 3
# One transaction of deleting: settling waits for it on SQLite.
BATCH_ROWS = 100
PRUNE_BATCHES_MAX = 1_000

OwnerCheck = Callable[[UUID, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a request says of itself when it claims a key."""

    row_id: str
    key_id: UUID
    request_id: str
    owner: UUID
    body_digest: str
    now: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """What the key stands for already. A request that is done without an answer: it was not kept."""

    request_id: str
    is_same_body: bool
    is_running: bool
    answer: bytes | None


class Forgotten(Enum):
    """What became of a key that was to be forgotten."""

    DELETED = "deleted"
    RUNNING = "running"
    UNKNOWN = "unknown"


def row_id_of(*, key_id: UUID, header: str) -> str:
    """The row of a header, which holds for one API key alone."""
    return hashlib.sha256(f"{key_id}\0{header}".encode()).hexdigest()


def is_owner_dead(owner: UUID, _request_id: str) -> bool:
    """Whether the process that runs the request is proven dead."""
    return ownership.is_proven_dead(owner)


def claim_key(claim: Claim, *, is_ended: OwnerCheck = is_owner_dead) -> KnownRequest | None:
    """Claim the key; None: it is ours, else what it stands for.

    `is_ended` says of an owner and its request whether nobody runs it any more. It is asked outside of the
    transaction.
    """
    known: KnownRequest | None = None
    for _ in range(CLAIM_TRIES_MAX):
        row = _insert_or_load(claim)
        if row is None:
            continue
        if row.request_id == claim.request_id:
            return None
        known = _known(row, claim)
        if not _is_free(row, now=claim.now, is_ended=is_ended):
            return known
        if _take_over(row, claim):
            return None
    # Others took it each time: one of them runs.
    return known or KnownRequest(request_id="", is_same_body=True, is_running=True, answer=None)


def finish_claim(claim: Claim, *, answer: bytes | None, expires_at: datetime) -> bool:
    """Keep the sealed answer, None where it is too long; False: the claim was lost meanwhile."""
    with ledger_transaction():
        changed = _running(claim).update(
            state=IdempotentRequest.State.DONE, answer=answer, expires_at=expires_at
        )
    return changed == 1


def release_claim(claim: Claim) -> None:
    """Free the key, if it is still ours and running; may be repeated."""
    with ledger_transaction():
        _running(claim).delete()


def adopt_claims(*, lost_owner: UUID, owner: UUID) -> int:
    """Go on under the process's new epoch (billing.ownership) with what runs; gives back how many."""
    with ledger_transaction():
        running = IdempotentRequest.objects.filter(owner=lost_owner, state=IdempotentRequest.State.RUNNING)
        return running.update(owner=owner)


def forget_key(*, row_id: str, is_ended: OwnerCheck = is_owner_dead) -> Forgotten:
    """Delete a key and its answer, unless its request runs."""
    row = IdempotentRequest.objects.filter(id=row_id).defer("answer").first()
    if row is None:
        return Forgotten.UNKNOWN
    is_deleted = _is_ended(row, is_ended) and _delete([row]) == 1
    return Forgotten.DELETED if is_deleted else Forgotten.RUNNING


def forget_all(*, key_id: UUID | None = None, is_ended: OwnerCheck = is_owner_dead) -> tuple[int, int]:
    """Delete what an API key, or everybody, has kept; gives back how many went and how many still run."""
    rows = IdempotentRequest.objects.all()
    if key_id is not None:
        rows = rows.filter(key_id=key_id)
    deleted = _delete_ended(rows, is_ended=is_ended, batches_max=PRUNE_BATCHES_MAX)
    return deleted, rows.count()


def prune_kept(
    *, now: datetime, is_ended: OwnerCheck = is_owner_dead, batches_max: int = PRUNE_BATCHES_MAX
) -> int:
    """Delete what is kept no longer, some rows at a time; gives back how many. What runs stays."""
    expired = IdempotentRequest.objects.filter(expires_at__lte=now)
    return _delete_ended(expired, is_ended=is_ended, batches_max=batches_max)


def _insert_or_load(claim: Claim) -> IdempotentRequest | None:
    """The key's row, ours if there was none; None: it went between the two statements."""
    row = IdempotentRequest(id=claim.row_id, **_columns(claim))
    with ledger_transaction():
        # Waits for one that is being inserted; the next statement sees it.
        IdempotentRequest.objects.bulk_create([row], ignore_conflicts=True)
        return IdempotentRequest.objects.filter(id=claim.row_id).first()


def _take_over(row: IdempotentRequest, claim: Claim) -> bool:
    """Put our claim in the row's place, unless somebody was quicker."""
    unchanged = IdempotentRequest.objects.filter(id=row.id, request_id=row.request_id, state=row.state)
    with ledger_transaction():
        return unchanged.update(**_columns(claim)) == 1


def _columns(claim: Claim) -> dict[str, Any]:
    return {
        "key_id": claim.key_id,
        "request_id": claim.request_id,
        "owner": claim.owner,
        "body_digest": claim.body_digest,
        "state": IdempotentRequest.State.RUNNING,
        "answer": None,
        "created_at": claim.now,
        "expires_at": claim.expires_at,
    }


def _is_free(row: IdempotentRequest, *, now: datetime, is_ended: OwnerCheck) -> bool:
    """Whether the row binds nobody any more: kept long enough, or its process died."""
    if row.state == IdempotentRequest.State.DONE:
        return row.expires_at <= now
    return is_ended(row.owner, row.request_id)


def _known(row: IdempotentRequest, claim: Claim) -> KnownRequest:
    return KnownRequest(
        request_id=row.request_id,
        is_same_body=row.body_digest == claim.body_digest,
        is_running=row.state == IdempotentRequest.State.RUNNING,
        answer=None if row.answer is None else bytes(row.answer),
    )


def _running(claim: Claim) -> QuerySet[IdempotentRequest]:
    """The claim's row while it is still this request's."""
    state = IdempotentRequest.State.RUNNING
    return IdempotentRequest.objects.filter(id=claim.row_id, request_id=claim.request_id, state=state)


def _delete_ended(rows: QuerySet[IdempotentRequest], *, is_ended: OwnerCheck, batches_max: int) -> int:
    """Delete of these rows what nobody runs."""
    deleted = 0
    done = rows.filter(state=IdempotentRequest.State.DONE).order_by("expires_at").defer("answer")
    for _ in range(batches_max):
        batch = list(done[:BATCH_ROWS])
        if not batch:
            break
        deleted += _delete(batch)
    # Few: what runs, and what died running.
    running = rows.filter(state=IdempotentRequest.State.RUNNING).order_by("id")
    after = ""
    for _ in range(batches_max):
        batch = list(running.filter(id__gt=after)[:BATCH_ROWS])
        if not batch:
            break
        after = batch[-1].id
        deleted += _delete([row for row in batch if _is_ended(row, is_ended)])
    return deleted


def _delete(rows: Sequence[IdempotentRequest]) -> int:
    """Each by its request's id: a key that was claimed anew meanwhile stays."""
    unchanged = IdempotentRequest.objects.filter(
        id__in=[row.id for row in rows], request_id__in=[row.request_id for row in rows]
    )
    with ledger_transaction():
        return unchanged.delete()[0]


def _is_ended(row: IdempotentRequest, is_ended: OwnerCheck) -> bool:
    return row.state == IdempotentRequest.State.DONE or is_ended(row.owner, row.request_id)
