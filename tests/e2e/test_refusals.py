"""Bad input: each is refused in OpenAI's shape, with a request id, and leaves nothing behind."""

import json
import socket
import time

import httpx
import orjson
import pytest

from tests.e2e.fleet import CHAT_PATH
from tests.fakes.gateway_server import CLIENT_TIMEOUT_S

pytestmark = pytest.mark.e2e

HUGE_BYTES = 20 * 1024 * 1024
SLOW_BODY_S_MAX = 5.0


@pytest.fixture
def entered(fleet):
    """A fleet with one cluster, and a key with a hard budget."""
    fleet.add_cluster()
    fleet.issue_key(hard_limit_nanousd=10**12)
    return fleet.ready()


def refusal(answer):
    """(status, type, code, param) of a refusal, whose shape is checked."""
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["type"], error["code"], error["param"]


def nothing_left(fleet):
    """Whether no attempt was made and nothing was held."""
    return [fleet.control.call("load_reservations", key_id=key.id) for key in fleet.keys] == [[]] * len(
        fleet.keys
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "invalid_json"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "invalid_json"),
        (b"[]", "invalid_request_error"),
        (b"null", "invalid_request_error"),
        (b'"text"', "invalid_request_error"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_body_that_is_no_json_object_is_refused(entered, body, code):
    answer = entered.post(entered.keys[0], body)

    assert refusal(answer) == (400, "invalid_request_error", code, None)
    assert nothing_left(entered)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": [1]}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_member_of_a_wrong_type_is_named(entered, members, param):
    answer = entered.post(entered.keys[0], {**entered.chat(), **members})

    assert refusal(answer) == (400, "invalid_request_error", "invalid_request_error", param)
    assert nothing_left(entered)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": None}, "prompt"),
        ("/v1/completions", {"prompt": {"a": 1}}, "prompt"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": 7}, "input"),
        ("/v1/embeddings", {"input": "a", "stream": True}, "stream"),
    ],
)
def test_other_surfaces_name_their_members_too(entered, path, body, param):
    answer = entered.post(entered.keys[0], {"model": entered.model, **body}, path=path)

    assert refusal(answer) == (400, "invalid_request_error", "invalid_request_error", param)


def test_members_that_nobody_knows_travel_upstream_but_instruct_nobody(entered):
    members = {"api_base": "http://169.254.169.254", "base_url": "http://x", "extra_headers": {"x-a": "b"}}

    answer = entered.post(entered.keys[0], {**entered.chat(), **members})

    assert answer.status_code == 200
    assert len(entered.settled_rows(entered.keys[0], count=1)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer tg_wrong"},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": b"Bearer \xff\xfe\xc3\xa4"},
        {"authorization": "Bearer " + "x" * 8000},
        {"x-api-key": "tg_wrong"},
    ],
    ids=str,
)
def test_request_without_a_valid_key_is_a_401(entered, headers):
    answer = entered.gateway.client.post(CHAT_PATH, json=entered.chat(), headers=headers)

    assert refusal(answer) == (401, "authentication_error", "invalid_api_key", None)
    assert nothing_left(entered)


def test_key_may_come_as_x_api_key(entered):
    answer = entered.gateway.client.post(
        CHAT_PATH, json=entered.chat(), headers={"x-api-key": entered.keys[0].key}
    )

    assert answer.status_code == 200


def test_expired_key_is_a_401(entered):
    key = entered.issue_key(expires_in_s=-1)
    entered.ready()

    answer = entered.post(key, entered.chat())

    assert refusal(answer) == (401, "authentication_error", "invalid_api_key", None)
    assert "expired" in answer.json()["error"]["message"]


def test_model_that_the_key_may_not_use_is_a_403(entered):
    key = entered.issue_key(allowed_models=["another"])
    entered.ready()

    answer = entered.post(key, entered.chat())

    assert refusal(answer) == (403, "permission_error", "permission_denied", "model")
    assert nothing_left(entered)


def test_unknown_model_is_a_404(entered):
    answer = entered.post(entered.keys[0], {**entered.chat(), "model": "../../etc/passwd"})

    assert refusal(answer) == (404, "invalid_request_error", "model_not_found", "model")


def test_body_above_the_limit_is_a_413(entered):
    answer = entered.post(entered.keys[0], b" " * HUGE_BYTES)

    assert refusal(answer) == (413, "invalid_request_error", "request_too_large", None)


def test_chunked_body_above_the_limit_is_a_413(entered):
    def pieces():
        for _ in range(HUGE_BYTES // 2**20):
            yield b" " * 2**20

    headers = {"authorization": f"Bearer {entered.keys[0].key}"}
    with httpx.Client(base_url=entered.gateway.url, timeout=CLIENT_TIMEOUT_S) as client:
        answer = client.post(CHAT_PATH, content=pieces(), headers=headers)

    assert refusal(answer) == (413, "invalid_request_error", "request_too_large", None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT_PATH, "POST"),
        ("DELETE", CHAT_PATH, "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PATCH", "/v1/models/x", "GET, POST"),
    ],
)
def test_wrong_method_is_a_405(entered, method, path, allowed):
    headers = {"authorization": f"Bearer {entered.keys[0].key}"}

    answer = entered.gateway.client.request(method, path, headers=headers)

    assert refusal(answer) == (405, "invalid_request_error", "method_not_allowed", None)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/audio/speech",
        "/v1/mödels",
        "/v1/%FF%00",
        "/v1/%E2%82%AC/x",
        "/v1//models",
        "/v1/" + "x" * 4000,
    ],
    ids=lambda path: path[:20],
)
def test_unknown_path_is_a_404(entered, path):
    headers = {"authorization": f"Bearer {entered.keys[0].key}"}

    answer = entered.gateway.client.post(path, headers=headers, json={})

    assert refusal(answer) == (404, "invalid_request_error", "not_found", None)


def test_document_that_the_404_names_is_there(gateway):
    answer = gateway.get("/v1/openapi.json")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert set(answer.json()["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/usage",
        "/v1/requests/{request_id}",
        "/v1/feedback",
        "/v1/idempotency/{key}",
    }


def test_model_of_a_non_ascii_name_is_a_404(entered):
    headers = {"authorization": f"Bearer {entered.keys[0].key}"}

    answer = entered.gateway.client.get("/v1/models/größe/%F0%9F%92%A9", headers=headers)

    assert refusal(answer) == (404, "invalid_request_error", "model_not_found", "model")


def test_body_that_comes_too_slowly_is_a_408(entered):
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {entered.keys[0].key}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    )
    started_s = time.monotonic()

    with socket.create_connection(("127.0.0.1", entered.gateway.port), timeout=CLIENT_TIMEOUT_S) as line:
        line.sendall(head.encode() + b'{"model": ')
        answer = b""
        while not answer.endswith(b"}}"):
            answer += line.recv(65_536)

    status, _, rest = answer.partition(b"\r\n")
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert orjson.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert time.monotonic() - started_s < SLOW_BODY_S_MAX
    assert nothing_left(entered)
