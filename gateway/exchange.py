"""What the gateway processes of a node know of each other: read at the moment of a choice, told at once.

1. Each process writes what its events did into a region of its own (gateway.regions), within microseconds.
2. Before a choice it reads what changed in the others' regions and folds that into its states, so that a
   burst that is dealt to several processes is spread as if one had seen all of it.
3. A place at a deployment is first written down, then the others' are read once more: of two processes that
   take the last place at the same time at least one sees the other, gives the place back and chooses anew.
4. Four times a second each looks for new regions and dead ones. Who died (its lock is free) or shows no
   heartbeat for SILENCE_S is forgotten: what it had in flight and in its backlog counts no more.

With nobody else there, or nowhere to share, a process goes by its own view.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, MutableMapping
from hashlib import sha256
from pathlib import Path

import structlog

from gateway import metrics
from gateway.regions import CHANGES_AT, OwnRegion, PeerRegion, RegionError, region_files
from routing.learning import NOTHING_LEARNT, DeploymentState, Event, observe
from routing.sharing import IN_FLIGHT, Others, Row, new_row, note
from routing.types import Deployment

logger = structlog.get_logger(__name__)

BEAT_S = 0.25
BEAT_MARGIN_S = 0.05
# Death is proven by the lock, at the next look: this is for one that is stuck or was stopped.
SILENCE_S = 3.0
PROCESS_SUFFIX, NODES_SUFFIX = ".process", ".nodes"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of our own in it, for this user alone
PEERS_MAX = 128
MAKE_TRIES_MAX = 5

States = MutableMapping[str, DeploymentState]


class _Peer:
    """Another process's region, and when its heart was last heard to beat."""

    def __init__(self, region: PeerRegion, *, now_s: float) -> None:
        self.region = region
        self.heartbeat = region.heartbeat
        self.beat_at_s = now_s
        self.is_heard = False


