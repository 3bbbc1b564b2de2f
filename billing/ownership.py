"""Proof that a gateway process lives or died: a lock that the kernel, or PostgreSQL, frees at death.

Each process that holds money takes one lock under an id of its own, for as long as it lives. Whoever
can take that lock later has proof that the owner is dead; a time-out never is.
"""

import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from django.conf import settings
from django.db import connections

LOCK_NAMESPACE = 0x746F6C6C  # "toll": keeps our advisory locks apart from others in the database


class Owner:
    """This process's claim to life, held from `claim()` until `release()` or death."""

    def __init__(self) -> None:
        self.id = uuid.uuid4()
        self._descriptor: int | None = None
        self._connection: Any = None

    def claim(self) -> None:
        """Take the lock. On PostgreSQL it lives on a dedicated connection that no pool hands out."""
        if _is_postgresql():
            # A wrapper of our own around the same settings: closing pooled ones never frees the lock.
            self._connection = _dedicated_connection()
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", _lock_key(self.id))
                assert cursor.fetchone()[0], "a fresh owner id is never taken"
            return
        path = _lock_path(self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the lock back; the file goes too. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._descriptor is not None:
            _lock_path(self.id).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.claim()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()


def is_proven_dead(owner_id: uuid.UUID) -> bool:
    """Whether the owner's lock is free, which only its death or release makes it."""
    if _is_postgresql():
        return _is_postgresql_lock_free(owner_id)
    path = _lock_path(owner_id)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _is_postgresql() -> bool:
    return connections[settings.LEDGER_DATABASE].vendor == "postgresql"


def _dedicated_connection() -> Any:
    parameters = dict(connections[settings.LEDGER_DATABASE].settings_dict)
    parameters["OPTIONS"] = {k: v for k, v in parameters["OPTIONS"].items() if k != "pool"}
    wrapper_class = type(connections[settings.LEDGER_DATABASE])
    connection = wrapper_class(parameters, alias=settings.LEDGER_DATABASE)
    connection.inc_thread_sharing()
    return connection


def _is_postgresql_lock_free(owner_id: uuid.UUID) -> bool:
    key = _lock_key(owner_id)
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", key)
        is_free = bool(cursor.fetchone()[0])
        if is_free:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", key)
    return is_free


def _lock_key(owner_id: uuid.UUID) -> tuple[int, int]:
    low = owner_id.int & 0xFFFFFFFF
    return LOCK_NAMESPACE, low - (1 << 32) if low >= 1 << 31 else low


def _lock_path(owner_id: uuid.UUID) -> Path:
    return Path(settings.DATA_DIR) / "owners" / f"{owner_id}.lock"
