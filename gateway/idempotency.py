"""Idempotency-Key on completions: the same request again gets the answer of the first, and is not charged.

A request that names a key claims it (billing.idempotency) before it is admitted, and its outbox records what
is handed out. Once the answer is whole: settle, keep the sealed answer, and only then the last byte, so that
who saw the end can always ask again. A request that ends otherwise, cut answers too, frees its key first and
is told then. A caller who leaves is expected back: the pump reads on to the end, within its own limits.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import orjson
import structlog

from billing import idempotency, ownership
from billing.entries import LedgerUnavailableError
from billing.idempotency import Claim, Forgotten, KnownRequest
from gateway.answer_seal import AnswerSeal, SealError
from gateway.database_threads import DatabaseThreads
from gateway.errors import (
    GatewayError,
    IdempotencyInUseError,
    IdempotencyNotKeptError,
    IdempotencyReusedError,
    InvalidRequestError,
    LedgerDownError,
)
from gateway.outbox import Headers, Outbox, Reply
from gateway.pumps import PumpSet

logger = structlog.get_logger(__name__)

HEADER = b"idempotency-key"
HEADER_NAME = "Idempotency-Key"
HEADER_CHARACTERS_MAX = 255
# Ours are told again; rate limits and the like were those of another moment.
KEPT_HEADERS = "x-gateway-"
# What all running answers of the process may have recorded; beyond it an answer is not kept.
RECORDED_BYTES_MAX = 64 * 1024 * 1024
# Keys that could not be freed while the database was away; tried again once a second.
UNFREED_MAX = 20_000
RETRY_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The answer of an earlier request: a stream's body is all its events."""

    request_id: str
    is_stream: bool
    headers: Headers
    body: bytes


def idempotency_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's key as sent, None without one; raises InvalidRequestError."""
    given = [value for name, value in headers if name == HEADER]
    if not given:
        return None
    key = given[0].strip()
    is_printable = all(0x20 <= byte <= 0x7E for byte in key)
    if len(given) > 1 or not is_printable or not 1 <= len(key) <= HEADER_CHARACTERS_MAX:
        raise InvalidRequestError(
            f"`{HEADER_NAME}` is sent once, with 1 to {HEADER_CHARACTERS_MAX} printable ASCII characters.",
            param=HEADER_NAME,
        )
    return key.decode("ascii")


def digest_request(*, key: str, path: str, body: bytes) -> str:
    """What makes it the same request. With the key in it, which is kept nowhere, no body can be guessed."""
    digest = hashlib.sha256(f"{key}\0{path}\0".encode())
    digest.update(body)
    return digest.hexdigest()


