"""Idempotency-Key through the real server: one run, one charge, one answer, however often it is asked for."""

import asyncio
import contextlib
import sqlite3
import uuid
from pathlib import Path

import httpx
import orjson
import psycopg
import pytest

from tests.e2e.conftest import audited_fleet
from tests.e2e.fleet import CHAT_PATH, wait_until
from tests.e2e.test_disconnects import raw_request, read_frames
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S, RunningGateway

pytestmark = pytest.mark.e2e

ANSWER_BYTES_MAX = 1024 * 1024


@pytest.fixture
def start_gateway(control, tmp_path):
    """Start a gateway with these environment variables; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(name="gateway", settings_module="gateway.settings", **variables):
            gateway = RunningGateway(
                env={**control.env, **variables},
                log_path=tmp_path / f"{name}.log",
                settings_module=settings_module,
            )
            stack.callback(gateway.close)
            return gateway.wait_until_ready()

        yield start


@pytest.fixture
def new_fleet(control, observer):
    with contextlib.ExitStack() as stack:

        def new(gateway):
            return stack.enter_context(contextlib.contextmanager(audited_fleet)(control, gateway, observer))

        yield new


def new_key():
    return {"idempotency-key": f"job-{uuid.uuid4()}"}


def answered(fleet, key, members, headers):
    """As a client does: while the first one runs, or its end is not noticed yet, it asks again."""
    found = []

    def ask():
        found.append(fleet.post(key, fleet.chat(**members), headers=headers))
        return found[-1].status_code != 409

    wait_until(ask)
    return found[-1]


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def kept_headers(answer):
    names = ("content-type", "x-gateway-cluster", "x-gateway-model", "x-gateway-attempt")
    return {name: answer.headers[name] for name in names}


def assert_replays(first, again):
    """The same answer, said to be one."""
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert kept_headers(again) == kept_headers(first)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-gateway-original-request-id"] == first.headers["x-request-id"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotency-replayed" not in first.headers


def body_of(fleet, surface, **members):
    bodies = {
        "chat/completions": fleet.chat(**members),
        "completions": {"model": fleet.model, "prompt": "Say something.", **members},
        "embeddings": {"model": fleet.model, "input": "Say something."},
    }
    return bodies[surface]


@pytest.mark.parametrize("surface", ["chat/completions", "completions", "embeddings"])
def test_plain_answer_is_given_again_and_charged_once(fleet, surface):
    site = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    body, headers, path = body_of(fleet, surface), new_key(), f"/v1/{surface}"

    first = fleet.post(key, body, path=path, headers=headers)
    again = fleet.post(key, body, path=path, headers=headers)

    assert first.status_code == 200
    assert_replays(first, again)
    (row,) = fleet.settled_rows(key, count=1)
    (window,) = fleet.windows(key)
    assert site.received_count == 1
    assert row["request_id"] == first.headers["x-request-id"]
    assert window["spent_nanousd"] == row["cost_nanousd"]


@pytest.mark.parametrize("surface", ["chat/completions", "completions"])
def test_stream_is_given_again_to_the_byte(fleet, surface):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    body, headers, path = body_of(fleet, surface, stream=True, max_tokens=30), new_key(), f"/v1/{surface}"

    first = fleet.post(key, body, path=path, headers=headers)
    again = fleet.post(key, body, path=path, headers=headers)

    assert first.content.endswith(b"data: [DONE]\n\n")
    assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert_replays(first, again)
    assert site.received_count == 1
    fleet.settled_rows(key, count=1)


def test_sdk_reads_a_stream_that_is_given_again(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()

    texts = [
        "".join(
            chunk.choices[0].delta.content or ""
            for chunk in fleet.client(key).chat.completions.create(
                **fleet.chat(max_tokens=20), stream=True, extra_headers=headers
            )
        )
        for _ in range(2)
    ]

    assert texts[0] == texts[1] != ""
    fleet.settled_rows(key, count=1)


async def test_key_sent_twice_at_once_runs_once(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    headers = {"authorization": f"Bearer {key.key}", **new_key()}
    body = fleet.chat(standin_completion_tokens=20)

    async with httpx.AsyncClient(base_url=fleet.gateway.url, timeout=CLIENT_TIMEOUT_S) as client:
        answers = await asyncio.gather(
            *(client.post(CHAT_PATH, json=body, headers=headers) for _ in range(8))
        )
    again = fleet.post(key, body, headers=headers)

    (first,) = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer is not first]
    assert [error_of(answer) for answer in refused] == [(409, "idempotency_key_in_use")] * 7
    assert {answer.headers["x-should-retry"] for answer in refused} == {"true"}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    original = first.headers["x-request-id"]
    assert {answer.headers["x-gateway-original-request-id"] for answer in refused} == {original}
    assert again.json() == first.json()
    assert site.received_count == 1
    fleet.settled_rows(key, count=1)


def test_sdk_waits_for_the_answer_of_a_key_in_use(fleet):
    """Its retries come after the Retry-After: the second one, at the latest, finds the answer."""
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()
    chat = fleet.chat(standin_completion_tokens=20)

    with raw_request(fleet, key, extra_headers=headers, standin_completion_tokens=20):
        wait_until(lambda: site.received_count == 1)
        answer = fleet.client(key, max_retries=3).chat.completions.create(
            model=chat["model"],
            messages=chat["messages"],
            extra_body={"standin_completion_tokens": 20},
            extra_headers=headers,
        )

    assert answer.usage.completion_tokens == 20
    assert site.received_count == 1
    fleet.settled_rows(key, count=1)


def test_key_with_another_body_or_path_is_refused(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()
    first = fleet.post(key, fleet.chat(), headers=headers)

    other_body = fleet.post(key, fleet.chat("Say something else."), headers=headers)
    other_path = fleet.post(key, {**fleet.chat(), "prompt": "x"}, path="/v1/completions", headers=headers)

    assert error_of(other_body) == error_of(other_path) == (422, "idempotency_key_reused")
    assert other_body.headers["x-gateway-original-request-id"] == first.headers["x-request-id"]
    assert site.received_count == 1


def test_key_with_the_same_bytes_on_another_path_is_refused(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers, body = new_key(), {**fleet.chat(), "prompt": "Say something."}
    fleet.post(key, body, headers=headers)

    answer = fleet.post(key, body, path="/v1/completions", headers=headers)

    assert error_of(answer) == (422, "idempotency_key_reused")


def test_key_belongs_to_its_api_key(fleet):
    site = fleet.add_cluster()
    mine, yours = fleet.issue_key(), fleet.issue_key()
    fleet.ready()
    headers = new_key()

    first = fleet.post(mine, fleet.chat(), headers=headers)
    other = fleet.post(yours, fleet.chat("Say something else."), headers=headers)

    assert (first.status_code, other.status_code) == (200, 200)
    assert "idempotency-replayed" not in other.headers
    assert site.received_count == 2


@pytest.mark.parametrize(
    "headers",
    [
        [("idempotency-key", "")],
        [("idempotency-key", "x" * 256)],
        [("idempotency-key", b"caf\xc3\xa9")],
        [("idempotency-key", "a\tb")],
        [("idempotency-key", "a"), ("idempotency-key", "a")],
    ],
    ids=["empty", "long", "not ASCII", "not printable", "twice"],
)
def test_key_that_is_none_is_refused(fleet, headers):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    given = [("authorization", f"Bearer {key.key}"), ("content-type", "application/json"), *headers]
    answer = fleet.gateway.client.post(CHAT_PATH, content=orjson.dumps(fleet.chat()), headers=given)

    assert error_of(answer) == (400, "invalid_request_error")
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert site.received_count == 0


def test_longest_key_is_taken(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = {"idempotency-key": "~ " * 127 + "x"}

    first, again = (fleet.post(key, fleet.chat(), headers=headers) for _ in range(2))

    assert_replays(first, again)


# --- What ends otherwise frees the key.


def test_upstream_failure_frees_the_key(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()
    site.standin.set_fault("http_500", count=1)

    failed = fleet.post(key, fleet.chat(), headers=headers)
    answer = fleet.post(key, fleet.chat("Another body."), headers=headers)

    assert failed.status_code == 502
    assert answer.status_code == 200
    assert "idempotency-replayed" not in answer.headers


def test_our_refusal_frees_the_key(fleet):
    fleet.add_cluster(kind="provider")
    key = fleet.issue_key(hard_limit_nanousd=1)
    fleet.ready()
    headers = new_key()

    spent = fleet.post(key, fleet.chat(), headers=headers)
    unknown = fleet.post(key, {**fleet.chat(), "model": "none"}, headers=headers)
    again = fleet.post(key, fleet.chat(), headers=headers)

    assert error_of(spent) == error_of(again) == (429, "insufficient_quota")
    assert error_of(unknown) == (404, "model_not_found")


def test_cut_stream_frees_the_key_and_is_charged(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    headers, body = new_key(), fleet.chat(stream=True, max_tokens=20)
    site.standin.set_fault("eof_mid", count=1)

    cut = fleet.post(key, body, headers=headers)
    whole = fleet.post(key, body, headers=headers)
    again = fleet.post(key, body, headers=headers)

    assert b"[DONE]" not in cut.content
    assert b'"error"' in cut.content
    assert whole.content.endswith(b"data: [DONE]\n\n")
    assert_replays(whole, again)
    rows = fleet.settled_rows(key, count=2)
    assert [row["outcome"] for row in rows] == ["truncated", "ok"]


# --- Callers who leave.


def test_caller_who_leaves_a_stream_finds_it_whole(fleet):
    """The test gateway reads on for 1 s after a caller left; this answer takes longer."""
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    headers = new_key()
    members = {"stream": True, "standin_completion_tokens": 100}

    with raw_request(fleet, key, extra_headers=headers, **members) as line:
        read_frames(line, count=4)
    (row,) = fleet.settled_rows(key, count=1)
    again = answered(fleet, key, members, headers)

    assert (row["outcome"], row["is_estimate"]) == ("ok", False)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content.count(b"data: ") >= 100
    assert again.content.endswith(b"data: [DONE]\n\n")
    assert site.received_count == 1


def test_caller_who_stops_reading_finds_it_whole(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key(hard_limit_nanousd=10**15)
    fleet.ready()
    headers = new_key()
    members = {"stream": True, "max_tokens": 3_000, "standin_completion_tokens": 3_000}

    with raw_request(fleet, key, extra_headers=headers, receive_buffer_bytes=4096, **members) as line:
        read_frames(line, count=4)
        (row,) = fleet.settled_rows(key, count=1)
    again = answered(fleet, key, members, headers)

    assert row["outcome"] == "ok"
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content.endswith(b"data: [DONE]\n\n")
    assert site.received_count == 1


def test_answer_that_is_too_long_is_given_once(fleet):
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()
    body = fleet.chat(stream=True, max_tokens=30_000, standin_completion_tokens=12_000)

    first = fleet.post(key, body, headers=headers)
    again = fleet.post(key, body, headers=headers)

    assert len(first.content) > ANSWER_BYTES_MAX
    assert first.content.endswith(b"data: [DONE]\n\n")
    assert error_of(again) == (409, "idempotency_result_not_kept")
    assert again.headers["x-should-retry"] == "false"
    assert again.headers["x-gateway-original-request-id"] == first.headers["x-request-id"]
    assert site.received_count == 1


# --- Deleting, turning off, and what lies on disk.


def delete(fleet, key, header):
    headers = {"authorization": f"Bearer {key.key}"}
    return fleet.gateway.client.delete(f"/v1/idempotency/{header['idempotency-key']}", headers=headers)


def test_answer_is_deleted_by_its_own_api_key_alone(fleet):
    site = fleet.add_cluster()
    mine, yours = fleet.issue_key(), fleet.issue_key()
    fleet.ready()
    headers = new_key()
    fleet.post(mine, fleet.chat(), headers=headers)

    others = delete(fleet, yours, headers)
    deleted = delete(fleet, mine, headers)
    gone = delete(fleet, mine, headers)
    anew = fleet.post(mine, fleet.chat(), headers=headers)

    assert error_of(others) == error_of(gone) == (404, "not_found")
    assert (deleted.status_code, deleted.json()) == (
        200,
        {"object": "idempotency_key", "key": headers["idempotency-key"], "deleted": True},
    )
    assert "idempotency-replayed" not in anew.headers
    assert site.received_count == 2


def test_key_in_use_is_not_deleted(fleet):
    site = fleet.add_cluster(standin={"tokens_per_s": 50.0})
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()

    with raw_request(fleet, key, extra_headers=headers, standin_completion_tokens=20):
        wait_until(lambda: site.received_count == 1)
        refused = delete(fleet, key, headers)

    assert error_of(refused) == (409, "idempotency_key_in_use")
    fleet.settled_rows(key, count=1)


def test_turned_off_the_header_means_nothing(start_gateway, new_fleet):
    fleet = new_fleet(start_gateway(GATEWAY_IDEMPOTENCY_HOURS="0"))
    site = fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()
    headers = new_key()

    answers = [fleet.post(key, fleet.chat(), headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert ["idempotency-replayed" in answer.headers for answer in answers] == [False, False]
    assert site.received_count == 2
    assert stored_bytes(fleet.control, key) == []


def test_kept_answer_lies_on_disk_sealed(fleet):
    fleet.add_cluster()
    key = fleet.issue_key()
    fleet.ready()

    answer = fleet.post(key, fleet.chat("A canary in the question."), headers=new_key())

    said = answer.json()["choices"][0]["message"]["content"].encode()
    (sealed,) = stored_bytes(fleet.control, key)
    assert len(sealed) > len(answer.content)
    for plain in (said, answer.json()["id"].encode(), b"canary"):
        assert len(plain) > 5
        assert plain not in sealed
        assert not any(plain in content for content in database_files(fleet.control))


def stored_bytes(control, key):
    """The kept answers of an API key as they lie in the ledger."""
    url = control.env.get("DATABASE_URL", "")
    columns = "SELECT answer FROM billing_idempotentrequest WHERE key_id ="
    if url:
        with psycopg.connect(url) as connection:
            rows = connection.execute(f"{columns} %s", [uuid.UUID(key.id)]).fetchall()
    else:
        with contextlib.closing(sqlite3.connect(ledger_files(control)[0])) as connection:
            rows = connection.execute(f"{columns} ?", [uuid.UUID(key.id).hex]).fetchall()
    return [bytes(row[0]) for row in rows]


def ledger_files(control):
    return [f"{control.env['GATEWAY_DATA_DIR']}/tollgate-ledger.sqlite3{tail}" for tail in ("", "-wal")]


def database_files(control):
    if control.env.get("DATABASE_URL"):
        return []
    return [Path(name).read_bytes() for name in ledger_files(control)]


# --- Several processes, and dead ones.


def test_answer_of_a_killed_gateway_is_run_anew(start_gateway, new_fleet):
    gateway = start_gateway()
    fleet = new_fleet(gateway)
    site = fleet.add_cluster(standin={"tokens_per_s": 1000.0, "request_tokens_per_s": 20.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    headers, members = new_key(), {"stream": True, "standin_completion_tokens": 80}
    second = start_gateway("second")

    with raw_request(fleet, key, extra_headers=headers, **members) as line:
        read_frames(line, count=4)
        fleet.gateway = second
        running = fleet.post(key, fleet.chat(**members), headers=headers)
        gateway.kill()
    answer = answered(fleet, key, members, headers)
    again = fleet.post(key, fleet.chat(**members), headers=headers)

    assert error_of(running) == (409, "idempotency_key_in_use")
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert "idempotency-replayed" not in answer.headers
    assert_replays(answer, again)
    assert site.received_count == 2
    # The killed one's attempt waits in doubt for its operator: the audit of settled keys is not for this one.
    fleet.settled_rows(key, count=1)
    fleet.keys.remove(key)


@pytest.mark.timeout(180)
async def test_two_gateways_on_one_ledger_run_a_key_once(start_gateway, new_fleet):
    first = start_gateway("first")
    second = start_gateway("second")
    fleet = new_fleet(first)
    site = fleet.add_cluster(standin={"tokens_per_s": 100.0})
    key = fleet.issue_key(hard_limit_nanousd=10**12)
    fleet.ready()
    fleet.gateway = second
    fleet.ready()
    keys = [new_key() for _ in range(20)]
    body = fleet.chat(standin_completion_tokens=10)

    async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT_S) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    gateway.url + CHAT_PATH,
                    json=body,
                    headers={"authorization": f"Bearer {key.key}", **header},
                )
                for header in keys
                for gateway in (first, second, second, first)
            )
        )
    repeats = [fleet.post(key, orjson.dumps(body), headers=header) for header in keys]

    assert {answer.status_code for answer in answers} == {200, 409}
    assert {error_of(answer) for answer in answers if answer.status_code == 409} == {
        (409, "idempotency_key_in_use")
    }
    whole = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert {answer.json()["id"] for answer in repeats if answer.status_code == 200} <= whole
    assert site.received_count == len(whole) == len(keys)
    fleet.settled_rows(key, count=len(keys))