class Exchange:
    """One per process. Before `open` and after `close` it is alone and does nothing."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._own: OwnRegion | None = None
        self._folder: Path | None = None
        self._rows: dict[str, Row] = {}
        self._peers: dict[str, _Peer] = {}
        self._others = Others()
        # The regions of those peers that are heard, as the hot path goes through them.
        self._heard: tuple[tuple[str, PeerRegion], ...] = ()
        self._unreadable: set[str] = set()
        # Between our store and the loads that follow it: taking a lock is a barrier for the processor.
        self._barrier = threading.Lock()
        self._is_full = False

    def open(self, data_dir: Path) -> None:
        """Begin to tell, in a folder that belongs to the node and the data folder."""
        for folder in (_memory_folder(data_dir), data_dir / "exchange"):
            try:
                self._own = _new_region(folder)
            except OSError as error:
                logger.warning("exchange_folder_unusable", folder=str(folder), error=str(error))
                continue
            self._folder = folder
            for deployment_id, row in self._rows.items():
                self._own.publish(deployment_id, row)
            self.look()
            return
        logger.warning("exchange_is_off", hint="each process goes by its own view of the clusters' load")

    async def be_met(self) -> None:
        """Wait until the others had a look around: from then on they count what we send."""
        if self._peers:
            await asyncio.sleep(BEAT_S + BEAT_MARGIN_S)

    def close(self) -> None:
        """End to tell: the others forget us with their next look."""
        if self._own is not None:
            self._own.close()
        for name in list(self._peers):
            self._drop(name)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # if nobody else is in it
        self._own = self._folder = None

    @property
    def folder(self) -> Path | None:
        """Where regions are; None: nothing is shared."""
        return self._folder

    @property
    def has_peers(self) -> bool:
        return bool(self._peers)

    # --- On the hot path

    def tell(
        self, deployment_id: str, event: Event, *, before: DeploymentState, after: DeploymentState
    ) -> None:
        """An event of our own was folded."""
        row = self._rows.get(deployment_id)
        if row is None:
            row = self._rows[deployment_id] = new_row()
        note(row, event, before=before, after=after)
        self._publish(deployment_id, row)

    def hear(self, states: States, *, now_s: float) -> None:
        """Fold into the states what the others did since the last call."""
        for name, region in self._heard:
            if region.words[CHANGES_AT] != region.seen_changes or region.unread:
                for deployment_id, row in region.changed():
                    self._others.hear(name, deployment_id, row)
        if self._others.has_news:
            for deployment_id, shared in self._others.news():
                states[deployment_id] = observe(states.get(deployment_id, NOTHING_LEARNT), shared, now_s)

    def takes_place(self, deployment: Deployment, states: States, *, now_s: float) -> bool:
        """Whether one more request may go there, all processes of the node counted; it is written down then.

        The caller counts it at once; if it never does, the next beat of `run` gives the place back.
        """
        if not self._peers:
            return True
        row = self._rows.get(deployment.id)
        if row is None:
            row = self._rows[deployment.id] = new_row()
        own = row[IN_FLIGHT] = states.get(deployment.id, NOTHING_LEARNT).in_flight + 1
        self._publish(deployment.id, row)
        with self._barrier:
            pass
        # Word by word: a row that another process is writing just now could not be read whole.
        others = sum(region.in_flight(deployment.id) for _, region in self._heard)
        if own + others <= deployment.in_flight_max:
            return True
        row[IN_FLIGHT] -= 1
        self._publish(deployment.id, row)
        self.hear(states, now_s=now_s)
        metrics.EXCHANGE_PLACES_LOST.inc()
        return False

    # --- The loop

    async def run(self, states: States) -> None:
        """Beat and look around, for ever."""
        while True:
            try:
                self.look()
            except OSError as error:
                logger.warning("exchange_look_failed", error=str(error))
            self._put_right(states)
            self.hear(states, now_s=self._clock())
            await asyncio.sleep(BEAT_S)

    def _put_right(self, states: States) -> None:
        """Give back places that were written down for requests that then never came to be."""
        for deployment_id, row in self._rows.items():
            in_flight = states.get(deployment_id, NOTHING_LEARNT).in_flight
            if row[IN_FLIGHT] != in_flight:
                row[IN_FLIGHT] = in_flight
                self._publish(deployment_id, row)

    def look(self) -> None:
        """Beat; meet new processes, forget dead and silent ones, read every row once more."""
        if self._own is None or self._folder is None:
            return
        if not self._own.path.exists():
            # Such folders are emptied behind our back, by systemd at a user's logout for one.
            self._move()
        self._own.beat()
        now_s = self._clock()
        found = region_files(self._folder, PROCESS_SUFFIX, NODES_SUFFIX)
        found.pop(self._own.path.name, None)
        for name in self._peers.keys() - found.keys():
            self._drop(name)
        self._unreadable &= found.keys()
        for name in sorted(found.keys() - self._peers.keys() - self._unreadable):
            if len(self._peers) < PEERS_MAX:
                self._attach(found[name], now_s=now_s)
        for name, peer in list(self._peers.items()):
            self._check(name, peer, now_s=now_s)
        metrics.EXCHANGE_PEERS.set(sum(name.endswith(PROCESS_SUFFIX) for name, _ in self._heard))

    def _move(self) -> None:
        """Tell in a new region what was told in the one that is gone."""
        assert self._own is not None
        assert self._folder is not None
        logger.warning("exchange_region_lost", path=str(self._own.path))
        lost, self._own = self._own, _new_region(self._folder)
        lost.close()
        for deployment_id, row in self._rows.items():
            self._own.publish(deployment_id, row)

    def _attach(self, path: Path, *, now_s: float) -> None:
        try:
            self._peers[path.name] = _Peer(PeerRegion(path), now_s=now_s)
        except FileNotFoundError:
            return
        except (RegionError, OSError) as error:
            self._unreadable.add(path.name)
            logger.warning("exchange_region_unreadable", error=str(error))

    def _check(self, name: str, peer: _Peer, *, now_s: float) -> None:
        region = peer.region
        if region.is_dead():
            region.path.unlink(missing_ok=True)
            self._drop(name)
            return
        if region.heartbeat != peer.heartbeat:
            peer.heartbeat, peer.beat_at_s = region.heartbeat, now_s
        is_silent = now_s - peer.beat_at_s > SILENCE_S
        if is_silent and peer.is_heard:
            logger.warning("exchange_peer_silent", pid=region.pid)
            self._set_heard(peer, is_heard=False)
            self._others.forget(name)
        elif not is_silent and not peer.is_heard:
            self._set_heard(peer, is_heard=True)
            self._others.meet(name, dict(region.sweep()))
        elif peer.is_heard:
            for deployment_id, row in region.sweep():
                self._others.hear(name, deployment_id, row)

    def _drop(self, name: str) -> None:
        peer = self._peers.pop(name)
        if peer.is_heard:
            self._set_heard(peer, is_heard=False)
            self._others.forget(name)
        peer.region.close()

    def _set_heard(self, peer: _Peer, *, is_heard: bool) -> None:
        peer.is_heard = is_heard
        self._heard = tuple((name, peer.region) for name, peer in self._peers.items() if peer.is_heard)

    def _publish(self, deployment_id: str, row: Row) -> None:
        if self._own is None or self._own.publish(deployment_id, row) or self._is_full:
            return
        self._is_full = True
        logger.warning("exchange_is_full", hint="further deployments are not shared until a restart")


def _memory_folder(data_dir: Path) -> Path:
    """A folder in memory where there is one: a mapped file on a disk may wait for its writing back."""
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return parent / f"tollgate-{os.getuid()}-{sha256(os.fsencode(data_dir)).hexdigest()[:12]}"


def _new_region(folder: Path) -> OwnRegion:
    for attempt in range(MAKE_TRIES_MAX):
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_private(folder)
        try:
            return OwnRegion(folder / f"{uuid.uuid4()}{PROCESS_SUFFIX}")
        except FileNotFoundError:
            # Another process ended just now and took the empty folder away.
            if attempt == MAKE_TRIES_MAX - 1:
                raise
    raise AssertionError("the last try returns or raises")


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
