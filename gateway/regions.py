"""Shared memory between the gateway processes of a node: each writes a file of its own, the others read it.

A file is mapped by all. Words are 8 bytes and aligned: a memoryview of them writes and reads one by a single
move, which x86-64 and ARM64 do whole. A row of several words has a version: odd while its owner writes, and
a reader that finds it odd, or changed after reading, looks again later. On x86-64 stores are seen in their
order, so that is exact; ARM64 may show them in another for some nanoseconds, and a row is stale until the
next `sweep`.

The owner's lock on its file (flock) is the proof of its life: the kernel frees it at its death, however it
died. A file appears under its name only when it is locked, so nobody takes a new process for a dead one.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from routing.sharing import FIELDS, IN_FLIGHT

MAGIC = int.from_bytes(b"tollgate", "little")
LAYOUT = 1  # another one is another version of the gateway: its file is left alone
# The header, in words.
MAGIC_AT, LAYOUT_AT, PID_AT, HEARTBEAT_AT, ROWS_AT, CHANGES_AT = range(6)
# The latest changed rows, in a ring, so that a reader need not look at every row.
RING_AT, RING_WORDS = 16, 256
# So many may be unread before a reader looks at all rows: the owner writes on while it reads.
UNREAD_MAX = RING_WORDS // 2
FIRST_ROW_AT = RING_AT + RING_WORDS
# A row: the deployment's id, the requests in flight as a word to be read alone, the version, the fields.
ID_BYTES = 64
ID_WORDS = ID_BYTES // 8
VERSION_AT = ID_WORDS + 1
ROW_WORDS = ID_WORDS + 2 + FIELDS
# Deployments that a process tells of; what is beyond them it keeps to itself.
ROWS_MAX = 2048
SIZE_BYTES = 8 * (FIRST_ROW_AT + ROWS_MAX * ROW_WORDS)
READS_MAX = 4
FIELDS_STRUCT = struct.Struct(f"@{FIELDS}q")
READ_FIELDS, WRITE_FIELDS = FIELDS_STRUCT.unpack_from, FIELDS_STRUCT.pack_into

Words = memoryview


class RegionError(Exception):
    """A file is not a region that this version can read."""


def region_files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """The regions of a folder by their names; those that are being made have a name with a dot in front."""
    return {
        path.name: path
        for path in folder.iterdir()
        if path.suffix in suffixes and not path.name.startswith(".")
    }


class OwnRegion:
    """What this process tells. Only the process that made it writes."""

    def __init__(self, path: Path) -> None:
        """Make the file, with all its room: a full disk fails here and not as SIGBUS at a later write."""
        self.path = path
        hidden = path.with_name(f".{path.name}")
        self._descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, SIZE_BYTES)
            else:
                os.write(self._descriptor, bytes(SIZE_BYTES))
            self._map = mmap.mmap(self._descriptor, SIZE_BYTES)
            self._words: Words = memoryview(self._map).cast("q")
            self._words[LAYOUT_AT], self._words[PID_AT] = LAYOUT, os.getpid()
            self._words[MAGIC_AT] = MAGIC
            hidden.rename(path)
        except OSError:
            hidden.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise
        self._places: dict[str, int] = {}
        self._changes = 0

    def beat(self) -> None:
        """Show that the process is not stuck."""
        self._words[HEARTBEAT_AT] += 1

    def publish(self, deployment_id: str, row: Sequence[int]) -> bool:
        """Put the deployment's row. False: there is no room for one more deployment."""
        place = self._places.get(deployment_id)
        if place is None:
            place = self._add(deployment_id)
            if place is None:
                return False
        words = self._words
        version_at = FIRST_ROW_AT + place * ROW_WORDS + VERSION_AT
        # Not out of the fields: struct clears them before it writes them.
        words[version_at - 1] = row[IN_FLIGHT]
        version = words[version_at]
        words[version_at] = version + 1
        WRITE_FIELDS(self._map, 8 * (version_at + 1), *row)
        words[version_at] = version + 2
        words[RING_AT + self._changes % RING_WORDS] = place
        self._changes += 1
        words[CHANGES_AT] = self._changes
        return True

    def close(self) -> None:
        """Take the file away and let go of the lock. Safe to call twice."""
        if self._descriptor < 0:
            return
        self.path.unlink(missing_ok=True)
        self._words.release()
        self._map.close()
        os.close(self._descriptor)
        self._descriptor = -1

    def _add(self, deployment_id: str) -> int | None:
        place, name = len(self._places), deployment_id.encode()
        if place >= ROWS_MAX or len(name) > ID_BYTES:
            return None
        at = 8 * (FIRST_ROW_AT + place * ROW_WORDS)
        self._map[at : at + ID_BYTES] = name.ljust(ID_BYTES, b"\0")
        self._places[deployment_id] = place
        self._words[ROWS_AT] = place + 1
        return place


