"""A claim whose request was cancelled while it was being written: the key is free again soon."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from billing import idempotency
from billing.idempotency import Claim
from billing.models import IdempotentRequest
from gateway.idempotency import AnswerKeeper

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class FakeOwner:
    id = uuid.UUID(int=7)


class FakeThreads:
    """Keeps the work for later, as a thread does whose caller is cancelled."""

    def __init__(self):
        self.works = []

    async def run(self, work):
        self.works.append(work)
        raise asyncio.CancelledError


def keeper_of(threads):
    return AnswerKeeper(
        owner=FakeOwner(),
        threads=threads,
        pumps=None,
        seal=None,
        kept_for=timedelta(hours=1),
        answer_bytes_max=100,
        buffer_bytes_max=100,
        wall_clock=lambda: NOW,
    )


@pytest.mark.django_db(databases="__all__")
def test_claim_of_a_cancelled_request_is_freed():
    threads = FakeThreads()
    keeper = keeper_of(threads)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(
            keeper.enter(key_id=str(uuid.uuid4()), key="k", path="/v1", body=b"{}", request_id="req_1")
        )
    assert threads.works[0]() is None
    (claim,) = keeper._unfreed.values()
    assert isinstance(claim, Claim)
    before = IdempotentRequest.objects.count()
    idempotency.release_claim(claim)

    assert (before, IdempotentRequest.objects.count(), keeper._running) == (1, 0, set())
