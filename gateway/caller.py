"""A caller's connection: uvicorn's own, with a short way for completions from the parser to the operation.

By ASGI a request takes a second task that waits for its disconnect, a dict for each message and two writes
(ARCHITECTURE.md, Decisions). Everything else on the connection goes by ASGI.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import Application
from gateway.errors import GatewayError
from gateway.identifiers import new_request_id
from gateway.lifespan import Gateway
from gateway.logging import request_id_var
from gateway.outbox import Headers, Outbox
from gateway.responses import SlimResponse
from gateway.slim import Scope, SlimHandler, body_too_large, body_too_late, error_response
from gateway.surface_answers import TranslatedOutbox

logger = structlog.get_logger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class NoEvent:
    """In the place of the event by which uvicorn wakes an ASGI application: nobody waits for it here."""

    def set(self) -> None:
        """Nobody waits."""


class Turn:
    """One request and its response. What uvicorn's connection asks of its own kind of it is here too."""

    message_event = NoEvent()

    def __init__(self, *, scope: Scope, slim: SlimHandler, gateway: Gateway, keep_alive: bool) -> None:
        self.slim = slim
        self.keep_alive = keep_alive
        self._scope = scope
        self._gateway = gateway
        self.parts: list[bytes] = []
        self.size_bytes = 0
        # Its body is there, or will not be waited for: then there is a refusal.
        self.is_whole = False
        self.is_read = False
        self.refusal: GatewayError | None = None
        self.is_begun = False
        self.response_complete = False
        self.disconnected = False
        self.timer: asyncio.TimerHandle | None = None
        self._on_disconnect: Callable[[], None] | None = None

    def refuse(self, refusal: GatewayError) -> None:
        """Without its body: what comes of it is dropped."""
        self.parts.clear()
        self.refusal, self.is_whole = refusal, True

    async def response(self, request_id: str) -> SlimResponse:
        """Never raises. The body is let go of here: an open stream does not keep it."""
        if self.refusal is not None:
            return error_response(self.refusal, path=self._scope["path"], request_id=request_id)
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts = []
        return await self.slim.respond(
            self._scope,
            body,
            gateway=self._gateway,
            request_id=request_id,
            on_disconnect=self.on_disconnect,
        )

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call back when the caller is gone, at once if it is."""
        self._on_disconnect = callback
        if self.disconnected:
            callback()

    def lose_caller(self) -> None:
        if self.response_complete or self.disconnected:
            return
        self.disconnected = True
        if self._on_disconnect is not None:
            self._on_disconnect()

    def end_wait(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class CallerProtocol(HttpToolsProtocol):
    """uvicorn's `http` class for our application; under another one, or behind proxies, uvicorn's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app if isinstance(self.app, Application) else None
        # The request whose bytes come now; None: uvicorn has it.
        self._turn: Turn | None = None
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._default_head = b""
        # Those whose end the connection's end is: several where requests came ahead of their answers.
        self._turns: list[Turn] = []

    # --- From the parser

    def on_headers_complete(self) -> None:
        application = self._application
        if application is None or application.gateway is None or not self._is_completion(application.slim):
            self._turn = None
            super().on_headers_complete()
            return
        scope: Scope = cast(Scope, self.scope)
        before: Turn | RequestResponseCycle | None = self.cycle
        scope["method"], scope["path"] = "POST", self.url.decode("ascii")
        turn = Turn(
            scope=scope,
            slim=application.slim,
            gateway=application.gateway,
            keep_alive=self.parser.should_keep_alive(),
        )
        self._turn = self.cycle = turn  # type: ignore[assignment]
        self._turns.append(turn)
        try:
            turn.slim.check_announced(scope["headers"])
        except GatewayError as error:
            turn.refuse(error)
        if before is None or before.response_complete:
            self._start_asgi_task(turn, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((turn, self.app))  # type: ignore[arg-type]

    def _is_completion(self, slim: SlimHandler) -> bool:
        parser = self.parser
        return (
            slim.is_posted(self.url)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        turn = self._turn
        if turn is None:
            super().on_body(body)
            return
        if turn.is_whole:
            return
        turn.size_bytes += len(body)
        if turn.size_bytes > turn.slim.body_bytes_max:
            self._refuse(turn, body_too_large(turn.slim.body_bytes_max))
        else:
            turn.parts.append(body)

    def on_message_complete(self) -> None:
        turn = self._turn
        if turn is None:
            super().on_message_complete()
            return
        turn.is_read = True
        turn.end_wait()
        if not turn.is_whole:
            turn.is_whole = True
            self._begin(turn)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        turn = self._turn
        if turn is not None and not turn.is_read and turn.timer is None:
            if self.expect_100_continue and not turn.is_whole:
                self.transport.write(CONTINUE)
            turn.timer = self.loop.call_later(turn.slim.body_timeout_s, self._on_late, turn)

    def connection_lost(self, exc: Exception | None) -> None:
        for turn in self._turns:
            turn.lose_caller()
        self._turns.clear()
        if self._turn is not None:
            self._turn.end_wait()
        super().connection_lost(exc)

    def _on_late(self, turn: Turn) -> None:
        """Its body did not come in time: the connection is good for nothing else."""
        turn.keep_alive = False
        if turn.response_complete:
            self.transport.close()
        elif not turn.is_whole:
            self._refuse(turn, body_too_late(turn.slim.body_timeout_s))

    def _refuse(self, turn: Turn, refusal: GatewayError) -> None:
        turn.refuse(refusal)
        self._begin(turn)

    # --- To the operation, and back

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """It is this request's turn; uvicorn calls it also when the answers before are sent."""
        if not isinstance(cycle, Turn):
            super()._start_asgi_task(cycle, app)
            return
        cycle.is_begun = True
        if cycle.is_whole:
            self._run(cycle)

    def _begin(self, turn: Turn) -> None:
        if turn.is_begun and not turn.disconnected:
            self._run(turn)

    def _run(self, turn: Turn) -> None:
        task = self.loop.create_task(self._serve(turn))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, turn: Turn) -> None:
        try:
            request_id = new_request_id()
            request_id_var.set(request_id)
            response = await turn.response(request_id)
            if turn.disconnected:
                if response.outbox is not None:
                    response.outbox.abandon()
            elif response.outbox is None:
                self.transport.write(self._head(turn, response, request_id) + (response.body or b""))
                self._complete(turn)
            else:
                self.transport.write(self._head(turn, response, request_id))
                if await self._send_stream(turn, response.outbox):
                    self._complete(turn)
                else:
                    logger.info("client_gone")
                    self.transport.close()
        except Exception:
            logger.exception("request_crashed")
            self.transport.close()

    def _head(self, turn: Turn, response: SlimResponse, request_id: str) -> bytes:
        if self.server_state.default_headers is not self._default_headers:
            self._default_headers = self.server_state.default_headers
            self._default_head = b"".join(b"%b: %b\r\n" % pair for pair in self._default_headers)
        return b"".join(
            (
                STATUS_LINE[response.status_code],
                self._default_head,
                b"x-request-id: %b\r\n" % request_id.encode(),
                header_lines(response.headers_sent),
                b"transfer-encoding: chunked\r\n"
                if response.outbox is not None
                else b"content-length: %d\r\n" % len(response.body or b""),
                b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n",
            )
        )

    async def _send_stream(self, turn: Turn, outbox: Outbox | TranslatedOutbox) -> bool:
        """Send what comes; False where the caller is gone, or read nothing for the write time-out."""
        try:
            async for data in outbox.stream():
                if turn.disconnected:
                    return False
                self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
                if self.flow.write_paused:
                    async with asyncio.timeout(turn.slim.write_timeout_s):
                        await self.flow.drain()
                if outbox.is_left:
                    break
            if turn.disconnected:
                return False
            self.transport.write(LAST_CHUNK)
        except TimeoutError:
            return False
        finally:
            # After the last byte this changes nothing; before it, the pump settles by itself.
            outbox.abandon()
        return True

    def _complete(self, turn: Turn) -> None:
        turn.response_complete = True
        self._turns.remove(turn)
        if not turn.keep_alive:
            self.transport.close()
        self.on_response_complete()


def header_lines(headers: Headers) -> bytes:
    """The lines of a response's head. Raises ValueError where a header would be more than one line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if not lines.count("\n") == lines.count("\r") == len(headers):
        raise ValueError("a header holds a line break")
    return lines.encode("latin-1")
