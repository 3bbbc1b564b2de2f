"""A caller's connection: uvicorn's own, with a short way for completions from the parser to the operation.

By ASGI a request takes a second task that waits for its disconnect, a dict for each message and two writes
(ARCHITECTURE.md, Decisions). Everything else on the connection goes by ASGI.
"""

import asyncio
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import structlog
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway import metrics
from gateway.asgi import Application
from gateway.errors import GatewayError, OverloadedError, error_body
from gateway.identifiers import new_request_id
from gateway.lifespan import Gateway
from gateway.logging import request_id_var
from gateway.outbox import Headers, Outbox
from gateway.overload import UNCOUNTED, Work
from gateway.responses import JsonResponse, SlimResponse
from gateway.slim import MESSAGES_PATH, Scope, SlimHandler, body_too_large, body_too_late, error_response
from gateway.surface_answers import TranslatedOutbox

logger = structlog.get_logger(__name__)

OVERLOADED = "This gateway has more to do than it can; send the request again."
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})(?=\r\n)")
# With one of them a request asks for more than an answer.
SPECIAL_HEADERS = (b"\r\nconnection:", b"\r\nexpect:", b"\r\ntransfer-encoding:", b"\r\nupgrade:")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class NoEvent:
    """In the place of the event by which uvicorn wakes an ASGI application: nobody waits for it here."""

    def set(self) -> None:
        """Nobody waits."""


class Line(list[Any]):
    """In the place of uvicorn's deque for requests sent ahead of their turn: an empty one takes 760 bytes."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class Flow(FlowControl):
    """uvicorn's, with an event only where writing is held up: one takes 800 bytes of each connection."""

    def __init__(self, transport: asyncio.Transport) -> None:  # no super(): it makes the event
        self._transport = transport
        self.read_paused = self.write_paused = False

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._is_writable_event = asyncio.Event()

    def resume_writing(self) -> None:
        if self.write_paused:
            self.write_paused = False
            self._is_writable_event.set()

    async def drain(self) -> None:
        if self.write_paused:
            await self._is_writable_event.wait()


