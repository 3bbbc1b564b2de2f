"""One request and its response over ASGI, with ways to break the connection on purpose."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from clusters.demo.replies import frame

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_BYTES_MAX = 32 * 1024 * 1024
# Where clusters.demo.serving puts the connection's transport in the ASGI scope.
TRANSPORT = "standin.transport"
LINGER_NOT = struct.pack("ii", 1, 0)


class ClientGoneError(Exception):
    """The client closed the connection, or the server is about to."""


class BodyTooLargeError(Exception):
    """The body is longer than BODY_BYTES_MAX."""


class CutConnectionError(Exception):
    """Asks an ASGI server that gives us no transport to close the connection."""


class Exchange:
    """Read the body first; then let `watch` run beside the answer."""

    def __init__(self, *, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        raw_path = scope.get("raw_path") or self.path.encode()
        self.path_and_query = raw_path.decode("latin-1") + (self.query and f"?{self.query}")
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        # Sent with every response.
        self.extra_headers: dict[str, str] = {}
        # Called once, before the last bytes leave: who has the answer finds it already recorded.
        self.on_end: Callable[[], None] = lambda: None
        # Called once, when the client has gone.
        self.on_gone: Callable[[], None] = lambda: None
        self.is_gone = False
        self._gone = asyncio.Event()
        self._receive = receive
        self._send = send
        self._transport: asyncio.Transport | None = scope.get("state", {}).get(TRANSPORT)

    async def read_body(self) -> bytes:
        """Raises BodyTooLargeError and ClientGoneError."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                raise BodyTooLargeError
            if not message.get("more_body", False):
                return bytes(body)

    async def watch(self) -> None:
        """Runs beside the answer, once the body is read; marks the client's leaving."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._mark_gone()

    def drop(self) -> None:
        """Close the connection because the server ends."""
        self._mark_gone()
        if self._transport is not None:
            self._transport.close()

    async def send_json(
        self, body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        await self.send_whole(orjson.dumps(body), status=status, media="application/json", headers=headers)

    async def send_whole(
        self,
        body: bytes,
        *,
        status: int = 200,
        media: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        length = {"content-length": str(len(body))}
        await self.start(status=status, media=media, headers={**length, **(headers or {})})
        await self.end(body)

    async def start(self, *, status: int = 200, media: str, headers: Mapping[str, str] | None = None) -> None:
        """Send the head; without a content-length the body goes in chunks."""
        merged = {"content-type": media, **self.extra_headers, **(headers or {})}
        encoded = [(name.encode(), value.encode()) for name, value in merged.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def start_stream(self) -> None:
        await self.start(media="text/event-stream; charset=utf-8")

    async def send_bytes(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def send_event(self, value: object) -> None:
        await self.send_bytes(frame(value))

    async def end(self, last: bytes = b"") -> None:
        self.on_end()
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def stall(self) -> None:
        """Say nothing more until the client has gone."""
        await self._gone.wait()

    async def hang_up(self) -> None:
        """Close the connection in order, whatever the headers promised."""
        self.on_end()
        transport = self._transport_to_cut()
        transport.close()
        await self._gone.wait()

    async def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        self.on_end()
        transport = self._transport_to_cut()
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        transport.abort()
        await self._gone.wait()

    def _transport_to_cut(self) -> asyncio.Transport:
        if self._transport is None:
            raise CutConnectionError
        return self._transport

    def _mark_gone(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._gone.set()
            self.on_gone()
