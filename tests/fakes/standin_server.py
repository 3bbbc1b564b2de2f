"""A real upstream for tests: a Standin behind uvicorn, on a free port, in a thread of its own."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass

from clusters.demo.serving import StandinServer, base_url, listen
from clusters.demo.standin import Standin

START_S_MAX = 10
STOP_S_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStandin:
    """`app.records` and `app.received` are the upstream's own account of each attempt."""

    url: str
    app: Standin

    def set_fault(self, kind, count=1, *, after_tokens=None, retry_after_s=None):
        """A fault for the next `count` requests it fits; None means until cleared."""
        self.app.faults.add(kind=kind, count=count, after_tokens=after_tokens, retry_after_s=retry_after_s)

    def clear_faults(self):
        self.app.faults.clear()

    async def ended_records(self, count):
        """The records, once there are `count`: a cut or stalled request ends after its client."""
        while len(self.app.records) < count:  # noqa: ASYNC110 -- they grow in another thread
            await asyncio.sleep(0.002)
        return list(self.app.records)


@contextmanager
def run_standin(settings, *, host="127.0.0.1", port=0):
    """Serve until the block ends; open streams are cut then. A given port may be served again."""
    app = Standin(settings)
    with listen(host=host, port=port) as listener:
        server = ThreadedServer(app)
        thread = threading.Thread(target=server.run, args=([listener],), name=settings.name)
        thread.start()
        try:
            assert server.has_started.wait(START_S_MAX)
            yield RunningStandin(url=base_url(listener), app=app)
        finally:
            server.loop.call_soon_threadsafe(server.stop)
            thread.join(STOP_S_MAX)
            assert not thread.is_alive()


class ThreadedServer(StandinServer):
    def __init__(self, app):
        super().__init__(app)
        self.has_started = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.has_started.set()
