"""Counts wrong master keys by who sent them, and shuts an address out for a while after too many."""

import hmac
import ipaddress
from datetime import datetime, timedelta
from hashlib import sha256

from django.core.cache import caches

# In the settings' CACHES: in this process's memory, so many addresses at most, the longest unseen go first.
CACHE = "wrong_keys"
WRONG_MAX = 10
SPAN = timedelta(seconds=60)
# The host part of an IPv6 address is its owner's to choose.
IPV6_PREFIX = 64


def is_same_secret(*, given: str, secret: str) -> bool:
    """In a time that tells neither where they differ nor how long the secret is."""
    return hmac.compare_digest(sha256(given.encode()).digest(), sha256(secret.encode()).digest())


def shut_out_s(*, address: str, now: datetime) -> int:
    """Whole seconds, rounded up, for which nothing from there is looked at; 0: it is."""
    count, until = _found(address, now=now)
    if count < WRONG_MAX:
        return 0
    left = until - now
    return max(1, -(-left // timedelta(seconds=1)))


def note_wrong(*, address: str, now: datetime) -> None:
    """One more. They are counted within a minute of the latest, and the one too many shuts out for one."""
    count, _until = _found(address, now=now)
    caches[CACHE].set(_name(address), (count + 1, now + SPAN), timeout=SPAN.total_seconds())


def _found(address: str, *, now: datetime) -> tuple[int, datetime]:
    count, until = caches[CACHE].get(_name(address), (0, now))
    return (count, until) if now < until else (0, now)


def _name(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        # Of a socket without addresses: all its callers are one.
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False).network_address)
    return str(parsed)
