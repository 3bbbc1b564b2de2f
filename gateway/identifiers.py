"""Identifiers of our own: a request's, shown to its caller, and an attempt's, the ledger's key."""

import os
from uuid import UUID


def new_request_id() -> str:
    """`req_` and 96 random bits."""
    return "req_" + os.urandom(12).hex()


def new_attempt_id(*, now_ms: int) -> UUID:
    """A UUID of version 7 (RFC 9562, 5.7): ordered by time, so that inserts stay local in big tables."""
    random = int.from_bytes(os.urandom(10))
    value = (now_ms & (2**48 - 1)) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (2**62 - 1)
    return UUID(int=value)
