"""Proof that a gateway process lives or died: a lock that the kernel, or PostgreSQL, frees at death.

Each process that holds money takes one lock under an id of its own, for as long as it lives. Whoever
can take that lock later has proof that the owner is dead; a time-out never is.

A restart of PostgreSQL frees such locks though their owners live. So an owner looks at its lock before new
holds, and where it is gone goes on under a new id, its next epoch; what it held under the old one may be
marked in doubt meanwhile, and is settled from there.
"""

import fcntl
import os
import select
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections

from billing.databases import ledger_file

logger = structlog.get_logger(__name__)

LOCK_NAMESPACE = 0x746F6C6C  # "toll": keeps our advisory locks apart from others in the database


class Owner:
    """This process's claim to life, held from `claim()` until `release()` or death; `id` names its epoch."""

    def __init__(self) -> None:
        self.id = uuid.uuid4()
        self._descriptor: int | None = None
        self._connection: Any = None

    def claim(self) -> None:
        """Take the lock. On PostgreSQL it lives on a dedicated connection that no pool hands out."""
        if _is_postgresql():
            # A wrapper of our own around the same settings: closing pooled ones never frees the lock.
            connection = _dedicated_connection()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", _lock_key(self.id))
                assert cursor.fetchone()[0], "a fresh owner id is never taken"
            self._connection = connection
            return
        path = _lock_path(self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def renew_if_lost(self) -> bool:
        """Claim anew, under a new id, where the lock's connection is gone; True: it was.

        Costs no round trip while the connection is silent, as a living one is. Raises OperationalError
        where the database cannot be reached.
        """
        if self._connection is not None and self._is_connection_alive():
            return False
        if self._descriptor is not None or not _is_postgresql():
            return False
        self._close_connection()
        lost, self.id = self.id, uuid.uuid4()
        self.claim()
        logger.warning("ledger_claim_renewed", lost_owner=str(lost), owner=str(self.id))
        return True

    def release(self) -> None:
        """Give the lock back; the file goes too. Safe to call twice."""
        self._close_connection()
        if self._descriptor is not None:
            _lock_path(self.id).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_connection_alive(self) -> bool:
        """A server that ends a session sends a last word and closes: until then there is nothing to read."""
        try:
            # Not select.select, which takes no descriptor above 1023.
            poll = select.poll()
            poll.register(self._connection.connection.fileno(), select.POLLIN)
            if poll.poll(0):
                with self._connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
        except (DatabaseError, InterfaceError, OSError, ValueError) as error:
            logger.warning("ledger_claim_lost", owner=str(self.id), error=str(error))
            return False
        return True

    def _close_connection(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.close()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("ledger_claim_close_failed", error=str(error))
        self._connection = None

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
    file = ledger_file()
    return file.with_name(f"{file.stem}-owners") / f"{owner_id}.lock"
