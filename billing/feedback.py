"""What callers say of answers: one score for each request and key, the latest one counts."""

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connections, transaction

from billing.experiment_sums import hour_additions, hour_of
from billing.ledger import ledger_transaction
from billing.models import Feedback, UsageRecord
from billing.principals import Principal
from billing.statements import execute_all

COMMENT_CHARACTERS_MAX = 1_000
# A request has a handful of attempts; what an import brought under one id is not looked through.
ATTEMPTS_MAX = 20
ID_CHARACTERS = 40
# Two that say it at once meet once.
TRIES_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackView:
    """What is kept; `is_new`: nothing was said of the request by this key before."""

    request_id: str
    model: str
    score: float
    comment: str
    is_new: bool


def put_feedback(
    *, principal: Principal, request_id: str, score: float, comment: str, now: datetime
) -> FeedbackView | None:
    """Keep a score from 0 to 1 of a request that a key of the caller's team sent; None: there is none.

    The sums of the experiment that the answer was of move in the same transaction.
    """
    assert 0 <= score <= 1
    assert len(comment) <= COMMENT_CHARACTERS_MAX
    attempt = _attempt_answered(principal, request_id=request_id)
    if attempt is None:
        return None
    for _ in range(TRIES_MAX - 1):
        try:
            return _put(attempt, principal=principal, score=score, comment=comment, now=now)
        except IntegrityError:
            continue
    return _put(attempt, principal=principal, score=score, comment=comment, now=now)


def _attempt_answered(principal: Principal, *, request_id: str) -> UsageRecord | None:
    """The attempt that the caller saw: the last one that brought content, else the last one."""
    rows = list(
        UsageRecord.objects.filter(
            request_id=request_id, organisation=principal.organisation, team=principal.team
        )[:ATTEMPTS_MAX]
    )
    rows.sort(key=lambda row: (row.outcome != UsageRecord.Outcome.FAILED, row.attempt_number))
    return rows[-1] if rows else None


def _put(
    attempt: UsageRecord, *, principal: Principal, score: float, comment: str, now: datetime
) -> FeedbackView:
    key_id = UUID(principal.key_id)
    row_id = hashlib.sha256(f"{key_id}\0{attempt.request_id}".encode()).hexdigest()[:ID_CHARACTERS]
    with ledger_transaction():
        before = Feedback.objects.select_for_update().filter(id=row_id).first()
        if before is None:
            with transaction.atomic(using=settings.LEDGER_DATABASE):
                _insert(row_id, attempt, key_id=key_id, score=score, comment=comment, now=now)
        else:
            Feedback.objects.filter(id=row_id).update(score=score, comment=comment, updated_at=now)
        _add_to_arm(attempt, old=None if before is None else before.score, new=score, now=now)
    return FeedbackView(
        request_id=attempt.request_id,
        model=attempt.served_model,
        score=score,
        comment=comment,
        is_new=before is None,
    )


def _insert(
    row_id: str, attempt: UsageRecord, *, key_id: UUID, score: float, comment: str, now: datetime
) -> None:
    Feedback.objects.bulk_create(
        [
            Feedback(
                id=row_id,
                request_id=attempt.request_id,
                attempt_id=attempt.attempt_id,
                key_id=key_id,
                organisation=attempt.organisation,
                team=attempt.team,
                model=attempt.model,
                served_model=attempt.served_model,
                experiment=attempt.experiment,
                arm=attempt.arm,
                score=score,
                comment=comment,
                created_at=now,
                updated_at=now,
            )
        ]
    )


def _add_to_arm(attempt: UsageRecord, *, old: float | None, new: float, now: datetime) -> None:
    """An answer of another arm's model says nothing of this one."""
    if not attempt.experiment or attempt.arm != attempt.served_model:
        return
    at = attempt.settled_at
    row: dict[str, Any] = hour_of(experiment=attempt.experiment, arm=attempt.arm, at=at, now=now)
    row["feedback_count"] = int(old is None)
    row["feedback_score"] = math.fsum((new, -(old or 0.0)))
    row["feedback_squares"] = math.fsum((new**2, -((old or 0.0) ** 2)))
    connection = connections[settings.LEDGER_DATABASE]
    with connection.cursor() as cursor:
        execute_all(cursor, connection, list(hour_additions(connection, [row])))
