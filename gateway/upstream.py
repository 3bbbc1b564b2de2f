"""The only place that opens a socket to a cluster on the hot path: signs, sends, and names each failure.

A failure says two things that money and routing need: whether the request may have reached the
upstream (`is_sent`), and whether it speaks against the cluster (`is_counted`).
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from msgspec import Struct

from clusters.endpoint import EndpointError, check_address, expanded_addresses
from clusters.signing import ResumingContext, concealed, ssl_context
from gateway.connection import AnswerError
from gateway.connection_pool import ConnectionPool
from gateway.errors import (
    GatewayError,
    OverloadedError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamRefusedError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from gateway.fleet import Target
from gateway.identifiers import random_bytes
from gateway.providers import dialect_of
from gateway.rate_headers import WAIT_S_MAX, retry_after_s
from gateway.refusal_kinds import refusal_kind
from gateway.spread import ABSENT_STATUSES, Spread
from gateway.transport import Answer, Transport, request_head

USER_AGENT = "tollgate"
CLIENTS_MAX = 2_000
ADDRESSES_MAX = 4
RESOLVED_FOR_S = 60.0
# Where each address is a server of its own: they come and go.
EXPANDED_FOR_S = 3.0
LAST_WORDS = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")
ERROR_BODY_BYTES_MAX = 64 * 1024
# Refusals that are a model server's own unless a page comes with them.
PAGE_STATUSES = frozenset({400, 404})


class UpstreamFailure(Exception):  # noqa: N818 -- an outcome of an attempt; what the caller sees is `error`
    """One attempt failed. `is_retryable`: another cluster may do better.

    `is_of_address`: of the cluster's servers one failed, and another may do better.
    `refusal`: the upstream refused the request itself, see gateway.refusal_kinds; `is_billed`: it charges for
    that, by the usage it reported.
    """

    def __init__(
        self,
        error: GatewayError,
        *,
        is_sent: bool,
        is_counted: bool = True,
        is_retryable: bool = True,
        retry_after_s: float = 0.0,
        refusal: str = "",
        is_billed: bool = False,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_sent = is_sent
        self.is_counted = is_counted
        self.is_retryable = is_retryable
        self.retry_after_s = retry_after_s
        self.refusal = refusal
        self.is_billed = is_billed
        self.is_of_address = False


def failed_answer(error: GatewayError) -> UpstreamFailure:
    """A fault of an answer that nobody has seen yet: another cluster may do better."""
    return UpstreamFailure(error, is_sent=True)


class UpstreamResponse(Struct, frozen=True, kw_only=True):
    """An answer whose status is 200, its body not read yet. `aclose` gives the connection back.

    The names of the headers are in lower case; of one that came twice the latter stands.
    """

    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    answer: Answer

    async def aclose(self) -> None:
        await self.answer.aclose()


async def read_body(response: UpstreamResponse, *, bytes_max: int) -> bytes:
    """The whole body. Raises UpstreamFailure where it breaks off, or is larger than is allowed."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.chunks:
        size += len(chunk)
        if size > bytes_max:
            raise failed_answer(UpstreamTooLargeError("The upstream's answer is larger than is allowed."))
        parts.append(chunk)
    return b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    """A URL in the parts that a signature and a request are made of."""

    authority: str
    path: str
    query: str
    start: str  # the request line and the headers that never change


@dataclass(slots=True, kw_only=True)
class _Client:
    """What is kept for a cluster. `resources` is by path: as many as surfaces and models."""

    transport: Transport | Spread
    resolved_at_s: float
    known_at_s: float  # when the resolver last answered
    resources: dict[str, _Resource] = field(default_factory=dict)


