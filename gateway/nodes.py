"""What the nodes know of each other: one process of each speaks for it, through Valkey or Redis.

1. The process that holds the lock of the node's folder speaks for the node; where it dies another takes over.
2. It sums the rows of its node's processes and publishes those that changed, every TELL_S while another node
   listens, and all of them twice a second: so a message that is lost costs half a second at most.
3. What it hears it sums over the other nodes into a region of the folder, which every process of the node
   reads as if it were one more process. Nothing is kept in the store, and nobody reads it at a choice.
4. A node that says nothing for SILENCE_S is forgotten. Where the store does not answer, all are: the node
   goes by its own view. What is told of a node is then as old as a message's way and TELL_S at most, so
   limits of requests at once are exact within a node only.
"""

import asyncio
import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway import metrics
from gateway.exchange import NODES_SUFFIX, PROCESS_SUFFIX
from gateway.regions import ROWS_MAX, OwnRegion, PeerRegion, RegionError, region_files
from routing.sharing import FIELDS, OPEN_UNTIL_US, US_PER_S, Sum

logger = structlog.get_logger(__name__)

CHANNEL = "tollgate:exchange"
TELL_S = 0.01
REPEAT_S = 0.5
SILENCE_S = 1.5
RETRY_S = 0.5
ANSWER_S = 1.0
LOCK_S = 0.25
NODES_MAX = 64
# Of what comes in, so that sums of it stay words.
WORD_MAX = 2**56


class BadMessageError(Exception):
    """Something else than a node's rows came through the channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message: rows of a node by deployment, all that it has (`is_whole`) or those that changed."""

    node: str
    epoch: str
    is_whole: bool
    rows: dict[str, tuple[int, ...]]


class NodeTally:
    """The sum of this node's processes, as it is told to the other nodes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._regions: dict[str, PeerRegion] = {}
        self._sum = Sum()

    def look(self) -> None:
        """Meet new processes of the node, forget those that are gone."""
        found = region_files(self._folder, PROCESS_SUFFIX)
        for name, region in list(self._regions.items()):
            if name not in found or region.is_dead():
                self._regions.pop(name).close()
                self._sum.forget(name)
        for name in found.keys() - self._regions.keys():
            with contextlib.suppress(OSError, RegionError):
                region = PeerRegion(found[name])
                if region.is_dead():
                    region.close()
                    continue
                self._regions[name] = region
                self._sum.meet(name, dict(region.sweep()))

    def changed(self) -> dict[str, list[int]]:
        """The rows that changed since the last call."""
        for name, region in self._regions.items():
            for deployment_id, row in region.changed():
                self._sum.hear(name, deployment_id, row)
        return {deployment_id: self._sum.rows[deployment_id] for deployment_id in self._sum.changed()}

    def everything(self) -> dict[str, list[int]]:
        self.changed()
        return self._sum.rows

    def close(self) -> None:
        for region in self._regions.values():
            region.close()


class OtherNodes:
    """The sum of the other nodes, kept in a region that this node's processes read."""

    def __init__(self, folder: Path) -> None:
        self._region = OwnRegion(folder / f"{uuid.uuid4()}{NODES_SUFFIX}")
        self._sum = Sum()
        self._epochs: dict[str, str] = {}
        self._heard_at_s: dict[str, float] = {}

    def hear(self, told: "Told", *, now_s: float) -> None:
        """Rows of a node. Another epoch is another speaker, who counts anew, and is met by all it has."""
        if self._epochs.get(told.node) != told.epoch:
            is_full = told.node not in self._epochs and len(self._epochs) >= NODES_MAX
            if is_full or not told.is_whole:
                return
            self._sum.forget(told.node)
            self._sum.meet(told.node, told.rows)
            self._epochs[told.node] = told.epoch
        for deployment_id, row in told.rows.items():
            self._sum.hear(told.node, deployment_id, row)
        self._heard_at_s[told.node] = now_s
        self._publish()

    def look(self, *, now_s: float) -> None:
        """Beat, and forget nodes that are silent."""
        self._region.beat()
        for node, heard_at_s in list(self._heard_at_s.items()):
            if now_s - heard_at_s > SILENCE_S:
                logger.warning("exchange_node_silent", node=node)
                del self._heard_at_s[node], self._epochs[node]
                self._sum.forget(node)
        metrics.EXCHANGE_NODES.set(len(self._epochs))
        self._publish()

    @property
    def count(self) -> int:
        return len(self._epochs)

    @property
    def is_there(self) -> bool:
        """Whether the region is still where the processes look for it."""
        return self._region.path.exists()

    def close(self) -> None:
        self._region.close()

    def _publish(self) -> None:
        for deployment_id in self._sum.changed():
            self._region.publish(deployment_id, self._sum.rows[deployment_id])


class SpeakerLock:
    """The lock of a node's folder: who holds it speaks for the node. The kernel frees it at our death."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "speaker.lock"
        self._descriptor = -1

    def is_held(self) -> bool:
        """Take it if it is free, and look whether it still is the file that others would find."""
        if not self._is_file_ours():
            self.close()
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def node(self) -> str:
        """The node's name: the same for each process that speaks for it in turn."""
        kept = os.pread(self._descriptor, 64, 0).decode()
        if not kept:
            kept = str(uuid.uuid4())
            os.pwrite(self._descriptor, kept.encode(), 0)
        return kept

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_file_ours(self) -> bool:
        try:
            return self._descriptor >= 0 and os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


