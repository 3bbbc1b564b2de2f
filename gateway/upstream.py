"""The only place that opens a socket to a cluster on the hot path: signs, sends, and names each failure.

A failure says two things that money and routing need: whether the request may have reached the
upstream (`is_sent`), and whether it speaks against the cluster (`is_counted`).
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import orjson
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import RequestBuilder

from clusters.endpoint import EndpointError, check_address
from gateway.errors import (
    GatewayError,
    OverloadedError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from gateway.fleet import Target
from gateway.identifiers import random_bytes
from gateway.providers import openai_credentials
from gateway.refusal_kinds import refusal_kind

USER_AGENT = "tollgate"
CLIENTS_MAX = 2_000
IDLE_CONNECTIONS_MAX = 256
RESOLVED_FOR_S = 60.0
ERROR_BODY_BYTES_MAX = 64 * 1024
ERROR_TEXT_CHARACTERS_MAX = 500
RETRY_AFTER_S_MAX = 300.0


class UpstreamFailure(Exception):  # noqa: N818 -- an outcome of an attempt; what the caller sees is `error`
    """One attempt failed. `is_retryable`: another cluster may do better.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamResponse:
    """An answer whose status is 200, its body not read yet. `aclose` gives the connection back."""

    headers: httpx.Headers
    chunks: AsyncIterator[bytes]
    response: httpx.Response

    async def aclose(self) -> None:
        await _stream(self.response).aclose()


class _StreamingTransport(HttpxTransport):
    """Gives the headers as soon as they are there; its parent first collects 64 KiB of the body, or all."""

    def _map_body(self, builder: RequestBuilder, request: httpx.Request) -> RequestBuilder:
        return super()._map_body(builder, request).streamed_read_buffer_limit(0)


