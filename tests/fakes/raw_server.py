"""A server in the test's own loop that says exactly the bytes it is told to, and cuts where it is told to."""

import asyncio
import contextlib
import socket
import struct

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class RawServer:
    """`serve(reader, writer)` is called for each connection; `connections` are their writers, in order."""

    @property
    def closed_count(self):
        return sum(writer.is_closing() for writer in self.connections)

    def __init__(self, serve):
        self._serve = serve
        self.port = 0
        self.connections = []
        self.requests = []
        self._tasks = set()

    async def on_connection(self, reader, writer):
        self.connections.append(writer)
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(self, reader, writer)
        writer.close()

    async def end(self):
        for task in self._tasks:
            task.cancel()
        for writer in self.connections:
            # Python 3.11 trips over one that was closed while it still had to write, and then did.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # What is left of the sockets is closed in the next rounds of the loop.
        for _ in range(3):
            await asyncio.sleep(0)

    async def next_request(self, reader):
        """Head and body of one request; IncompleteReadError at the connection's end."""
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        request = (head, await reader.readexactly(size))
        self.requests.append(request)
        return request


@contextlib.asynccontextmanager
async def run_raw(serve, *, context=None, host="127.0.0.1", port=0):
    raw = RawServer(serve)
    server = await asyncio.start_server(raw.on_connection, host, port, ssl=context)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        await raw.end()


def answering(*pieces, then="read"):
    """Each request of a connection is answered with these pieces, one after the other.

    `then` is what comes after: "read" the next request, "close", "reset", or "hold" until the client goes.
    """

    async def serve(raw, reader, writer):
        while True:
            await raw.next_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                # The other side reads each piece by itself.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if then == "hold":
                await reader.read()
                return
            if then in {"close", "reset"}:
                cut(writer, is_reset=then == "reset")
                return

    return serve


def cut(writer, *, is_reset):
    if is_reset:
        raw_socket = writer.get_extra_info("socket")
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
