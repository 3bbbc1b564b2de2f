"""Identifiers of our own: a request's, shown to its caller, and an attempt's, the ledger's key."""

import os
from uuid import UUID

RANDOM_BYTES = 16
# So many numbers are drawn at once: each call of the system's lets other threads run first.
POOL_SIZE = 256

_pool: list[bytes] = []


def random_bytes() -> bytes:
    """16 random bytes of the system's, given out once."""
    try:
        # Taking from a list is one step: no two threads get the same.
        return _pool.pop()
    except IndexError:
        drawn = os.urandom(RANDOM_BYTES * POOL_SIZE)
        first, *rest = (drawn[at : at + RANDOM_BYTES] for at in range(0, len(drawn), RANDOM_BYTES))
        _pool.extend(rest)
        return first


# A forked process would give out the same numbers once more.
os.register_at_fork(after_in_child=_pool.clear)


def new_request_id() -> str:
    """`req_` and 96 random bits."""
    return "req_" + random_bytes()[:12].hex()


def new_attempt_id(*, now_ms: int) -> UUID:
    """A UUID of version 7 (RFC 9562, 5.7): ordered by time, so that inserts stay local in big tables."""
    random = int.from_bytes(random_bytes()[:10])
    value = (now_ms & (2**48 - 1)) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (2**62 - 1)
    return UUID(int=value)
