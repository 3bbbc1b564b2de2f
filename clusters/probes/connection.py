"""Opens a client to one cluster: resolves its name, checks the address, connects to that address alone."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from clusters.endpoint import EndpointError, check_address, check_endpoint, expanded_addresses
from clusters.probes.exchange import Place, ProbeError
from clusters.signing import ResumingContext, TlsIdentity, ssl_context

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 5
HTTPS_PORT = 443
CONTEXTS_MAX = 256


@asynccontextmanager
async def open_client(*, cluster: Place, address: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client that connects to nothing but the checked address of the cluster's endpoint.

    `address` is one that `resolve_addresses` gave; without it the name is resolved now. Raises `ProbeError`
    where that fails, or gives what is never connected to.
    """
    transport = await _pinned_transport(cluster, address=address)
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    # Neither redirects nor the environment's proxies: what was checked is what is asked.
    async with httpx.AsyncClient(
        transport=transport, timeout=timeout, follow_redirects=False, trust_env=False
    ) as client:
        yield client


async def server_certificate_expiry(*, cluster: Place) -> datetime | None:
    """When the certificate that the cluster shows ends; None where it cannot be had.

    For a certificate that was refused already: nothing is verified here, and nothing is sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(cluster.endpoint)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            address = (await _addresses(cluster))[0]
            _, writer = await asyncio.open_connection(
                address, parts.port or HTTPS_PORT, ssl=context, server_hostname=parts.hostname
            )
    except (ProbeError, EndpointError, TimeoutError, OSError):
        return None
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).not_valid_after_utc
    except (ValueError, TypeError):
        return None
    finally:
        writer.transport.abort()


async def resolve_addresses(*, cluster: Place) -> tuple[str, ...]:
    """The servers behind the name, each of which is checked; raises `ProbeError` as `open_client` does."""
    try:
        check_endpoint(url=cluster.endpoint, allow_private=cluster.allow_private_network)
        return expanded_addresses(await _addresses(cluster))
    except EndpointError as error:
        raise ProbeError(str(error), is_conclusive=True) from error


class PinnedTransport(httpx.AsyncBaseTransport):
    """Sends each request to one address; Host, and the name that TLS verifies, stay the URL's."""

    def __init__(self, *, address: str, inner: httpx.AsyncBaseTransport) -> None:
        """`address` is an IP address that was checked."""
        self._address = address
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Swap the host for the address; the Host header was set from the URL already."""
        name = request.url.host
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=self._address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": name},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


async def _pinned_transport(cluster: Place, *, address: str | None) -> PinnedTransport:
    try:
        check_endpoint(url=cluster.endpoint, allow_private=cluster.allow_private_network)
        if address is None:
            address = (await _addresses(cluster))[0]
        verify = _context(cluster.tls) if cluster.endpoint.startswith("https://") else False
    except (EndpointError, ValueError) as error:
        raise ProbeError(str(error), is_conclusive=True) from error
    return PinnedTransport(address=address, inner=httpx.AsyncHTTPTransport(verify=verify, trust_env=False))


@lru_cache(maxsize=CONTEXTS_MAX)
def _context(tls: TlsIdentity | None) -> ResumingContext:
    """Made once for an identity: reading the public roots takes 16 ms, more than all the rest of a probe.

    It is a function of the identity's own bytes, so a renewed certificate has a context of its own.
    """
    return ssl_context(tls=tls)


async def _addresses(cluster: Place) -> list[str]:
    """IPv4 first, as most servers listen there; all the name's addresses must be allowed."""
    parts = urlsplit(cluster.endpoint)
    host = parts.hostname or ""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, parts.port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise ProbeError(f"the name {host} was not resolved in time", is_absent=True) from error
    except OSError as error:
        # As a headless service in Kubernetes does not while it has no replica.
        words = f"the name {host} does not resolve: check it, or the resolver"
        raise ProbeError(words, is_absent=True) from error
    addresses = [str(info[4][0]) for info in sorted(found, key=lambda info: info[0] != socket.AF_INET)]
    for address in addresses:
        check_address(address=address, allow_private=cluster.allow_private_network)
    return addresses
