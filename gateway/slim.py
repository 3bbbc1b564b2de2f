"""The slim path of the APIs: body in, ninja operation, response out, without Django's handler and middleware.

Django's own handler starts a thread per request and runs each middleware in another; that costs more
than all the rest of a request (ARCHITECTURE.md, Decisions).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any

import structlog
from django.http import Http404, HttpRequest, HttpResponseBase
from django.http.request import HttpHeaders
from django.urls import resolve

from gateway import metrics
from gateway.authentication import GOOGLE_KEY_HEADER
from gateway.errors import (
    GatewayError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    RequestTimeoutError,
    RequestTooLargeError,
    error_body,
)
from gateway.identifiers import new_request_id
from gateway.lifespan import Gateway, wall_clock
from gateway.logging import request_id_var
from gateway.outbox import Outbox
from gateway.overload import UNCOUNTED, Work
from gateway.responses import JsonResponse, SlimResponse
from gateway.surface_answers import TranslatedOutbox
from gateway.surfaces import gemini_errors
from gateway.surfaces.messages_errors import error_document, error_status
from gateway.surfaces.messages_headers import anthropic_headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

View = Callable[..., Awaitable[HttpResponseBase]]
Headers = Iterable[tuple[bytes, bytes]]
OnDisconnect = Callable[[Callable[[], None]], None]
Operations = Mapping[tuple[str, str | None], View]

logger = structlog.get_logger(__name__)

METHOD_NOT_ALLOWED = 405
# Below it failures have the shape of Anthropic's API.
MESSAGES_PATH = "/v1/messages"
# And here that of Google's, which newer clients of theirs leave out of the path.
GOOGLE_PATH, MODELS_PATH = "/v1beta/", "/v1/models"
# Views of fixed paths, resolved once; the bound keeps invented paths from growing it.
VIEWS_MAX = 64


class ClientGoneError(Exception):
    """The caller left before its answer was sent; nobody is there to be told."""


class SlimRequest(HttpRequest):
    """As much of a request as ninja and our operations touch.

    `on_disconnect` takes what is to be called when the caller is gone.
    """

    def __init__(
        self,
        *,
        scope: Scope,
        body: bytes,
        gateway: Gateway,
        request_id: str,
        depth_max: int,
        on_disconnect: OnDisconnect,
        work: Work,
    ) -> None:
        # No super(): it makes a dozen objects that nothing here reads.
        self.scope = scope
        self.path = self.path_info = scope["path"]
        self.method = scope["method"]
        self.META = {"REQUEST_METHOD": scope["method"], "QUERY_STRING": ""}
        self.COOKIES = {}
        self.content_type = "application/json"
        self.content_params = {}
        self.resolver_match = None
        self._body = body
        self._read_started = True
        self.gateway = gateway
        self.request_id = request_id
        self.json_depth_max = depth_max
        self.on_disconnect = on_disconnect
        self.work = work

    @property
    def headers(self) -> HttpHeaders:
        raise AttributeError("read scope['headers']")


class SlimHandler:
    """An ASGI application for the paths below /v1/ and /v1beta/.

    `operations`, by path and method, are called as they are; others through ninja's view of their path.
    """

    def __init__(
        self,
        *,
        operations: Operations,
        body_bytes_max: int,
        body_timeout_s: float,
        write_timeout_s: float,
        depth_max: int,
    ) -> None:
        self.body_bytes_max = body_bytes_max
        self.body_timeout_s = body_timeout_s
        self.write_timeout_s = write_timeout_s
        self._depth_max = depth_max
        self._operations = operations
        self._posted = frozenset(path.encode() for path, method in operations if method == "POST")
        self._views: dict[str, View] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send, gateway: Gateway) -> None:
        request_id = new_request_id()
        request_id_var.set(request_id)
        disconnect: asyncio.Future[Any] | None = None
        try:
            try:
                body = await self._body(scope, receive)
            except GatewayError as error:
                refusal = error_response(error, scope=scope, request_id=request_id)
                await self._send(send, refusal, request_id)
                return
            # From here on the next message can only be the disconnect.
            disconnect = asyncio.ensure_future(receive())
            response = await self.respond(
                scope, body, gateway=gateway, request_id=request_id, on_disconnect=partial(_when, disconnect)
            )
            await self._send(send, response, request_id)
        except ClientGoneError:
            logger.info("client_gone")
        finally:
            if disconnect is not None and not disconnect.done():
                disconnect.cancel()

    def is_posted(self, path: bytes) -> bool:
        """Whether a POST to the path, as it came, is one of the operations that are called as they are."""
        return path in self._posted

    def check_announced(self, headers: Headers) -> None:
        """Raises RequestTooLargeError where the body is announced as longer than its limit."""
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and int(value) > self.body_bytes_max:
                raise body_too_large(self.body_bytes_max)

    async def respond(
        self,
        scope: Scope,
        body: bytes,
        *,
        gateway: Gateway,
        request_id: str,
        on_disconnect: OnDisconnect,
        work: Work = UNCOUNTED,
    ) -> SlimResponse:
        """The operation's answer, or the error that it raised, as a response. Never raises."""
        request = SlimRequest(
            scope=scope,
            body=body,
            gateway=gateway,
            request_id=request_id,
            depth_max=self._depth_max,
            on_disconnect=on_disconnect,
            work=work,
        )
        error: GatewayError
        try:
            view, kwargs = self._view(request)
            response = await view(request, **kwargs)
            if response.status_code == METHOD_NOT_ALLOWED:
                allowed = response["Allow"].split(", ")
                raise MethodNotAllowedError(f"{request.method} is not allowed here.", allowed=allowed)  # noqa: TRY301 -- one renderer for all
            assert isinstance(response, SlimResponse), "every operation of /v1 answers on the slim path"
        except GatewayError as refusal:
            error = refusal
        except Http404:
            error = NotFoundError(f"There is no {request.path}; the paths are in /v1/openapi.json.")
        except Exception:
            logger.exception("request_crashed")
            error = InternalError("Something failed inside the gateway; its log has the request id.")
        else:
            return response
        return error_response(error, scope=scope, request_id=request_id)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        self.check_announced(scope["headers"])
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self.body_bytes_max:
                        raise body_too_large(self.body_bytes_max)
                    parts.append(part)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError as error:
            raise body_too_late(self.body_timeout_s) from error

    def _view(self, request: SlimRequest) -> tuple[View, dict[str, Any]]:
        view = self._operations.get((request.path, request.method)) or self._views.get(request.path)
        if view is not None:
            return view, {}
        match = resolve(request.path)
        if not match.kwargs and len(self._views) < VIEWS_MAX:
            self._views[request.path] = match.func
        return match.func, match.kwargs

    async def _send(self, send: Send, response: SlimResponse, request_id: str) -> None:
        headers = [(b"x-request-id", request_id.encode())]
        headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.headers_sent]
        if response.body is not None:
            headers.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if response.outbox is None:
            await send({"type": "http.response.body", "body": response.body or b""})
        else:
            await self._send_stream(send, response.outbox)

    async def _send_stream(self, send: Send, outbox: Outbox | TranslatedOutbox) -> None:
        """Send what comes; a caller that reads nothing for the write time-out is gone."""
        try:
            async for data in outbox.stream():
                async with asyncio.timeout(self.write_timeout_s):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                if outbox.is_left:
                    return
            await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError) as error:
            raise ClientGoneError from error
        finally:
            # After the last byte this changes nothing; before it, the pump settles by itself.
            outbox.abandon()


