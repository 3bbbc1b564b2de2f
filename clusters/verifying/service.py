"""Answers nginx (auth_request) and Envoy (ext_authz by HTTP) whether a request was signed."""

import argparse
import logging
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from clusters.verifying.gate import read_body
from clusters.verifying.nonces import NonceFile, NonceMemory
from clusters.verifying.signatures import (
    BODY_BYTES_MAX,
    SKEW_S,
    FileVerifier,
    Verifier,
    VerifierError,
    clock_s,
    joined_headers,
    refusal_body,
)

logger = logging.getLogger("tollgate.verifying")

THREADS_MAX = 128
IDLE_S_MAX = 60


class VerifyingServer(ThreadingHTTPServer):
    """Answers 200 or 401 to the questions of nginx (auth_request) or Envoy (ext_authz by HTTP).

    nginx asks without the body, and names the request in X-Original-Method and X-Original-URI, which it
    must set itself; Envoy repeats the request as it is, with its body where `with_request_body` says so.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        verifier: Verifier,
        front: str,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        """`front` is nginx or envoy: never told by the request, since that is the caller's."""
        if front not in {"nginx", "envoy"}:
            raise VerifierError(f"the front {front!r} is unknown: use nginx or envoy")
        self.verifier = verifier
        self.front = front
        self.body_bytes_max = body_bytes_max
        self._slots = threading.BoundedSemaphore(THREADS_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A connection more than `THREADS_MAX` waits, unread, until one ends."""
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve nginx's or Envoy's questions until the process is ended."""
    parser = argparse.ArgumentParser(description="Verify signed requests for nginx or Envoy.")
    parser.add_argument("--front", required=True, choices=("nginx", "envoy"), help="who asks")
    parser.add_argument("--secrets", required=True, type=Path, help="a file of secrets, one a line")
    parser.add_argument("--listen", default="127.0.0.1:9180", help="host:port (default %(default)s)")
    parser.add_argument("--nonces", type=Path, help="a file that keeps used nonces over a restart")
    parser.add_argument("--skew", type=int, default=SKEW_S, help="seconds that clocks may be apart")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host, _, port = options.listen.rpartition(":")
    nonces = NonceFile(options.nonces) if options.nonces else NonceMemory()
    try:
        verifier = FileVerifier(path=options.secrets, skew_s=options.skew, nonces=nonces)
        server = VerifyingServer((host.strip("[]"), int(port)), verifier=verifier, front=options.front)
    except (VerifierError, OSError, ValueError) as error:
        parser.error(str(error))
    logger.info("serving front=%s address=%s:%s", options.front, *server.server_address[:2])
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tollgate-verifying"
    sys_version = ""
    timeout = IDLE_S_MAX
    server: VerifyingServer

    def do_GET(self) -> None:
        headers = joined_headers((name.lower(), value) for name, value in self.headers.items())
        method, target, body = self.command, self.path, self._body()
        if body is None:
            self.close_connection = True
            return self._answer(413, "the body is too long, broke off, or does not say its length")
        seen: bytes | None = body
        if self.server.front == "nginx":
            method, target = headers.get("x-original-method", ""), headers.get("x-original-uri", "")
            seen = None
        path, _, query = target.partition("?")
        problem = self.server.verifier.verify(
            method=method,
            authority=headers.get("host", ""),
            path=path,
            query=query,
            headers=headers,
            body=seen,
            now_s=clock_s(),
        )
        if problem is not None:
            logger.warning("refused method=%s path=%r reason=%s", method, path[:200], problem)
        return self._answer(200 if problem is None else 401, problem)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 -- the base class's names

    def _body(self) -> bytes | None:
        return read_body(
            self.rfile,
            length=self.headers.get("content-length", "0"),
            is_encoded="transfer-encoding" in self.headers,
            bytes_max=self.server.body_bytes_max,
        )

    def _answer(self, status: int, problem: str | None) -> None:
        body = b"" if problem is None else refusal_body(problem)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        logger.debug(format, *args)