class AnswerKeeper:
    """The process's side of Idempotency-Keys: claims them, keeps answers and gives them out again."""

    def __init__(
        self,
        *,
        owner: ownership.Owner,
        threads: DatabaseThreads,
        pumps: PumpSet,
        seal: AnswerSeal,
        kept_for: timedelta,
        answer_bytes_max: int,
        buffer_bytes_max: int,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._owner = owner
        self._owner_id = owner.id
        self._threads = threads
        self._pumps = pumps
        self._seal = seal
        self._kept_for = kept_for
        self._answer_bytes_max = answer_bytes_max
        self._buffer_bytes_max = buffer_bytes_max
        self._wall_clock = wall_clock
        # By request id; set before the claim is written, so that a row of ours without one is nobody's.
        self._running: set[str] = set()
        self._unfreed: dict[str, Claim] = {}
        self._recorded_bytes = 0

    @property
    def is_enabled(self) -> bool:
        return self._kept_for > timedelta(0) and self._seal.has_keys

    async def enter(
        self, *, key_id: str, key: str, path: str, body: bytes, request_id: str
    ) -> "RecordedOutbox | KeptAnswer":
        """Claim the key: an outbox to answer into, or the answer that is kept; raises the refusals."""
        now = self._wall_clock()
        claim = Claim(
            row_id=idempotency.row_id_of(key_id=UUID(key_id), header=key),
            key_id=UUID(key_id),
            request_id=request_id,
            owner=self._owner.id,
            body_digest=digest_request(key=key, path=path, body=body),
            now=now,
            expires_at=now + self._kept_for,
        )
        self._running.add(request_id)
        is_ours = False
        try:
            known = await self._threads.run(lambda: idempotency.claim_key(claim, is_ended=self._is_ended))
            is_ours = known is None
        except asyncio.CancelledError:
            # The thread goes on and may write it, for a request that nobody runs.
            self._note_unfreed(claim)
            raise
        except LedgerUnavailableError as error:
            # Whether it was written is unknown.
            self._note_unfreed(claim)
            raise LedgerDownError(
                "The ledger cannot claim the Idempotency-Key now; send it again."
            ) from error
        finally:
            if not is_ours:
                self._running.discard(request_id)
        if known is None:
            return RecordedOutbox(bytes_max=self._buffer_bytes_max, keeper=self, claim=claim)
        return self._answer_of(known, row_id=claim.row_id)

    async def keep(self, claim: Claim, *, reply: Reply, body: bytes | None) -> None:
        """Write the answer down, None: too long; where that fails the key is freed soon instead."""
        expires_at = self._wall_clock() + self._kept_for

        def write() -> bool:
            answer = None
            if body is not None:
                plaintext = _packed(reply, body)
                answer = self._seal.seal(plaintext=plaintext, row_id=claim.row_id)
            return idempotency.finish_claim(claim, answer=answer, expires_at=expires_at)

        try:
            if not await self._threads.run(write):
                logger.warning("idempotency_claim_lost", request_id=claim.request_id)
        except LedgerUnavailableError as error:
            logger.error("idempotency_answer_not_kept", request_id=claim.request_id, error=str(error))  # noqa: TRY400 -- said in full by the thread
            self._note_unfreed(claim)
        finally:
            self._running.discard(claim.request_id)

    async def free(self, claim: Claim) -> None:
        """Let a repeat run; where that cannot be written now, it is tried again."""
        try:
            await self._threads.run(partial(idempotency.release_claim, claim))
        except LedgerUnavailableError:
            self._note_unfreed(claim)
        finally:
            self._running.discard(claim.request_id)

    async def forget(self, *, key_id: str, key: str) -> Forgotten:
        """Delete the key and its answer; raises LedgerDownError."""
        row_id = idempotency.row_id_of(key_id=UUID(key_id), header=key)
        try:
            return await self._threads.run(
                lambda: idempotency.forget_key(row_id=row_id, is_ended=self._is_ended)
            )
        except LedgerUnavailableError as error:
            raise LedgerDownError("The ledger cannot forget the key now; send it again.") from error

    async def run(self) -> None:
        """For ever: free what could not be freed, and go on under the process's new epoch if it has one."""
        while True:
            await asyncio.sleep(RETRY_INTERVAL_S)
            try:
                await self._adopt_own()
                for claim in list(self._unfreed.values()):
                    await self._threads.run(partial(idempotency.release_claim, claim))
                    self._unfreed.pop(claim.request_id, None)
            except LedgerUnavailableError as error:
                logger.warning("idempotency_keys_not_freed", count=len(self._unfreed), error=str(error))

    # --- The outbox's side

    def end_soon(self, outbox: "RecordedOutbox", error: GatewayError | None) -> None:
        """Free the key in a task of the process, then let the outbox end."""
        self._pumps.start(outbox.end_freed(error))

    def has_room(self, *, recorded_bytes: int, more_bytes: int) -> bool:
        is_short = recorded_bytes + more_bytes <= self._answer_bytes_max
        return is_short and self._recorded_bytes + more_bytes <= RECORDED_BYTES_MAX

    def count_recorded(self, byte_count: int) -> None:
        self._recorded_bytes += byte_count
        assert self._recorded_bytes >= 0, "what is given back was counted"

    # ---

    def _is_ended(self, owner: UUID, request_id: str) -> bool:
        """Whether nobody runs it: of our own requests we know, of others only a proof of death counts."""
        if request_id in self._running:
            return False
        return owner == self._owner.id or ownership.is_proven_dead(owner)

    def _answer_of(self, known: KnownRequest, *, row_id: str) -> KeptAnswer:
        original = known.request_id
        if not known.is_same_body:
            raise IdempotencyReusedError(
                f"This {HEADER_NAME} was sent with another body or path before: choose a new key for a new "
                "request.",
                original_request_id=original,
            )
        if known.is_running:
            raise IdempotencyInUseError(
                f"The request with this {HEADER_NAME} still runs; send it again to get its answer.",
                original_request_id=original,
            )
        if known.answer is None:
            raise IdempotencyNotKeptError(
                f"The request with this {HEADER_NAME} was answered with more than is kept "
                f"({self._answer_bytes_max} bytes); choose a new key to run it again.",
                original_request_id=original,
            )
        try:
            plaintext = self._seal.open(sealed=known.answer, row_id=row_id)
        except SealError as error:
            logger.error("idempotency_answer_not_opened", request_id=original, error=str(error))  # noqa: TRY400 -- no bug
            raise IdempotencyNotKeptError(
                f"The answer to the request with this {HEADER_NAME} cannot be opened any more; choose a new "
                "key to run it again.",
                original_request_id=original,
            ) from error
        return _unpacked(plaintext, request_id=original)

    def _note_unfreed(self, claim: Claim) -> None:
        if len(self._unfreed) < UNFREED_MAX:
            self._unfreed[claim.request_id] = claim
        else:
            logger.error("idempotency_key_not_freed", request_id=claim.request_id)

    async def _adopt_own(self) -> None:
        owner_id = self._owner.id
        if owner_id == self._owner_id:
            return
        lost = self._owner_id
        await self._threads.run(lambda: idempotency.adopt_claims(lost_owner=lost, owner=owner_id))
        self._owner_id = owner_id


class RecordedOutbox(Outbox):
    """An outbox whose answer is kept for who asks again; its caller may leave, its pump goes on."""

    def __init__(self, *, bytes_max: int, keeper: AnswerKeeper, claim: Claim) -> None:
        super().__init__(bytes_max=bytes_max)
        self._keeper = keeper
        self._claim = claim
        self._recorded: list[bytes] = []
        self._recorded_bytes = 0
        self._is_too_long = False
        # Once it has one of them, the answer's end is decided.
        self._is_kept = False
        self._is_freeing = False

    # --- The pump's side

    async def put(self, data: bytes) -> None:
        self._record(data)
        await super().put(data)

    async def complete(self, reply: Reply, *, last: bytes = b"") -> None:
        """Keep the answer, then hand out its end."""
        self._record(reply.body or b"")
        self._record(last)
        body = None if self._is_too_long else b"".join(self._recorded)
        self._is_kept = True
        self._forget_recorded()
        await self._keeper.keep(self._claim, reply=reply, body=body)
        self.start(reply)
        await super().put(last)

    def fail(self, error: GatewayError) -> None:
        if self._is_kept:
            super().fail(error)
        else:
            self._free_then(error)

    def close(self) -> None:
        if self._is_kept:
            super().close()
        else:
            self._free_then(None)

    async def end_freed(self, error: GatewayError | None) -> None:
        """Free the key, then tell the caller."""
        try:
            await self._keeper.free(self._claim)
        finally:
            self._is_kept = True
            if error is not None:
                super().fail(error)
            super().close()

    # --- The caller's side

    def abandon(self) -> None:
        """The caller left, and may ask again: the pump goes on to the end."""
        self.leave()

    # ---

    def _free_then(self, error: GatewayError | None) -> None:
        if self._is_freeing:
            return
        self._is_freeing = True
        self._forget_recorded()
        self._keeper.end_soon(self, error)

    def _record(self, data: bytes) -> None:
        if self._is_too_long or not data or self._is_freeing:
            return
        if not self._keeper.has_room(recorded_bytes=self._recorded_bytes, more_bytes=len(data)):
            self._is_too_long = True
            self._forget_recorded()
            return
        self._recorded.append(data)
        self._recorded_bytes += len(data)
        self._keeper.count_recorded(len(data))

    def _forget_recorded(self) -> None:
        self._keeper.count_recorded(-self._recorded_bytes)
        self._recorded, self._recorded_bytes = [], 0


def _packed(reply: Reply, body: bytes) -> bytes:
    """A line of JSON, then the body as it was."""
    headers = [pair for pair in reply.headers if pair[0].startswith(KEPT_HEADERS)]
    return orjson.dumps({"is_stream": reply.body is None, "headers": headers}) + b"\n" + body


def _unpacked(plaintext: bytes, *, request_id: str) -> KeptAnswer:
    head, _, body = plaintext.partition(b"\n")
    document = orjson.loads(head)
    return KeptAnswer(
        request_id=request_id,
        is_stream=document["is_stream"],
        headers=tuple((name, value) for name, value in document["headers"]),
        body=body,
    )