def is_google(scope: Scope) -> bool:
    """Whether one of Google's clients asks: OpenAI's post nothing to models, and have no such header."""
    path: str = scope["path"]
    if not path.startswith(MODELS_PATH):
        return path.startswith(GOOGLE_PATH)
    is_called = scope["method"] == "POST" and path != MODELS_PATH
    return is_called or any(name == GOOGLE_KEY_HEADER for name, _ in scope["headers"])


def error_response(error: GatewayError, *, scope: Scope, request_id: str) -> JsonResponse:
    """The refusal in the words of the API that was asked; counted."""
    metrics.failures(error.code).untold += 1
    headers = tuple(error.headers)
    if scope["path"].startswith(MESSAGES_PATH):
        headers += anthropic_headers(headers, request_id, wall_clock())
        body = error_document(error, request_id=request_id)
        return JsonResponse(body, status=error_status(error), headers=headers)
    body = gemini_errors.error_document(error) if is_google(scope) else error_body(error)
    return JsonResponse(body, status=error.http_status, headers=headers)


def body_too_large(limit_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"The body is larger than {limit_bytes} bytes; send less.")


def body_too_late(limit_s: float) -> RequestTimeoutError:
    return RequestTimeoutError(f"The body did not arrive within {limit_s:g} s; send it again.")


def _when(disconnect: "asyncio.Future[Any]", callback: Callable[[], None]) -> None:
    disconnect.add_done_callback(lambda done: None if done.cancelled() else callback())