@dataclass(slots=True, kw_only=True)
class _Client:
    transport: HttpxTransport
    address: str
    resolved_at_s: float


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

    async def send(
        self, *, target: Target, path: str, body: bytes, request_id: str, attempt_id: str
    ) -> UpstreamResponse:
        """Send one attempt and give back its answer once the headers of a 200 are there.

        Raises UpstreamFailure for everything else. Sets no time-out but the connection's: the caller
        bounds the wait, and its cancellation closes the connection.
        """
        url = httpx.URL(target.endpoint.rstrip("/") + path)
        client = await self._client(target, url)
        request = httpx.Request(
            "POST",
            url,
            headers=self._headers(target, url, body, request_id=request_id, attempt_id=attempt_id),
            content=body,
        )
        try:
            response = await client.transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise _transport_failure(error, cluster=target.deployment.cluster) from error
        if _is_cancelled():
            await _stream(response).aclose()
            raise asyncio.CancelledError
        if response.status_code != httpx.codes.OK:
            raise await _refusal(response, cluster=target.deployment.cluster)
        return UpstreamResponse(
            headers=response.headers, chunks=_read(response, target.deployment.cluster), response=response
        )

    async def aclose(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.transport.aclose()

    def _headers(
        self, target: Target, url: httpx.URL, body: bytes, *, request_id: str, attempt_id: str
    ) -> list[tuple[str, str]]:
        signed = target.signer.headers(
            method="POST",
            authority=url.netloc.decode("ascii"),
            path=url.raw_path.partition(b"?")[0].decode("ascii"),
            query=url.query.decode("ascii"),
            body=body,
            now_s=self._wall_clock_s(),
            nonce=random_bytes().hex(),
        )
        return [
            ("content-type", "application/json"),
            ("accept-encoding", "identity"),
            ("user-agent", USER_AGENT),
            ("x-request-id", request_id),
            ("x-gateway-attempt-id", attempt_id),
            *openai_credentials(signed),
        ]

    async def _client(self, target: Target, url: httpx.URL) -> _Client:
        key = (target.cluster_id, target.endpoint, target.tls, target.is_private_allowed)
        client = self._clients.get(key)
        if client is not None and self._clock() - client.resolved_at_s < RESOLVED_FOR_S:
            return client
        async with self._locks.setdefault(key, asyncio.Lock()):
            client = self._clients.get(key)
            if client is not None and self._clock() - client.resolved_at_s < RESOLVED_FOR_S:
                return client
            address = await self._checked_address(target, url)
            if client is not None and client.address == address:
                client.resolved_at_s = self._clock()
                return client
            if len(self._clients) >= CLIENTS_MAX:
                # Not closed here: a request may be on it. It closes when its last one lets go.
                self._clients.pop(next(iter(self._clients)))
            self._clients[key] = self._built(target, url, address)
            return self._clients[key]

    async def _checked_address(self, target: Target, url: httpx.URL) -> str:
        """The address to connect to; it is checked, not the text that named it (SSRF)."""
        loop = asyncio.get_running_loop()
        cluster = target.deployment.cluster
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                found = await loop.getaddrinfo(url.host, _port(url), type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            message = f"Cluster {cluster} has no address: its name cannot be resolved."
            raise UpstreamFailure(UpstreamUnreachableError(message), is_sent=False) from error
        address = str(found[0][4][0])
        try:
            check_address(address=address, allow_private=target.is_private_allowed)
        except EndpointError as error:
            message = f"Cluster {cluster} resolves to an address that is not allowed."
            raise UpstreamFailure(UpstreamUnreachableError(message), is_sent=False) from error
        return address

    def _built(self, target: Target, url: httpx.URL, address: str) -> _Client:
        builder = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(enable=False)
            .gzip(enable=False)
            .brotli(enable=False)
            .zstd(enable=False)
            .deflate(enable=False)
            .connect_timeout(timedelta(seconds=self._connect_timeout_s))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .tcp_nodelay(enabled=True)
            .http1_only()
        )
        if not _is_address(url.host):
            builder = builder.resolve(url.host, address, _port(url))
        if target.tls is not None and target.tls.client_pem is not None:
            builder = builder.identity_pem(target.tls.client_pem)
        if target.tls is not None and target.tls.ca_pem is not None:
            builder = builder.add_root_certificate_pem(target.tls.ca_pem)
        transport = _StreamingTransport(builder.build())
        return _Client(transport=transport, address=address, resolved_at_s=self._clock())


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    assert isinstance(response.stream, httpx.AsyncByteStream), "an async transport gives async streams"
    return response.stream


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body piece by piece as it comes; iterating over httpx's stream would wait for 64 KiB each."""
    reader = response.extensions["pyreqwest_response"].body_reader
    while (chunk := await reader.read_chunk()) is not None:
        if _is_cancelled():
            raise asyncio.CancelledError
        yield bytes(chunk)


def _is_cancelled() -> bool:
    """Whether the transport swallowed a cancellation: it does when its data comes at the same moment.

    Without a look a time-out or the end of the drain would pass unheard, and the answer go on.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _read(response: httpx.Response, cluster: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in _chunks(response):
            yield chunk
    except PyreqwestError as error:
        message = f"Cluster {cluster} broke off its answer."
        raise UpstreamFailure(UpstreamInvalidError(message), is_sent=True) from error


async def _refusal(response: httpx.Response, *, cluster: str) -> UpstreamFailure:
    """What a status other than 200 means. The upstream's words reach the caller only for its own 4xx."""
    status = response.status_code
    retry_after_s = _retry_after_s(response.headers)
    if status in UpstreamRefusedError.PASSED_ON:
        error = await _passed_on(response)
        kind = refusal_kind(status=status, code=error.upstream_code, message=error.message)
        return UpstreamFailure(error, is_sent=True, is_counted=False, is_retryable=False, refusal=kind)
    await _stream(response).aclose()
    if status in {401, 403}:
        message = f"Cluster {cluster} refused the gateway's own credential; its operator must renew it."
        return UpstreamFailure(UpstreamAuthError(message), is_sent=True)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        wait_s = retry_after_s or 1.0
        busy = OverloadedError(f"Cluster {cluster} is at its rate limit.", retry_after_s=wait_s)
        return UpstreamFailure(busy, is_sent=True, retry_after_s=wait_s)
    if status >= 500:
        message = f"Cluster {cluster} answered with status {status}."
        return UpstreamFailure(UpstreamError(message), is_sent=True, retry_after_s=retry_after_s)
    message = f"Cluster {cluster} answered with status {status}, which is no answer to a completion."
    return UpstreamFailure(UpstreamInvalidError(message), is_sent=True)


async def _passed_on(response: httpx.Response) -> UpstreamRefusedError:
    """The upstream's 400, 404, 413 or 422: its message, cut to size, in our shape."""
    body = b""
    try:
        async for chunk in _chunks(response):
            body += chunk
            if len(body) > ERROR_BODY_BYTES_MAX:
                break
    except PyreqwestError:
        body = b""
    finally:
        await _stream(response).aclose()
    message, param, code = _error_parts(body)
    message = message or f"The model's server refused the request with status {response.status_code}."
    return UpstreamRefusedError(message, upstream_status=response.status_code, param=param, code=code)


def _error_parts(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, param and code from OpenAI's shape, vLLM's flat one or FastAPI's `detail`; else nothing."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", None, None
    if not isinstance(document, dict):
        return "", None, None
    error = document.get("error")
    source: dict[str, Any] = error if isinstance(error, dict) else document
    texts = [text for text in (source.get("message"), document.get("detail"), error) if isinstance(text, str)]
    param, code = source.get("param"), source.get("code")
    return (
        texts[0][:ERROR_TEXT_CHARACTERS_MAX] if texts else "",
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )


def _transport_failure(error: httpx.HTTPError, *, cluster: str) -> UpstreamFailure:
    """Tell "never sent" from "may have been sent" (DECISIONS: the transport's traps).

    The transport reports a server that closes after reading the request as ConnectError, and silence
    before the headers as ConnectTimeout; the causes underneath name the phase.
    """
    causes = _causes(error)
    is_connecting = any("client error (Connect)" in cause for cause in causes)
    if is_connecting or isinstance(error, httpx.PoolTimeout):
        message = f"Cluster {cluster} cannot be reached."
        return UpstreamFailure(UpstreamUnreachableError(message), is_sent=False)
    if isinstance(error, httpx.TimeoutException):
        message = f"Cluster {cluster} did not answer in time."
        return UpstreamFailure(UpstreamTimeoutError(message), is_sent=True)
    message = f"Cluster {cluster} closed the connection without an answer."
    return UpstreamFailure(UpstreamUnreachableError(message), is_sent=True)


def _causes(error: BaseException) -> list[str]:
    details = getattr(error.__cause__, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None
    return [str(cause) for cause in causes or ()]


def _retry_after_s(headers: httpx.Headers) -> float:
    """Seconds from Retry-After, when it is a number; a date is taken as unknown."""
    try:
        return min(max(float(headers.get("retry-after", "0")), 0.0), RETRY_AFTER_S_MAX)
    except ValueError:
        return 0.0


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