class Turn:
    """One request and its response. What uvicorn's connection asks of its own kind of it is here too."""

    message_event = NoEvent()

    def __init__(self, *, scope: Scope, slim: SlimHandler, gateway: Gateway, keep_alive: bool) -> None:
        self.slim = slim
        self.door = gateway.door
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
        self.work = UNCOUNTED
        self._on_disconnect: Callable[[], None] | None = None

    def refuse(self, refusal: GatewayError) -> None:
        """Without its body: what comes of it is dropped."""
        self.parts.clear()
        self.refusal, self.is_whole = refusal, True

    def refused(self, request_id: str) -> SlimResponse:
        assert self.refusal is not None
        return error_response(self.refusal, scope=self._scope, request_id=request_id)

    async def response(self, request_id: str) -> SlimResponse:
        """Never raises. The body is let go of here: an open stream does not keep it."""
        if self.refusal is not None:
            return self.refused(request_id)
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts = []
        return await self.slim.respond(
            self._scope,
            body,
            gateway=self._gateway,
            request_id=request_id,
            on_disconnect=self.on_disconnect,
            work=self.work,
        )

    def let_go(self) -> None:
        """The answer streams: its connection keeps no header of the request."""
        self._scope["headers"].clear()

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
    """uvicorn's `http` class for our application; under another one, uvicorn's own."""

    # Beside uvicorn's own attributes: with more than 30 in its dict an instance takes 1,400 bytes more.
    __slots__ = (
        "_application",
        "_away_at_s",
        "_default_head",
        "_default_headers",
        "_is_inside",
        "_turn",
        "_turns",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipeline = Line()  # type: ignore[assignment]
        # Whom the request came from by way of a proxy is nothing that completions ask for.
        app = self.app.app if isinstance(self.app, ProxyHeadersMiddleware) else self.app
        self._application = app if isinstance(app, Application) else None
        # The request whose bytes come now; None: uvicorn has it.
        self._turn: Turn | None = None
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._default_head = b""
        # Within a request: what comes now is no beginning.
        self._is_inside = False
        self._away_at_s = float("-inf")
        # Those whose end the connection's end is: several where requests came ahead of their answers.
        self._turns: list[Turn] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)

    # --- From the parser

    def on_message_begin(self) -> None:
        self._is_inside = True
        super().on_message_begin()

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
        self._is_inside = False
        if turn is None:
            super().on_message_complete()
            return
        turn.is_read = True
        turn.end_wait()
        if not turn.is_whole:
            turn.is_whole = True
            self._begin(turn)

    def data_received(self, data: bytes) -> None:
        before: Turn | RequestResponseCycle | None = self.cycle
        is_between = not self._is_inside and (before is None or before.response_complete)
        if is_between and self._is_turned_away(data):
            return
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
            self._enter(cycle)

    def _begin(self, turn: Turn) -> None:
        if turn.is_begun and not turn.disconnected:
            self._enter(turn)

    def _enter(self, turn: Turn) -> None:
        if turn.door is None or turn.refusal is not None:
            self._run(turn, UNCOUNTED)
        else:
            turn.door.enter(partial(self._run, turn), partial(self._turn_away, turn))

    def _turn_away(self, turn: Turn) -> None:
        """It found no room in time."""
        if turn.disconnected:
            return
        metrics.OVERLOAD_REFUSED.untold += 1
        request_id = new_request_id()
        turn.refuse(OverloadedError(OVERLOADED))
        response = turn.refused(request_id)
        self.transport.write(self._head(turn, response, request_id) + (response.body or b""))
        self._complete(turn)

    def _is_turned_away(self, data: bytes) -> bool:
        """Whether it is a whole request that was refused unread: the cheapest answer there is."""
        application = self._application
        if application is None or application.gateway is None:
            return False
        door = application.gateway.door
        if door is None or not door.is_closed or not is_whole_request(data, slim=application.slim):
            return False
        metrics.OVERLOAD_REFUSED.untold += 1
        metrics.failures(OverloadedError.code).untold += 1
        self._away_at_s = self.loop.time()
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[OverloadedError.status],
                    self._server_head(),
                    b"x-request-id: %b\r\n" % new_request_id().encode(),
                    away_answer(),
                )
            )
        )
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Idle for so long, unless it was turned away since."""
        left_s = self._away_at_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _run(self, turn: Turn, work: Work) -> None:
        if turn.disconnected:
            # It left while it waited for its turn.
            work.end()
            return
        turn.work = work
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
                turn.let_go()
                if await self._send_stream(turn, response.outbox):
                    self._complete(turn)
                else:
                    logger.info("client_gone")
                    self.transport.close()
        except Exception:
            logger.exception("request_crashed")
            self.transport.close()
        finally:
            if not turn.work.is_pumps:
                turn.work.end()

    def _head(self, turn: Turn, response: SlimResponse, request_id: str) -> bytes:
        return b"".join(
            (
                STATUS_LINE[response.status_code],
                self._server_head(),
                b"x-request-id: %b\r\n" % request_id.encode(),
                header_lines(response.headers_sent),
                b"transfer-encoding: chunked\r\n"
                if response.outbox is not None
                else b"content-length: %d\r\n" % len(response.body or b""),
                b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n",
            )
        )

    def _server_head(self) -> bytes:
        """The server's own headers: the date, made once a second."""
        if self.server_state.default_headers is not self._default_headers:
            self._default_headers = self.server_state.default_headers
            self._default_head = b"".join(b"%b: %b\r\n" % pair for pair in self._default_headers)
        return self._default_head

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


def is_whole_request(data: bytes, *, slim: SlimHandler) -> bool:
    """Whether these bytes are one completion request, from its first to its last."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or not data.startswith(b"POST "):
        return False
    line_end = data.find(b"\r\n")
    path, _, version = data[len(b"POST ") : line_end].partition(b" ")
    if version != b"HTTP/1.1" or not slim.is_posted(path) or path.startswith(MESSAGES_PATH.encode()):
        return False
    head = data[line_end : end + 2].lower()
    if any(name in head for name in SPECIAL_HEADERS):
        return False
    lengths = LENGTH.findall(head)
    return len(lengths) == 1 and int(lengths[0]) == len(data) - end - len(b"\r\n\r\n")


@cache
def away_answer() -> bytes:
    """What follows the request id where a request is refused unread, in OpenAI's words."""
    error = OverloadedError(OVERLOADED)
    response = JsonResponse(error_body(error), status=error.http_status, headers=error.headers)
    lines, body = header_lines(response.headers_sent), response.body or b""
    return b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)
