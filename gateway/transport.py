"""HTTP/1.1 to one cluster on asyncio and httptools: sends a request, gives its answer as it comes."""

from collections.abc import AsyncIterator, Sequence

import httpx

from gateway.connection import Connection
from gateway.connection_pool import ConnectionPool


class Answer(httpx.AsyncByteStream):
    """The head of an answer, and its body to be read once. `aclose` gives the connection back."""

    __slots__ = ("_connection", "_is_end_due", "_pool", "headers", "status")

    def __init__(self, *, connection: Connection, pool: ConnectionPool) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: Connection | None = connection
        self._pool = pool
        self._is_end_due = False

    async def read(self) -> bytes:
        """What has come of the body, waiting for some; b"" at its end. Raises httpx's errors."""
        if self._connection is None:
            raise httpx.StreamClosed
        return await self._connection.read()

    def expect_end(self) -> None:
        """What was read last says that nothing follows: the end of the message is due any moment."""
        self._is_end_due = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection, is_end_due=self._is_end_due)


class Transport(httpx.AsyncBaseTransport):
    """Failures are httpx's exceptions, and their types say what has become of the request.

    - ConnectError, ConnectTimeout, PoolTimeout, LocalProtocolError: not a byte of it was sent.
    - WriteError, ReadError, RemoteProtocolError: it may have been read, and worked on.

    Nothing is sent twice: a kept connection that turns out to be closed before the first byte is written is
    replaced by another, after it the failure is the caller's to judge. No time-out but the connection's
    (the caller cancels), no redirect, no proxy, no decompression. HTTP/2 is not spoken.
    """

    def __init__(self, *, pool: ConnectionPool) -> None:
        self.pool = pool

    async def send(self, *, head: bytes, body: bytes) -> Answer:
        """Send what `request_head` made, and its body as it is; back when the answer's head is there."""
        connection = await self.pool.acquire()
        try:
            await connection.request(head=head, body=body)
        except BaseException:
            self.pool.release(connection)
            raise
        return Answer(connection=connection, pool=self.pool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """For httpx.AsyncClient. The host of the URL goes into the request; the pool's is connected to."""
        body = await request.aread()
        start = f"{request.method} {request.url.raw_path.decode('ascii')} HTTP/1.1\r\n"
        headers = [(name, value) for name, value in request.headers.items() if name != "transfer-encoding"]
        if "content-length" not in request.headers:
            headers.append(("content-length", str(len(body))))
        answer = await self.send(head=request_head(start=start, headers=headers), body=body)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=answer,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def move(self, addresses: Sequence[str]) -> None:
        """The name has other addresses now."""
        self.pool.move(addresses)

    async def aclose(self) -> None:
        self.pool.close()


def request_head(*, start: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """`start` is the request line and headers known to be sound, each with its line break.

    Raises LocalProtocolError where a header would break out of its line, or is not ASCII.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or "\0" in lines:
        raise httpx.LocalProtocolError("a header of the request has a line break in it")
    try:
        return f"{start}{lines}\r\n".encode("ascii")
    except UnicodeEncodeError as error:
        raise httpx.LocalProtocolError("a header of the request is not ASCII") from error
