"""The connections to one cluster: opened up to a limit, kept alive between requests, given out in turn."""

import asyncio
import errno
import os
import select
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any

import httpx

from clusters.signing import ResumingContext
from gateway.connection import Connection

CONNECTIONS_MAX = 4_096
WAITERS_MAX = 4_096
IDLE_CONNECTIONS_MAX = 256
# Servers close idle connections at an hour of their own: uvicorn (vLLM, SGLang) and Node after 5 s, load
# balancers in front of providers after 60 s or more. Ours go before, so that no request meets a close.
IDLE_S_MAX = 4.0
IDLE_TLS_S_MAX = 50.0
IDLE_MARGIN_S = 1.0
# After so long the kernel is asked whether the other side has closed and the loop not heard of it yet.
CHECKED_AFTER_S = 0.5
# How long the end of a message may lag behind the last thing that it says.
LINGER_S = 0.25
SHUTDOWN_S = 2.0


class ConnectionPool:
    """Give each connection of `acquire` back by `release`, in whatever state it is.

    The latest used is used first, so that those of a past burst can go. Who finds the limit reached waits in
    turn, for the connect time-out at most.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        addresses: Sequence[str],
        tls: ResumingContext | None,
        connect_timeout_s: float,
    ) -> None:
        """`host` is the name that a certificate must bear; connected is to one of the `addresses`."""
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._port = port
        self._addresses = tuple(addresses)
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._lingering: dict[Connection, asyncio.TimerHandle] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._count = 0
        self._is_closed = False

    async def acquire(self) -> Connection:
        """An open connection, for one request. No byte has been sent when this fails.

        Raises ConnectError, ConnectTimeout, PoolTimeout.
        """
        connection = self._latest_idle()
        if connection is not None:
            return connection
        # What becomes free while others wait is given to them at once: who comes later passes nobody.
        if self._count < CONNECTIONS_MAX:
            self._count += 1
            return await self._open()
        connection = await self._wait_turn()
        if connection is None:
            return await self._open()
        if connection.is_closing:
            # It died on the way; its place is free in a moment.
            self._count += 1
            return await self._open()
        return connection

    def release(self, connection: Connection, *, is_end_due: bool = False) -> None:
        """`is_end_due`: all was said, only the end of the message is missing: it is waited for a little."""
        if is_end_due and not connection.is_complete and not connection.is_closing:
            connection.await_end(self._on_end)
            self._lingering[connection] = self._loop.call_later(LINGER_S, self._on_end, connection)
            return
        self._keep_session(connection)
        if not connection.finish() or connection.address not in self._addresses:
            connection.abort()
            return
        if connection.idle_limit_s is None:
            connection.idle_limit_s = self._idle_limit_s(connection)
        self._give(connection)

    def move(self, addresses: Sequence[str]) -> None:
        """The name has other addresses now: connections to old ones are used no more."""
        if set(addresses) == set(self._addresses):
            return
        self._addresses = tuple(addresses)
        for connection in [one for one in self._idle if one.address not in self._addresses]:
            self._idle.remove(connection)
            connection.close()

    @property
    def in_use_count(self) -> int:
        """Connections that a request has or opens."""
        return self._count - len(self._idle) - len(self._lingering)

    def close(self) -> None:
        """Close what is idle, refuse who waits; connections in use close when they are released."""
        self._is_closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(httpx.PoolTimeout("the connections are being closed"))
        self._waiters.clear()
        for handle in self._lingering.values():
            handle.cancel()
        for connection in (*self._idle, *self._lingering):
            connection.close()
        self._idle.clear()
        self._lingering.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    def _latest_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            idle_s = self._loop.time() - connection.idle_since_s
            if connection.is_closing:
                continue
            if idle_s < (connection.idle_limit_s or 0.0) and (
                idle_s < CHECKED_AFTER_S or not _is_readable(connection)
            ):
                return connection
            connection.close()
        return None

    async def _wait_turn(self) -> Connection | None:
        """A connection that was given back, or None for the right to open one."""
        if len(self._waiters) >= WAITERS_MAX:
            raise httpx.PoolTimeout("too many requests wait for a connection")
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await waiter
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was given at the very moment at which the wait ended: the next one's.
                self._pass_on(waiter.result())
            if isinstance(error, TimeoutError):
                raise httpx.PoolTimeout("no connection became free in time") from error
            raise

    def _pass_on(self, given: Connection | None) -> None:
        if given is not None:
            self._give(given)
        else:
            self._free_slot()

    def _give(self, connection: Connection) -> None:
        """To the one who has waited longest, else among the idle ones."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if len(self._idle) >= IDLE_CONNECTIONS_MAX or self._is_closed:
            connection.close()
            return
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S_MAX, self._close_expired)

    def _free_slot(self) -> None:
        """One connection less: who has waited longest may open another in its place."""
        self._count -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._count += 1
                waiter.set_result(None)
                return

    def _close_expired(self) -> None:
        now_s = self._loop.time()
        kept: deque[Connection] = deque()
        for connection in self._idle:
            if now_s - connection.idle_since_s < (connection.idle_limit_s or 0.0):
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept
        self._sweep = self._loop.call_later(IDLE_S_MAX, self._close_expired) if kept else None

    def _on_end(self, connection: Connection) -> None:
        """The end of a message came, or did not come in time."""
        handle = self._lingering.pop(connection, None)
        if handle is not None:
            handle.cancel()
            self.release(connection)

    def _on_lost(self, connection: Connection) -> None:
        handle = self._lingering.pop(connection, None)
        if handle is not None:
            handle.cancel()
        if connection in self._idle:
            self._idle.remove(connection)
        self._free_slot()

    async def _open(self) -> Connection:
        """A new connection; its slot is counted already."""
        try:
            connection = await self._connect_to_any()
        except BaseException:
            self._free_slot()
            raise
        connection.on_lost = self._on_lost
        # The one that answers comes first from now on.
        self._prefer(connection.address)
        return connection

    async def _connect_to_any(self) -> Connection:
        """One address after the other, each with its share of the time that is left."""
        ends_at_s = self._loop.time() + self._connect_timeout_s
        addresses = deque(self._addresses)
        while True:
            address = addresses.popleft()
            try:
                left_s = (ends_at_s - self._loop.time()) / (len(addresses) + 1)
                return await self._connect(address, timeout_s=left_s)
            except OSError as error:
                # Another address has the same certificate.
                if isinstance(error, ssl.SSLError) or not addresses:
                    raise _connect_error(error) from error

    async def _connect(self, address: str, *, timeout_s: float) -> Connection:
        connection = Connection(loop=self._loop, address=address)
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls,
                "server_hostname": self._host,
                "ssl_handshake_timeout": self._connect_timeout_s,
                "ssl_shutdown_timeout": SHUTDOWN_S,
            }
        async with asyncio.timeout(timeout_s):
            await self._loop.create_connection(lambda: connection, address, self._port, **tls)
        if connection.is_closing:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        connection.ssl_object = connection.extra_info("ssl_object")
        return connection

    def _prefer(self, address: str) -> None:
        if self._addresses[0] != address and address in self._addresses:
            self._addresses = (address, *(one for one in self._addresses if one != address))

    def _keep_session(self, connection: Connection) -> None:
        # With TLS 1.3 the session comes after the handshake, so it is asked for after the first answer.
        if self._tls is None or connection.idle_limit_s is not None or connection.ssl_object is None:
            return
        session = connection.ssl_object.session
        if session is not None:
            self._tls.remember(server=self._host, session=session)

    def _idle_limit_s(self, connection: Connection) -> float:
        """Below the server's own limit: as it says in Keep-Alive (RFC 2068, 19.7.1.1), else as is usual."""
        usual_s = IDLE_S_MAX if self._tls is None else IDLE_TLS_S_MAX
        for name, value in connection.headers:
            if name.lower() == b"keep-alive":
                for part in value.split(b","):
                    key, _, number = part.strip().partition(b"=")
                    if key.lower() == b"timeout" and number.strip().isdigit():
                        return min(float(number) - IDLE_MARGIN_S, IDLE_TLS_S_MAX)
        return usual_s


def _connect_error(error: OSError) -> httpx.TransportError:
    """What the operator can act on; no address, since callers see it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return httpx.ConnectError(f"its certificate is not trusted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return httpx.ConnectError(f"TLS failed ({error.reason or 'no reason given'})")
    if isinstance(error, TimeoutError):
        return httpx.ConnectTimeout("it did not take the connection in time")
    return httpx.ConnectError(os.strerror(error.errno).lower() if error.errno else "it hung up")


def _is_readable(connection: Connection) -> bool:
    """Whether something waits in the socket: on an idle one that is its end, or what nobody asked for."""
    poll = select.poll()
    poll.register(connection.extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
