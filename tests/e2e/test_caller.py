"""A caller's connection, byte by byte: keep-alive, pipelining, bodies in pieces, announced or late."""

import contextlib
import http.client
import socket
import time

import orjson
import pytest

from tests.e2e.fleet import CHAT_PATH
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

HUGE_BYTES = 11 * 2**20
# The tests' gateway waits a second for a body.
LATE_S_MAX = 8.0


@pytest.fixture
def entered(fleet):
    fleet.add_cluster()
    fleet.issue_key()
    return fleet.ready()


@contextlib.contextmanager
def line_to(fleet):
    with socket.create_connection(("127.0.0.1", fleet.gateway.port), timeout=CLIENT_TIMEOUT_S) as line:
        yield line


def head_of(fleet, *, length, extra="", version="1.1", path=CHAT_PATH):
    return (
        f"POST {path} HTTP/{version}\r\nhost: test\r\nauthorization: Bearer {fleet.keys[0].key}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n"
    ).encode()


def chat_request(fleet, *, extra="", version="1.1", path=CHAT_PATH, **members):
    body = orjson.dumps(fleet.chat(**members))
    return head_of(fleet, length=len(body), extra=extra, version=version, path=path) + body


def models_request(fleet):
    return (
        f"GET /v1/models HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {fleet.keys[0].key}\r\n\r\n".encode()
    )


class Answers:
    """Reads responses off a line, one after the other."""

    def __init__(self, line):
        self._line = line
        self._file = line.makefile("rb")

    def makefile(self, _mode):
        """As http.client asks of a socket; the file is shared, as answers follow each other in it."""
        return _Kept(self._file)

    def next(self):
        """(status, headers, document)."""
        response = http.client.HTTPResponse(self)
        response.begin()
        body = response.read()
        return response.status, dict(response.getheaders()), orjson.loads(body) if body else None

    def is_at_end(self):
        return self._file.read(1) == b""


class _Kept:
    """A file that is not closed with a response."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def close(self):
        """The next response is read from it."""


def test_requests_sent_ahead_are_answered_in_their_order(entered):
    with line_to(entered) as line:
        line.sendall(
            chat_request(entered, max_tokens=3)
            + models_request(entered)
            + chat_request(entered, max_tokens=5)
            + chat_request(entered, max_tokens=7)
        )
        answers = Answers(line)
        first, second, third, fourth = [answers.next() for _ in range(4)]

    assert [status for status, _, _ in (first, second, third, fourth)] == [200, 200, 200, 200]
    assert second[2]["object"] == "list"
    tokens = [document["usage"]["completion_tokens"] for _, _, document in (first, third, fourth)]
    assert tokens == [3, 5, 7]
    assert [row["outcome"] for row in entered.settled_rows(entered.keys[0], count=3)] == ["ok"] * 3


def test_body_may_come_in_pieces(entered):
    request = chat_request(entered, max_tokens=4)
    with line_to(entered) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), 40):
            line.sendall(request[at : at + 40])
            time.sleep(0.002)
        status, headers, document = Answers(line).next()

    assert (status, document["usage"]["completion_tokens"]) == (200, 4)
    assert headers["x-request-id"].startswith("req_")
    assert "date" in headers
    assert "connection" not in headers


def test_caller_who_asks_to_continue_is_told_to(entered):
    body = orjson.dumps(entered.chat(max_tokens=2))
    with line_to(entered) as line:
        line.sendall(head_of(entered, length=len(body), extra="expect: 100-continue\r\n"))
        told = line.recv(1000)
        line.sendall(body)
        status, _, document = Answers(line).next()

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (status, document["usage"]["completion_tokens"]) == (200, 2)


@pytest.mark.parametrize(("version", "extra"), [("1.0", ""), ("1.1", "connection: close\r\n")])
def test_caller_who_asks_once_is_closed_after_the_answer(entered, version, extra):
    with line_to(entered) as line:
        line.sendall(chat_request(entered, version=version, extra=extra, max_tokens=2))
        answers = Answers(line)
        status, headers, _ = answers.next()

        assert (status, headers["connection"]) == (200, "close")
        assert answers.is_at_end()


def test_path_with_a_question_is_the_same_operation(entered):
    with line_to(entered) as line:
        line.sendall(chat_request(entered, path=f"{CHAT_PATH}?source=test", max_tokens=2))

        assert Answers(line).next()[0] == 200


def test_connection_is_good_again_once_a_body_above_the_limit_was_read(entered):
    with line_to(entered) as line:
        line.sendall(head_of(entered, length=HUGE_BYTES))
        answers = Answers(line)
        status, _, document = answers.next()
        for _ in range(11):
            line.sendall(b" " * 2**20)
        line.sendall(chat_request(entered, max_tokens=2))

        assert (status, document["error"]["code"]) == (413, "request_too_large")
        assert answers.next()[0] == 200


def test_connection_whose_refused_body_never_ends_is_closed(entered):
    begun_s = time.monotonic()
    with line_to(entered) as line:
        line.sendall(head_of(entered, length=HUGE_BYTES) + b" " * 100)
        answers = Answers(line)

        assert answers.next()[0] == 413
        assert answers.is_at_end()
    assert time.monotonic() - begun_s < LATE_S_MAX


def test_connection_whose_body_is_late_is_told_and_closed(entered):
    begun_s = time.monotonic()
    with line_to(entered) as line:
        line.sendall(chat_request(entered, max_tokens=2) + head_of(entered, length=1000) + b"{")
        answers = Answers(line)
        first, (status, headers, document) = answers.next(), answers.next()

        assert first[0] == 200
        assert (status, headers["connection"]) == (408, "close")
        assert document["error"]["code"] == "request_timeout"
        assert answers.is_at_end()
    assert time.monotonic() - begun_s < LATE_S_MAX


def test_what_is_no_http_is_refused_and_closed(entered):
    with line_to(entered) as line:
        line.sendall(chat_request(entered, max_tokens=2))
        answers = Answers(line)
        assert answers.next()[0] == 200
        line.sendall(b"\x16\x03\x01 hello\r\n\r\n")

        response = http.client.HTTPResponse(answers)
        response.begin()
        assert response.status == 400
