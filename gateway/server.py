"""The ASGI server: uvicorn, told to let the application drain before it closes anything."""

import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Protocol

import structlog
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = structlog.get_logger(__name__)

# Longer than the usual idle time-out of a load balancer (60 s), so that it is never we who close a
# connection on which it is just sending a request.
KEEP_ALIVE_S = 75
BACKLOG = 2048
# So many new objects before the collector looks at them (700 is Python's own).
GARBAGE_OBJECTS_MIN = 20_000
# What streams get beyond the drain limit to send the error event with which the application ends them.
CLOSING_S = 5
# Uvicorn's own: the application or the port refused to start.
STARTUP_EXIT_CODE = 3


class DrainingApplication(Protocol):
    """An ASGI application that can be told to end: no new work, and an end to the old in time."""

    def begin_drain(self, *, timeout_s: float) -> None:
        """Answer /health with 503 from now on, and end the streams still open after `timeout_s`."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""


class DrainingServer(Server):
    """Uvicorn, with a drain.

    1. The first SIGTERM or SIGINT: `begin_drain` of the application, then uvicorn's own shutdown: no new
       connections, idle ones closed, running requests awaited for the drain limit and `CLOSING_S`.
    2. A second one: running requests are cut off; the ledger recovers what they held at the next start.
    3. The process ends with exit code 0: the signal is not raised again.
    """

    def __init__(self, config: Config, *, application: DrainingApplication, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._application = application
        self._drain_timeout_s = drain_timeout_s

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets=sockets)
        # What is there now stays: the collector need not look at it again, and may come less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS_MIN, *gc.get_threshold()[1:])

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self._application.begin_drain(timeout_s=self._drain_timeout_s)
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            # The process is ending: a signal that comes now must not turn a clean end into a failure.
            for number in handled:
                signal.signal(number, signal.SIG_IGN)


def run_server(
    *,
    application: DrainingApplication,
    host: str,
    port: int,
    drain_timeout_s: int,
    trusted_proxies: Sequence[str] = (),
    is_port_shared: bool = False,
    connection_class: type[HttpToolsProtocol] = HttpToolsProtocol,
) -> None:
    """Serve until a signal ends it. SystemExit(3) where the application or the port refuses to start.

    `is_port_shared`: other processes listen on the same port, and the kernel deals out the connections.
    """
    config = Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http=connection_class,
        ws="websockets-sansio",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        # X-Forwarded-For and -Proto are anyone's to set: believed only from a named proxy.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_timeout_s + CLOSING_S,
    )
    server = DrainingServer(config, application=application, drain_timeout_s=drain_timeout_s)
    if is_port_shared:
        server.run(sockets=[shared_socket(host=host, port=port)])
    else:
        server.run()


def shared_socket(*, host: str, port: int) -> socket.socket:
    """A socket on a port that this user's other processes may bind too. SystemExit(3) where it is taken."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    shared = socket.socket(family, kind, protocol)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        shared.bind(address)
    except OSError as error:
        shared.close()
        logger.warning("port_is_taken", host=host, port=port, error=str(error))
        raise SystemExit(STARTUP_EXIT_CODE) from error
    return shared
