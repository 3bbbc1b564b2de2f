"""A provider that answers what it was told to: recorded exchanges, replayed over a real socket."""

import contextlib
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

STOP_S_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An answer: a document, or the pieces of a body as they are sent."""

    status: int = 200
    document: object = None
    pieces: tuple[bytes, ...] = ()
    content_type: str = "application/json"
    headers: dict = field(default_factory=dict)

    @property
    def body(self):
        return self.pieces or (orjson.dumps(self.document),)


@dataclass(slots=True, kw_only=True)
class Received:
    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def document(self):
        return orjson.loads(self.body)


class FakeProvider:
    """`answer` is called with each request, in any thread, and gives the Replay."""

    def __init__(self, answer):
        self.answer = answer
        self.received = []
        self.url = ""


@contextmanager
def run_provider(answer, *, tls=None):
    """Serve until the block ends; over TLS where there is a context for it."""
    provider = FakeProvider(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(
                method=self.command, path=self.path, headers=headers, body=self.rfile.read(length)
            )
            provider.received.append(request)
            replay = provider.answer(request)
            self.send_response(replay.status)
            self.send_header("content-type", replay.content_type)
            for name, value in replay.headers.items():
                self.send_header(name, value)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            # Who asked may have left: a gateway does, once it has waited for long enough.
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                for piece in replay.body:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST  # noqa: N815 -- the parent's name

        def log_message(self, format, *args):  # noqa: A002 -- the parent's name
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        provider.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join(STOP_S_MAX)
        server.server_close()
