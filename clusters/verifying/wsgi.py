"""WSGI middleware before an engine: lets through what is signed, each body whole; the rest gets 401."""

import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from clusters.verifying.gate import Gate, read_body
from clusters.verifying.signatures import (
    BODY_BYTES_MAX,
    PATH_CHARACTERS,
    Verifier,
    clock_s,
    refusal_body,
)

logger = logging.getLogger("tollgate.verifying")

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WsgiVerifier(Gate):
    """WSGI middleware: lets through what is signed, each body whole; the rest gets 401 and nothing more."""

    def __init__(
        self,
        app: WsgiApp,
        *,
        verifier: Verifier | None = None,
        open_paths: Sequence[str] | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        super().__init__(verifier=verifier, open_paths=open_paths, body_bytes_max=body_bytes_max)
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = _wsgi_request(environ)
        if self._is_open(request):
            return self._app(environ, start_response)
        if problem := self._verifier.head_problem(**request, now_s=clock_s()):
            return _wsgi_refuse(start_response, status="401 Unauthorized", problem=problem)
        body = read_body(
            environ["wsgi.input"],
            length=environ.get("CONTENT_LENGTH") or "0",
            is_encoded=bool(environ.get("HTTP_TRANSFER_ENCODING")),
            bytes_max=self._body_bytes_max,
        )
        if body is None:
            problem = "the body is too long, broke off, or does not say its length"
            return _wsgi_refuse(start_response, status="413 Content Too Large", problem=problem)
        if problem := self._verifier.verify(**request, body=body, now_s=clock_s()):
            return _wsgi_refuse(start_response, status="401 Unauthorized", problem=problem)
        return self._app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)


def _wsgi_request(environ: Mapping[str, Any]) -> dict[str, Any]:
    """The target as it was sent, where the server tells it (gunicorn RAW_URI, uWSGI REQUEST_URI)."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    decoded = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    path = quote(decoded.encode("latin-1"), safe=PATH_CHARACTERS)
    names = {name: name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_")}
    return {
        "method": environ["REQUEST_METHOD"],
        "authority": environ.get("HTTP_HOST", ""),
        "path": target.partition("?")[0] if target else path,
        "query": environ.get("QUERY_STRING", ""),
        "headers": {lower: environ[name] for name, lower in names.items()},
    }


def _wsgi_refuse(start_response: Callable[..., Any], *, status: str, problem: str) -> Iterable[bytes]:
    logger.warning("refused reason=%s", problem)
    body = refusal_body(problem)
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
