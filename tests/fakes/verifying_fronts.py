"""The verifying middlewares and the verifying service for tests, each as a function that asks them."""

import io
import socket
import threading
from contextlib import contextmanager

from clusters.verifying import AsgiVerifier, WsgiVerifier
from clusters.verifying.service import VerifyingServer

FRONTS = ("asgi", "wsgi", "envoy", "nginx")
ANSWER_BYTES_MAX = 65_536


@contextmanager
def run_front(kind, *, verifier):
    """A function of a request that returns the status it got; 0 where the connection just ended."""
    if kind in {"asgi", "wsgi"}:
        yield {"asgi": ask_asgi, "wsgi": ask_wsgi}[kind](verifier)
        return
    with VerifyingServer(("127.0.0.1", 0), verifier=verifier, front=kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield lambda request: ask_service(server.server_address, request, front=kind)
        finally:
            server.shutdown()
            thread.join()


def ask_asgi(verifier):
    seen = []

    async def app(scope, receive, send):
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = AsgiVerifier(app, verifier=verifier, open_paths=())

    def ask(request):
        scope = {
            "type": "http",
            "method": request["method"],
            "path": "/decoded-and-not-to-be-looked-at",
            "raw_path": request["path"].encode("latin-1"),
            "query_string": request["query"].encode("latin-1"),
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in {"host": request["authority"], **request["headers"]}.items()
            ],
        }
        parts = [{"type": "http.request", "body": request["body"], "more_body": False}]
        sent = []

        async def receive():
            return parts.pop()

        async def send(message):
            sent.append(message)

        drive(middleware(scope, receive, send))
        assert sent[0]["status"] != 200 or seen.pop() == request["body"]
        return sent[0]["status"]

    return ask


def drive(coroutine):
    """Nothing here waits for anything: one step ends it."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the middleware waited")


def ask_wsgi(verifier):
    seen = []

    def app(environ, start_response):
        seen.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b""]

    middleware = WsgiVerifier(app, verifier=verifier, open_paths=())

    def ask(request):
        query = f"?{request['query']}" if request["query"] else ""
        environ = {
            "REQUEST_METHOD": request["method"],
            "RAW_URI": f"{request['path']}{query}",
            "PATH_INFO": "/decoded-and-not-to-be-looked-at",
            "QUERY_STRING": request["query"],
            "HTTP_HOST": request["authority"],
            "CONTENT_LENGTH": str(len(request["body"])),
            "wsgi.input": io.BytesIO(request["body"]),
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request["headers"].items()},
        }
        statuses = []
        list(middleware(environ, lambda status, _headers: statuses.append(int(status.split()[0]))))
        assert statuses != [200] or seen.pop() == request["body"]
        return statuses[0]

    return ask


def ask_service(address, request, *, front):
    """As nginx and Envoy do, byte for byte, since no client would send some of what is tried."""
    target = request["path"] + (f"?{request['query']}" if request["query"] else "")
    body = b"" if front == "nginx" else request["body"]
    line = f"{request['method']} {target} HTTP/1.1"
    own = {"host": request["authority"], "connection": "close"}
    if front == "nginx":
        line = "GET /_verify HTTP/1.0"
        own |= {"x-original-method": request["method"], "x-original-uri": target}
    else:
        own |= {"content-length": str(len(body))}
    lines = [line, *(f"{name}: {value}" for name, value in {**own, **request["headers"]}.items())]
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(ANSWER_BYTES_MAX):
            answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
