"""Memories of used nonces, in the process or in a file: what makes a request good for one time only."""

import logging
import sqlite3
import threading
from collections import deque
from pathlib import Path
from typing import Protocol

logger = logging.getLogger("tollgate.verifying")

NONCES_MAX = 100_000
NONCES_WAIT_S = 5


class NonceStore(Protocol):
    """Remembers nonces, for as long as a request that bears one would be fresh."""

    def problem(self, *, nonce: str, now_s: int, kept_s: int) -> str | None:
        """None for a nonce not seen before, which is kept from now on; else why the request is refused."""


class NonceMemory:
    """The nonces of one process; when full it refuses rather than forgets."""

    def __init__(self, *, nonces_max: int = NONCES_MAX) -> None:
        self._nonces_max = nonces_max
        self._nonces: set[str] = set()
        self._seen: deque[tuple[int, str]] = deque()
        self._lock = threading.Lock()

    def problem(self, *, nonce: str, now_s: int, kept_s: int) -> str | None:
        # Two threads with one nonce race here; the lock lets one of them in.
        with self._lock:
            while self._seen and self._seen[0][0] < now_s - kept_s:
                self._nonces.discard(self._seen.popleft()[1])
            if nonce in self._nonces:
                return "nonce was used before"
            if len(self._nonces) >= self._nonces_max:
                return "too many requests within the replay window"
            self._nonces.add(nonce)
            self._seen.append((now_s, nonce))
        return None


class NonceFile:
    """Nonces in an SQLite file: for several processes of one machine, and kept over a restart."""

    def __init__(self, path: Path, *, nonces_max: int = NONCES_MAX) -> None:
        """Opened at the first request, so that a server that forks gives each process its own."""
        self._path = path
        self._nonces_max = nonces_max
        self._connection: sqlite3.Connection | None = None
        self._room_count = 0
        self._pruned_s = 0
        self._lock = threading.Lock()

    def problem(self, *, nonce: str, now_s: int, kept_s: int) -> str | None:
        """The bound is counted anew each second: others may write a second's nonces beyond it."""
        with self._lock:
            try:
                connection = self._connection = self._connection or self._opened()
                if now_s != self._pruned_s:
                    connection.execute("DELETE FROM nonces WHERE seen_s < ?", (now_s - kept_s,))
                    count = connection.execute("SELECT count(*) FROM nonces").fetchone()[0]
                    self._room_count, self._pruned_s = self._nonces_max - count, now_s
                if self._room_count <= 0:
                    return "too many requests within the replay window"
                # Two processes with one nonce race here; the primary key lets one of them in.
                added = connection.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", (nonce, now_s))
            except sqlite3.Error:
                logger.exception("nonces_unusable file=%s", self._path)
                return "the memory of nonces cannot be used"
            self._room_count -= 1
            return None if added.rowcount == 1 else "nonce was used before"

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=NONCES_WAIT_S, isolation_level=None, check_same_thread=False
        )
        # A power cut may lose the last nonces, and takes longer than they are good for.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, seen_s INTEGER) WITHOUT ROWID"
        )
        return connection
