"""Serves a stand-in with uvicorn, in a process or a thread of its own."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clusters.demo.exchange import TRANSPORT
from clusters.demo.standin import Standin

BACKLOG = 1024
# uvicorn refreshes its Date header at this interval.
HOUSEKEEPING_S = 0.1
SHUTDOWN_TURN_S = 0.005
SHUTDOWN_TURNS_MAX = 400


class TransportProtocol(HttpToolsProtocol):
    """Puts the transport in the ASGI scope: a stand-in cuts connections on purpose."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][TRANSPORT] = self.transport


class StandinServer(uvicorn.Server):
    """Ends at once and with exit code 0, on SIGTERM, SIGINT or `stop`.

    uvicorn's own server polls ten times a second, waits for streams to end and dies by the signal.
    """

    def __init__(self, app: Standin) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=TransportProtocol,
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                backlog=BACKLOG,
            )
        )
        self.app = app
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Call it in the server's loop."""
        self.should_exit = True
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Only the main thread may handle signals; a server in a thread is stopped by its owner.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            try:
                await asyncio.wait_for(self._stopping.wait(), HOUSEKEEPING_S)
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        self.app.stop()
        for _ in range(SHUTDOWN_TURNS_MAX):
            if not self.server_state.connections and not self.server_state.tasks:
                return
            await asyncio.sleep(SHUTDOWN_TURN_S)


def serve(*, app: Standin, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called with the base URL, port 0 takes a free one.

    Raises OSError when the port is taken.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with listen(host=host, port=port) as listener:
        ready(base_url(listener))
        StandinServer(app).run(sockets=[listener])


def listen(*, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
