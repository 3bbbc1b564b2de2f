"""ASGI middleware before an engine: lets through what is signed, each body whole; the rest gets 401."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote

from clusters.verifying.gate import Gate
from clusters.verifying.signatures import (
    BODY_BYTES_MAX,
    PATH_CHARACTERS,
    Verifier,
    clock_s,
    joined_headers,
    refusal_body,
)

logger = logging.getLogger("tollgate.verifying")

POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1

AsgiMessage = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], AsgiReceive, AsgiSend], Awaitable[None]]


class AsgiVerifier(Gate):
    """ASGI middleware: lets through what is signed, each body whole; the rest gets 401 and nothing more."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        verifier: Verifier | None = None,
        open_paths: Sequence[str] | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        super().__init__(verifier=verifier, open_paths=open_paths, body_bytes_max=body_bytes_max)
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        request = _asgi_request(scope)
        if self._is_open(request):
            return await self._app(scope, receive, send)
        body, status, problem = await self._judged(request, receive)
        if problem is not None:
            return await _asgi_refuse(send, status=status, problem=problem)
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> AsgiMessage:
            return unread.pop() if unread else await receive()

        return await self._app(scope, receive_again, send)

    async def _judged(self, request: dict[str, Any], receive: AsgiReceive) -> tuple[bytes, int, str | None]:
        """The body; the status and the reason of a refusal. Who cannot sign is not read from."""
        if problem := self._verifier.head_problem(**request, now_s=clock_s()):
            return b"", 401, problem
        body = await _asgi_body(receive, body_bytes_max=self._body_bytes_max)
        if body is None:
            return b"", 413, "the body is too long, or broke off"
        return body, 401, self._verifier.verify(**request, body=body, now_s=clock_s())


def _asgi_request(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    raw_path = scope.get("raw_path")
    path = raw_path.decode("latin-1") if raw_path else quote(scope["path"], safe=PATH_CHARACTERS)
    headers = joined_headers(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
    )
    return {
        "method": scope["method"],
        "authority": headers.get("host", ""),
        "path": path,
        "query": scope["query_string"].decode("latin-1"),
        "headers": headers,
    }


async def _asgi_body(receive: AsgiReceive, *, body_bytes_max: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > body_bytes_max:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _asgi_refuse(send: AsgiSend, *, status: int, problem: str) -> None:
    logger.warning("refused reason=%s", problem)
    body = refusal_body(problem)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