class Upstreams:
    """One connection pool per cluster, made on first use and again when its address or TLS changes.

    `clock` gives monotonic seconds, `wall_clock_s` the seconds since the epoch that signatures carry.
    """

    def __init__(
        self, *, connect_timeout_s: float, clock: Callable[[], float], wall_clock_s: Callable[[], int]
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._wall_clock_s = wall_clock_s
        self._clients: dict[tuple[Any, ...], _Client] = {}
        self._locks: dict[tuple[Any, ...], asyncio.Lock] = {}
        self._public_context: ResumingContext | None = None

    async def send(
        self, *, target: Target, path: str, body: bytes, request_id: str, attempt_id: str
    ) -> UpstreamResponse:
        """Send one attempt and give back its answer once the headers of a 200 are there.

        Raises UpstreamFailure for everything else. Sets no time-out but the connection's: the caller
        bounds the wait, and its cancellation closes the connection.
        """
        cluster = target.deployment.cluster
        client = await self._client(target)
        resource = client.resources.get(path)
        if resource is None:
            resource = client.resources[path] = _resource(target, path)
        try:
            head = self._head(target, resource, body, request_id=request_id, attempt_id=attempt_id)
            answer = await client.transport.send(head=head, body=body)
        except httpx.TransportError as error:
            failure = _transport_failure(error, target=target, now_s=self._wall_clock_s())
            raise _of_address(failure, client.transport) from error
        if answer.status in ABSENT_STATUSES:
            failure = await _refusal(answer, target, now_s=self._wall_clock_s())
            raise _of_address(failure, client.transport)
        if answer.status != httpx.codes.OK:
            raise await _refusal(answer, target, now_s=self._wall_clock_s())
        chunks = _Chunks(answer, cluster=cluster, transport=client.transport)
        return UpstreamResponse(headers=_headers(answer), chunks=chunks, answer=answer)

    async def aclose(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.transport.aclose()

    def _head(
        self, target: Target, resource: _Resource, body: bytes, *, request_id: str, attempt_id: str
    ) -> bytes:
        signed = target.signer.headers(
            method="POST",
            authority=resource.authority,
            path=resource.path,
            query=resource.query,
            body=body,
            now_s=self._wall_clock_s(),
            nonce=random_bytes().hex(),
        )
        headers = [
            ("content-length", str(len(body))),
            ("x-request-id", request_id),
            ("x-gateway-attempt-id", attempt_id),
            *dialect_of(target.backend).headers(signed),
        ]
        return request_head(start=resource.start, headers=headers)

    async def _client(self, target: Target) -> _Client:
        is_expanded = target.expands_addresses
        key = (target.cluster_id, target.endpoint, target.tls, target.is_private_allowed, is_expanded)
        kept_s = EXPANDED_FOR_S if is_expanded else RESOLVED_FOR_S
        client = self._clients.get(key)
        if client is not None and self._clock() - client.resolved_at_s < kept_s:
            return client
        lock = self._locks.setdefault(key, asyncio.Lock())
        if client is not None and is_expanded and lock.locked():
            # One request asks the resolver; that often, the others shall not wait for it.
            return client
        async with lock:
            client = self._clients.get(key)
            if client is not None and self._clock() - client.resolved_at_s < kept_s:
                return client
            url = httpx.URL(target.endpoint)
            if client is not None:
                await self._resolve_again(client, target, url)
                return client
            addresses = await self._checked_addresses(target, url)
            if len(self._clients) >= CLIENTS_MAX:
                # Requests may be on it: their connections close when they are given back.
                oldest = next(iter(self._clients))
                self._locks.pop(oldest, None)
                await self._clients.pop(oldest).transport.aclose()
            self._clients[key] = await self._built(target, url, addresses)
            return self._clients[key]

    async def _resolve_again(self, client: _Client, target: Target, url: httpx.URL) -> None:
        now_s = self._clock()
        try:
            client.transport.move(await self._checked_addresses(target, url))
        except UpstreamFailure:
            # Servers that were there a moment ago mostly still are: a resolver that fails has a minute.
            if not target.expands_addresses or now_s - client.known_at_s >= RESOLVED_FOR_S:
                raise
        else:
            client.known_at_s = now_s
        client.resolved_at_s = self._clock()

    async def _checked_addresses(self, target: Target, url: httpx.URL) -> list[str]:
        """The addresses to connect to; they are checked, not the text that named them (SSRF)."""
        loop = asyncio.get_running_loop()
        cluster = target.deployment.cluster
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                found = await loop.getaddrinfo(url.host, _port(url), type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            message = f"Cluster {cluster} has no address: its name cannot be resolved."
            raise UpstreamFailure(UpstreamUnreachableError(message), is_sent=False) from error
        addresses = [str(one[4][0]) for one in found]
        is_expanded = target.expands_addresses
        addresses = list(expanded_addresses(addresses)) if is_expanded else addresses[:ADDRESSES_MAX]
        try:
            for address in addresses:
                check_address(address=address, allow_private=target.is_private_allowed)
        except EndpointError as error:
            message = f"Cluster {cluster} resolves to an address that is not allowed."
            raise UpstreamFailure(UpstreamUnreachableError(message), is_sent=False) from error
        return addresses

    async def _built(self, target: Target, url: httpx.URL, addresses: list[str]) -> _Client:
        tls = await self._context(target) if url.scheme == "https" else None

        def transport_to(*addresses: str) -> Transport:
            pool = ConnectionPool(
                host=url.raw_host.decode("ascii").rstrip("."),
                port=_port(url),
                addresses=addresses,
                tls=tls,
                connect_timeout_s=self._connect_timeout_s,
            )
            return Transport(pool=pool)

        now_s = self._clock()
        transport: Transport | Spread = (
            Spread(addresses=addresses, make=transport_to, clock=self._clock)
            if target.expands_addresses
            else transport_to(*addresses)
        )
        return _Client(transport=transport, resolved_at_s=now_s, known_at_s=now_s)

    async def _context(self, target: Target) -> ResumingContext:
        """Made in a thread: reading the public roots takes milliseconds. All that need no other share one."""
        if target.tls is None and self._public_context is not None:
            return self._public_context
        try:
            context = await asyncio.to_thread(ssl_context, tls=target.tls)
        except (ssl.SSLError, ValueError) as error:
            message = (
                f"Cluster {target.deployment.cluster} cannot be reached: the certificates stored for it "
                f"cannot be loaded; store them again in Admin > Clusters."
            )
            raise UpstreamFailure(UpstreamUnreachableError(message), is_sent=False) from error
        if target.tls is None:
            self._public_context = context
        return context


def _of_address(
    failure: UpstreamFailure, transport: Transport | Spread, *, up_count_min: int = 1
) -> UpstreamFailure:
    """Where the cluster has other servers it speaks against one of them alone."""
    if isinstance(transport, Spread) and transport.up_count >= up_count_min:
        failure.is_of_address = True
        failure.is_counted = False
    return failure


def _resource(target: Target, path: str) -> _Resource:
    url = httpx.URL(target.endpoint.rstrip("/") + path)
    authority, raw_path = url.netloc.decode("ascii"), url.raw_path.decode("ascii")
    start = (
        f"POST {raw_path} HTTP/1.1\r\n"
        f"host: {authority}\r\n"
        "content-type: application/json\r\n"
        "accept-encoding: identity\r\n"
        f"user-agent: {USER_AGENT}\r\n"
    )
    return _Resource(
        authority=authority,
        path=raw_path.partition("?")[0],
        query=url.query.decode("ascii"),
        start=start,
    )


def _headers(answer: Answer) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}


class _Chunks:
    """The body as it comes. No generator: a stream left at its last word would need a task to end it."""

    __slots__ = ("_answer", "_cluster", "_transport")

    def __init__(self, answer: Answer, *, cluster: str, transport: Transport | Spread) -> None:
        self._answer = answer
        self._cluster = cluster
        self._transport = transport

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._answer.read()
        except httpx.TransportError as error:
            message = f"Cluster {self._cluster} broke off its answer."
            failure = UpstreamFailure(UpstreamInvalidError(message), is_sent=True)
            # The server that broke off is not known to fail yet.
            raise _of_address(failure, self._transport, up_count_min=2) from error
        if not chunk:
            raise StopAsyncIteration
        if chunk.endswith(LAST_WORDS):
            self._answer.expect_end()
        return chunk


async def _refusal(answer: Answer, target: Target, *, now_s: int) -> UpstreamFailure:
    """What a status other than 200 means. The upstream's words reach the caller only for its own 4xx."""
    status, cluster = answer.status, target.deployment.cluster
    wait_s = retry_after_s(_headers(answer), now_s=now_s)
    if status in UpstreamRefusedError.PASSED_ON:
        return _request_refused(answer, await _error_body(answer, target), target, now_s=now_s)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        # Google says in the body how long to wait.
        parts = dialect_of(target.backend).error_parts(await _error_body(answer, target))
        wait_s = wait_s or min(parts.retry_after_s, WAIT_S_MAX) or 1.0
        busy = OverloadedError(f"Cluster {cluster} is at its rate limit.", retry_after_s=wait_s)
        return UpstreamFailure(busy, is_sent=True, retry_after_s=wait_s)
    await answer.aclose()
    if status in {401, 402, 403}:
        return _credential_refused(cluster, status)
    if status >= 500:
        message = f"Cluster {cluster} answered with status {status}."
        return UpstreamFailure(UpstreamError(message), is_sent=True, retry_after_s=wait_s)
    message = f"Cluster {cluster} answered with status {status}, which is no answer to a completion."
    return UpstreamFailure(UpstreamInvalidError(message), is_sent=True)


def _request_refused(answer: Answer, body: bytes, target: Target, *, now_s: int) -> UpstreamFailure:
    status, cluster = answer.status, target.deployment.cluster
    if status in PAGE_STATUSES and _headers(answer).get("content-type", "").startswith("text/html"):
        return _refused_before(target, status, body, now_s=now_s)
    parts = dialect_of(target.backend).error_parts(body)
    if parts.is_credential:
        return _credential_refused(cluster, status)
    message = parts.message or f"The model's server refused the request with status {status}."
    error = UpstreamRefusedError(message, upstream_status=status, param=parts.param, code=parts.code)
    kind = refusal_kind(status=status, code=error.upstream_code, message=error.message)
    return UpstreamFailure(error, is_sent=True, is_counted=False, is_retryable=False, refusal=kind)


def _refused_before(target: Target, status: int, page: bytes, *, now_s: int) -> UpstreamFailure:
    """A page is the word of a proxy before the model's server, which has not seen the request."""
    cluster = target.deployment.cluster
    if b"certificate" in page:
        # nginx asks who calls only after TLS is there, and tells it so.
        message = (
            f"Cluster {cluster} does not accept the gateway's client certificate: store one that it knows."
        )
        return UpstreamFailure(UpstreamAuthError(message + _expiry_hint(target, now_s=now_s)), is_sent=True)
    message = f"Cluster {cluster} answered with status {status} and a page, as a proxy before it would."
    return UpstreamFailure(UpstreamInvalidError(message), is_sent=True)


def _credential_refused(cluster: str, status: int) -> UpstreamFailure:
    message = f"Cluster {cluster} refused the gateway's own credential; its operator must renew it."
    if status == httpx.codes.PAYMENT_REQUIRED:
        message = f"Cluster {cluster} says that the gateway's account there has no credit left."
    return UpstreamFailure(UpstreamAuthError(message), is_sent=True)


async def _error_body(answer: Answer, target: Target) -> bytes:
    """The body of a refusal, or its beginning, without our secrets; empty where it breaks off."""
    body = b""
    try:
        while len(body) <= ERROR_BODY_BYTES_MAX and (chunk := await answer.read()):
            body += chunk
    except httpx.TransportError:
        body = b""
    finally:
        await answer.aclose()
    return concealed(body.decode("latin-1"), signer=target.signer).encode("latin-1")


def _transport_failure(error: httpx.TransportError, *, target: Target, now_s: int) -> UpstreamFailure:
    """Tell "never sent" from "may have been sent", by the transport's word (gateway.transport)."""
    cluster = target.deployment.cluster
    if isinstance(error, httpx.PoolTimeout):
        full = OverloadedError(f"As many connections to cluster {cluster} are open as are allowed.")
        return UpstreamFailure(full, is_sent=False, is_counted=False)
    hint = _expiry_hint(target, now_s=now_s)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.LocalProtocolError):
        message = f"Cluster {cluster} cannot be reached: {error}.{hint}"
        return UpstreamFailure(UpstreamUnreachableError(message), is_sent=False)
    if isinstance(error, AnswerError):
        message = f"Cluster {cluster} answered with something that is not HTTP."
        return UpstreamFailure(UpstreamInvalidError(message), is_sent=True)
    message = f"Cluster {cluster} closed the connection without an answer.{hint}"
    return UpstreamFailure(UpstreamUnreachableError(message), is_sent=True)


def _expiry_hint(target: Target, *, now_s: int) -> str:
    """Not every server says that it refuses a certificate of old, and OpenSSL does not say the date."""
    ours = target.tls.expires_at if target.tls is not None else None
    if ours is not None and ours.timestamp() <= now_s:
        return f" The gateway's client certificate for it expired on {ours:%Y-%m-%d}: store a new one."
    theirs = target.certificate_expires_at
    if theirs is not None and theirs.timestamp() <= now_s:
        return f" Its certificate expired on {theirs:%Y-%m-%d}: renew it on the cluster's side."
    return ""


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
