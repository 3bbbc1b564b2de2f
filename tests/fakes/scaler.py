"""A fake scaler: a wake hook, and where nobody listens yet a stand-in that starts when it is asked for."""

import socket
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from tests.fakes.standin_server import run_standin

STOP_S_MAX = 5.0


class RunningHook:
    """What it was sent: (path, headers by lower-case name, body); `status` and `answer` are what it says."""

    def __init__(self, server):
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}/wake"
        self.received = []
        self.status, self.answer = 202, b""
        self.on_call = None

    @property
    def asked(self):
        return [orjson.loads(body) for _, _, body in self.received]

    def take(self, path, headers, body):
        self.received.append((path, {name.lower(): value for name, value in headers.items()}, body))
        if self.on_call is not None and self.status < 300:
            self.on_call()


@contextmanager
def run_hook():
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            hook.take(self.path, dict(self.headers), body)
            self.send_response(hook.status)
            if 300 <= hook.status < 400:
                self.send_header("location", hook.url)
            self.send_header("content-length", str(len(hook.answer)))
            self.end_headers()
            self.wfile.write(hook.answer)

        def log_message(self, *_args):
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = RunningHook(server)
    thread = threading.Thread(target=server.serve_forever, name="wake-hook")
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join(STOP_S_MAX)
        server.server_close()


class RunningScaler:
    """`url` is where the cluster will be; `standin` is None until it is there."""

    def __init__(self, *, hook, settings, warm_up_s, stack):
        self.hook, self.standin = hook, None
        self._settings, self._warm_up_s, self._stack = settings, warm_up_s, stack
        self._lock = threading.Lock()
        self._timer = None
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self._port = unused.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        hook.on_call = self.wake

    def wake(self):
        """Start the cluster, once, after its warm-up."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(self._warm_up_s, self._start)
                self._timer.start()

    def stop(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join(STOP_S_MAX)

    def _start(self):
        self.standin = self._stack.enter_context(run_standin(self._settings, port=self._port))


@contextmanager
def run_scaler(settings, *, warm_up_s=0.0):
    """A cluster that is cold until its hook is called, and serves `warm_up_s` later."""
    with run_hook() as hook, ExitStack() as stack:
        scaler = RunningScaler(hook=hook, settings=settings, warm_up_s=warm_up_s, stack=stack)
        try:
            yield scaler
        finally:
            scaler.stop()
