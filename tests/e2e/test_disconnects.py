"""Callers that leave or stop reading: the row settles all the same, and the gateway lets go of everything."""

import contextlib
import socket

import orjson
import pytest

from tests.e2e.fleet import CHAT_PATH, token_counts, wait_until
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

IN_FLIGHT = "gateway_in_flight_requests"


@contextlib.contextmanager
def raw_request(fleet, key, *, receive_buffer_bytes=None, extra_headers=(), **members):
    """A chat sent over a bare socket, whose end the test holds in its hand."""
    body = orjson.dumps(fleet.chat(**members))
    extra = "".join(f"{name}: {value}\r\n" for name, value in dict(extra_headers).items())
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key.key}\r\n{extra}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as line:
        line.settimeout(CLIENT_TIMEOUT_S)
        if receive_buffer_bytes is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        line.connect(("127.0.0.1", fleet.gateway.port))
        line.sendall(head.encode() + body)
        yield line


def read_frames(line, *, count):
    """Read until so many events have come, and hardly a byte more."""
    data = line.recv(512)
    assert data.startswith(b"HTTP/1.1 200 OK\r\n"), data
    while data.count(b"data: ") < count:
        data += line.recv(512)
    return data


def is_idle(fleet):
    return fleet.gateway.metrics()[IN_FLIGHT] == 0


def test_caller_who_leaves_a_long_stream_is_booked_as_cancelled(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    with raw_request(fleet, key, stream=True, standin_completion_tokens=1000) as line:
        read_frames(line, count=4)

    (row,) = fleet.settled_rows(key, count=1)
    wait_until(lambda: site.records)
    (record,) = site.records
    assert (row["outcome"], row["error_code"], row["is_estimate"]) == ("cancelled", "", True)
    assert (record["attempt_id"], record["outcome"]) == (row["attempt_id"], "cancelled")
    assert 3 <= token_counts(row)[1] <= record["completion_tokens"] + 1 < 1000
    assert row["cost_nanousd"] > 0
    wait_until(lambda: is_idle(fleet))


def test_caller_who_leaves_shortly_before_the_end_is_booked_exactly(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    with raw_request(fleet, key, stream=True, standin_completion_tokens=25) as line:
        read_frames(line, count=4)

    (row,) = fleet.settled_rows(key, count=1)
    (record,) = site.records
    assert (row["outcome"], row["is_estimate"]) == ("cancelled", False)
    assert record["outcome"] == "ok"
    assert token_counts(row) == (record["prompt_tokens"], record["completion_tokens"]) == (9, 25)
    wait_until(lambda: is_idle(fleet))


def test_caller_who_leaves_a_plain_answer_is_booked(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    with raw_request(fleet, key, standin_completion_tokens=20):
        wait_until(lambda: site.received_count == 1)

    (row,) = fleet.settled_rows(key, count=1)
    (record,) = site.records
    assert (row["outcome"], row["is_estimate"]) == ("cancelled", False)
    assert token_counts(row) == (record["prompt_tokens"], record["completion_tokens"]) == (9, 20)
    wait_until(lambda: is_idle(fleet))


def test_caller_who_leaves_before_the_first_byte_of_a_silent_upstream_is_booked(fleet):
    site = fleet.add_cluster()
    sibling = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    site.standin.set_fault("stall_headers")

    with raw_request(fleet, key, stream=True):
        wait_until(lambda: site.received_count == 1)

    (row,) = fleet.settled_rows(key, count=1)
    assert (row["outcome"], row["is_estimate"], row["cluster"]) == ("cancelled", True, site.name)
    assert row["cost_nanousd"] > 0
    assert sibling.received_count == 0
    wait_until(lambda: is_idle(fleet))


def test_caller_who_stops_reading_is_cut_off_and_booked(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**15)
    fleet.ready()

    with raw_request(
        fleet,
        key,
        receive_buffer_bytes=4096,
        stream=True,
        max_tokens=30_000,
        standin_completion_tokens=30_000,
    ) as line:
        read_frames(line, count=4)
        (row,) = fleet.settled_rows(key, count=1)

    wait_until(lambda: site.records)
    (record,) = site.records
    assert row["outcome"] == "cancelled"
    assert record["attempt_id"] == row["attempt_id"]
    assert record["outcome"] in {"ok", "cancelled"}
    wait_until(lambda: is_idle(fleet))


def test_one_caller_who_leaves_does_not_disturb_the_others(fleet):
    fleet.add_cluster(standin={"tokens_per_s": 200.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()

    with raw_request(fleet, key, stream=True, standin_completion_tokens=500) as line:
        read_frames(line, count=4)
        frames_before = fleet.frames(key, standin_completion_tokens=10)
    frames_after = fleet.frames(key, standin_completion_tokens=10)

    rows = fleet.settled_rows(key, count=3)
    assert frames_before[-1] == frames_after[-1] == b"[DONE]"
    assert sorted(row["outcome"] for row in rows) == ["cancelled", "ok", "ok"]