class NodeExchange:
    """One per process; at most one of a node speaks. `run` until it is cancelled, then `aclose`."""

    def __init__(self, *, redis: Redis, folder: Path, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._folder = folder
        self._clock = clock
        self._epoch = str(uuid.uuid4())
        self._is_local = False
        self._has_complained = False

    async def run(self) -> None:
        """Wait for the node's lock, then speak for it, for ever."""
        lock = SpeakerLock(self._folder)
        try:
            while True:
                if lock.is_held():
                    await self._speak(lock)
                await asyncio.sleep(LOCK_S)
        finally:
            lock.close()

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _speak(self, lock: "SpeakerLock") -> None:
        """Speak until the folder's files are taken away; the store may come and go."""
        tally, others = NodeTally(self._folder), OtherNodes(self._folder)
        talk = asyncio.get_running_loop().create_task(self._talk(lock.node(), tally, others))
        try:
            while lock.is_held() and others.is_there and not talk.done():
                tally.look()
                others.look(now_s=self._clock())
                await asyncio.sleep(LOCK_S)
        finally:
            talk.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talk
            tally.close()
            others.close()

    async def _talk(self, node: str, tally: NodeTally, others: OtherNodes) -> None:
        task = asyncio.current_task()
        assert task is not None
        # A cancellation that comes while the group ends by a fault is lost in it: groups of Python 3.11.
        while not task.cancelling():
            try:
                await self._converse(node, tally, others)
            except* (RedisError, OSError, TimeoutError) as errors:
                self._say_local(errors)
            await asyncio.sleep(0 if task.cancelling() else RETRY_S)

    async def _converse(self, node: str, tally: NodeTally, others: OtherNodes) -> None:
        """Tell and listen until the store fails, which it raises."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            async with asyncio.timeout(ANSWER_S):
                await channel.subscribe(CHANNEL)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._tell(node, tally, others))
                both.create_task(self._listen(channel, node, others))

    async def _tell(self, node: str, tally: NodeTally, others: OtherNodes) -> None:
        repeated_at_s = -REPEAT_S
        while True:
            now_s = self._clock()
            is_whole = now_s - repeated_at_s >= REPEAT_S
            if is_whole:
                repeated_at_s = now_s
            rows = tally.everything() if is_whole else tally.changed()
            if rows or is_whole:
                message = encoded(node, self._epoch, rows, is_whole=is_whole, now_s=now_s)
                async with asyncio.timeout(ANSWER_S):
                    await self._redis.publish(CHANNEL, message)
                self._say_shared()
            # Alone, nobody waits for what changed: the next repeat says it all.
            await asyncio.sleep(TELL_S if others.count else REPEAT_S)

    async def _listen(self, channel: Any, node: str, others: OtherNodes) -> None:
        while True:
            message = await channel.get_message(timeout=REPEAT_S)
            if message is None:
                continue
            now_s = self._clock()
            try:
                told = decoded(message["data"], now_s=now_s)
            except BadMessageError as error:
                if not self._has_complained:
                    self._has_complained = True
                    logger.warning("exchange_message_unreadable", error=str(error))
                continue
            if told.node != node:
                others.hear(told, now_s=now_s)

    def _say_local(self, error: BaseException) -> None:
        if not self._is_local:
            logger.warning("exchange_is_local", reason=repr(error))
        self._is_local = True
        metrics.EXCHANGE_LOCAL.set(1)

    def _say_shared(self) -> None:
        if self._is_local:
            logger.info("exchange_is_shared")
        self._is_local = False
        metrics.EXCHANGE_LOCAL.set(0)


def encoded(node: str, epoch: str, rows: dict[str, list[int]], *, is_whole: bool, now_s: float) -> bytes:
    """A message. Clocks of nodes differ: a breaker is told by how long it stays open."""
    told = {}
    for deployment_id, row in rows.items():
        left = list(row)
        if row[OPEN_UNTIL_US]:
            left[OPEN_UNTIL_US] = max(row[OPEN_UNTIL_US] - int(now_s * US_PER_S), 1)
        told[deployment_id] = left
    return orjson.dumps({"node": node, "epoch": epoch, "is_whole": is_whole, "rows": told})


def decoded(message: bytes, *, now_s: float) -> Told:
    """Raises BadMessageError."""
    try:
        document = orjson.loads(message)
        node, epoch, rows = str(document["node"]), str(document["epoch"]), dict(document["rows"])
        is_whole = bool(document["is_whole"])
    except (ValueError, TypeError, KeyError) as error:
        raise BadMessageError(f"no message of a node: {error!r}") from error
    if len(rows) > ROWS_MAX or not all(_is_row(row) for row in rows.values()):
        raise BadMessageError(f"rows of node {node[:64]} are not at most {ROWS_MAX} of {FIELDS} numbers")
    for row in rows.values():
        if row[OPEN_UNTIL_US]:
            row[OPEN_UNTIL_US] += int(now_s * US_PER_S)
    return Told(
        node=node, epoch=epoch, is_whole=is_whole, rows={key: tuple(row) for key, row in rows.items()}
    )


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == FIELDS
        and all(type(word) is int and -WORD_MAX < word < WORD_MAX for word in row)
    )