class PeerRegion:
    """What another process tells. RegionError or OSError where there is no region to read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(self._descriptor).st_size != SIZE_BYTES:
            os.close(self._descriptor)
            raise RegionError(f"{path} is not {SIZE_BYTES} bytes long")
        self._map = mmap.mmap(self._descriptor, SIZE_BYTES, access=mmap.ACCESS_READ)
        self.words: Words = memoryview(self._map).cast("q")
        if (self.words[MAGIC_AT], self.words[LAYOUT_AT]) != (MAGIC, LAYOUT):
            self.close()
            raise RegionError(f"{path} has another layout than {LAYOUT}")
        self.pid: int = self.words[PID_AT]
        self._ids: list[str] = []
        self._places: dict[str, int] = {}
        # Places of rows that were being written when they were looked at, and how many changes were seen.
        self.unread: set[int] = set()
        self.seen_changes: int = 0

    def is_dead(self) -> bool:
        """Whether its owner's lock is free, which only its death or its end makes it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return True

    @property
    def heartbeat(self) -> int:
        return int(self.words[HEARTBEAT_AT])

    def changed(self) -> list[tuple[str, tuple[int, ...]]]:
        """The rows that changed since the last look."""
        words, seen = self.words, self.seen_changes
        changes = words[CHANGES_AT]
        if changes - seen > UNREAD_MAX:
            return self.sweep()
        self.seen_changes = changes
        unread, self.unread = self.unread, set()
        for number in range(seen, changes):
            unread.add(words[RING_AT + number % RING_WORDS])
        return self._read(unread)

    def sweep(self) -> list[tuple[str, tuple[int, ...]]]:
        """Every row, changed or not."""
        self.seen_changes = self.words[CHANGES_AT]
        self.unread = set()
        return self._read(range(self.words[ROWS_AT]))

    def in_flight(self, deployment_id: str) -> int:
        """The one word, as it is now: it is whole also while its owner writes the row."""
        place = self._places.get(deployment_id)
        if place is None:
            for unknown in range(len(self._ids), self.words[ROWS_AT]):
                self._id(unknown)
            place = self._places.get(deployment_id)
            if place is None:
                return 0
        return int(self.words[FIRST_ROW_AT + place * ROW_WORDS + ID_WORDS])

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self._descriptor)

    def _read(self, places: Iterable[int]) -> list[tuple[str, tuple[int, ...]]]:
        """Each row as it was at one moment. One that its owner writes just now is left for the next look."""
        words, rows = self.words, []
        for place in places:
            version_at = FIRST_ROW_AT + place * ROW_WORDS + VERSION_AT
            for _ in range(READS_MAX):
                version = words[version_at]
                row = READ_FIELDS(self._map, 8 * (version_at + 1))
                if words[version_at] == version and not version % 2:
                    name = self._ids[place] if place < len(self._ids) else self._id(place)
                    rows.append((name, row))
                    break
            else:
                self.unread.add(place)
        return rows

    def _id(self, place: int) -> str:
        """Ids are written before they are counted and never change."""
        while len(self._ids) <= place:
            at = 8 * (FIRST_ROW_AT + len(self._ids) * ROW_WORDS)
            name = self._map[at : at + ID_BYTES].rstrip(b"\0").decode()
            self._places[name] = len(self._ids)
            self._ids.append(name)
        return self._ids[place]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
