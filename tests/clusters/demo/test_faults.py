import contextlib
import logging

import httpx
import pytest

from clusters.demo.faults import COMPLETION_FAULTS, FAULT_KINDS, FaultQueue
from clusters.demo.standin import Standin, StandinSettings
from tests.clusters.demo.replies_of import CHAT, PROMPT_TOKENS, chat, events, read_broken

ENGINE_ERROR = {
    "message": "EngineDeadError: the engine core has died.",
    "type": "InternalServerError",
    "param": None,
    "code": None,
}
REFUSALS = {
    "http_500": (500, None),
    "http_503": (503, "overloaded"),
    "http_429": (429, "rate_limit_exceeded"),
    "http_400": (400, None),
    "http_401": (401, "invalid_api_key"),
    "context_400": (400, "context_length_exceeded"),
    "filter_400": (400, "content_filter"),
}
BODIES = {
    "not_json": ("text/plain", "this is no JSON\n"),
    "html_200": (
        "text/html; charset=utf-8",
        "<!doctype html><html><body><h1>It works!</h1></body></html>\n",
    ),
    "empty_200": ("application/json", ""),
}
# A stall is waited for so long; long enough for the head of an answer on a busy machine.
STALL_S = 0.3
SAID = '"content":"'


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """A fault that was asked for is no error: the server logs nothing."""
    caplog.set_level(logging.INFO, logger="uvicorn.error")
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def outcomes(standin, count=1):
    return [record["outcome"] for record in await standin.ended_records(count)]


def said_tokens(text):
    return text.count(SAID) - text.count('"content":""')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", REFUSALS)
async def test_refusal_has_status_and_shape(standin, client, kind, stream):
    response = await client.post(CHAT, json=chat(stream=stream, standin_fault=kind))

    assert (response.status_code, response.json()["error"]["code"]) == REFUSALS[kind]
    assert await outcomes(standin) == [f"fault:{kind}"]


async def test_filter_200_leaves_nothing_of_the_answer(standin, client):
    response = await client.post(CHAT, json=chat(standin_fault="filter_200"))

    (choice,) = response.json()["choices"]
    assert (response.status_code, choice["message"]["content"], choice["finish_reason"]) == (
        200,
        "",
        "content_filter",
    )


async def test_http_429_says_when_to_come_back(standin, client):
    by_default = await client.post(CHAT, json=chat(standin_fault="http_429"))
    by_body = await client.post(CHAT, json=chat(standin_fault="http_429", standin_retry_after_s=7))
    standin.set_fault("http_429", retry_after_s=9)
    from_outside = await client.post(CHAT, json=chat())

    answers = (by_default, by_body, from_outside)
    assert [answer.headers["retry-after"] for answer in answers] == ["1", "7", "9"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", BODIES)
async def test_200_that_is_no_answer(standin, client, kind, stream):
    response = await client.post(CHAT, json=chat(stream=stream, standin_fault=kind))

    assert response.status_code == 200
    assert (response.headers["content-type"], response.text) == BODIES[kind]
    assert await outcomes(standin) == [f"fault:{kind}"]


@pytest.mark.parametrize(("stream", "begin"), [(False, b'{"id": "'), (True, b'data: {"id": "')])
async def test_short_body_promises_more_than_it_sends(client, stream, begin):
    body = chat(stream=stream, standin_fault="short_body")

    async with client.stream("POST", CHAT, json=body) as response:
        data, error = await read_broken(response)

    assert (response.status_code, response.headers["content-length"]) == (200, "4096")
    assert (data, error) == (begin, httpx.RemoteProtocolError)


@pytest.mark.parametrize("kind", ["error_first", "error_mid"])
async def test_error_in_a_whole_200(client, kind):
    response = await client.post(CHAT, json=chat(standin_fault=kind))

    assert (response.status_code, response.json()) == (200, {"error": ENGINE_ERROR})


async def test_error_first_in_a_stream(client):
    response = await client.post(CHAT, json=chat(stream=True, standin_fault="error_first"))

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events(response.text) == [{"error": ENGINE_ERROR}, "[DONE]"]


@pytest.mark.parametrize("stream", [False, True])
async def test_reset_first_answers_nothing(standin, client, stream):
    with pytest.raises(httpx.ReadError):
        await client.post(CHAT, json=chat(stream=stream, standin_fault="reset_first"))

    assert await outcomes(standin) == ["fault:reset_first"]


@pytest.mark.parametrize("stream", [False, True])
async def test_stall_headers_answers_nothing(client, stream):
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=chat(stream=stream, standin_fault="stall_headers"), timeout=0.05)


@pytest.mark.parametrize("stream", [False, True])
async def test_stall_first_sends_headers_alone(client, stream):
    body = chat(stream=stream, standin_fault="stall_first")

    async with client.stream("POST", CHAT, json=body, timeout=STALL_S) as response:
        data, error = await read_broken(response)

    assert (response.status_code, data, error) == (200, b"", httpx.ReadTimeout)


@pytest.mark.parametrize(
    ("kind", "stream_error", "whole_error"),
    [
        ("reset_mid", httpx.ReadError, httpx.ReadError),
        ("eof_mid", None, httpx.RemoteProtocolError),
        ("stall_mid", httpx.ReadTimeout, httpx.ReadTimeout),
    ],
)
async def test_answer_breaks_off(standin, client, kind, stream_error, whole_error):
    timeout_s = STALL_S if kind == "stall_mid" else 5
    stream = chat(stream=True, standin_fault=kind)
    async with client.stream("POST", CHAT, json=stream, timeout=timeout_s) as response:
        data, error = await read_broken(response)
    whole = chat(standin_fault=kind)
    async with client.stream("POST", CHAT, json=whole, timeout=timeout_s) as response:
        half, half_error = await read_broken(response)

    assert (error, half_error) == (stream_error, whole_error)
    assert said_tokens(data.decode()) == 3
    assert b"[DONE]" not in data
    assert b'"finish_reason":"' not in data
    assert half.startswith(b'{"id":"chatcmpl-')
    assert len(half) == int(response.headers["content-length"]) // 2


async def test_fault_after_tokens_sets_the_place(standin, client):
    in_body = chat(stream=True, standin_fault="eof_mid", standin_fault_after_tokens=5)
    first = await client.post(CHAT, json=in_body)
    standin.set_fault("eof_mid", after_tokens=0)
    second = await client.post(CHAT, json=chat(stream=True))

    assert (said_tokens(first.text), second.text) == (5, "")
    assert [record["completion_tokens"] for record in standin.app.records] == [5, 0]


async def test_bad_sse_mid_sends_half_an_object(client):
    stream = await client.post(CHAT, json=chat(stream=True, standin_fault="bad_sse_mid"))
    whole = await client.post(CHAT, json=chat(standin_fault="bad_sse_mid"))

    assert said_tokens(stream.text) == 3
    assert stream.text.endswith('data: {"id": "chatcmpl-\n\ndata: [DONE]\n\n')
    assert (whole.status_code, whole.text) == (200, '{"id": "chatcmpl-')


async def test_error_mid_follows_content(client):
    response = await client.post(CHAT, json=chat(stream=True, standin_fault="error_mid"))

    assert said_tokens(response.text) == 3
    assert events(response.text)[-2:] == [{"error": ENGINE_ERROR}, "[DONE]"]


async def usages(client, kind):
    """What a stream's chunks and a whole answer say of usage under a fault."""
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await client.post(CHAT, json=chat(max_tokens=2, standin_fault=kind, **asked))
    whole = await client.post(CHAT, json=chat(max_tokens=2, standin_fault=kind))
    *chunks, done = events(stream.text)
    assert done == "[DONE]"
    said = [(len(one["choices"]), one.get("usage", "none")) for one in chunks]
    return said, whole.json().get("usage", "none")


async def test_no_usage_never_tells_it(client):
    said, whole = await usages(client, "no_usage")

    assert (said, whole) == ([(1, "none")] * 4, "none")


async def test_bad_usage_is_impossible(client):
    said, whole = await usages(client, "bad_usage")

    bad = {"prompt_tokens": -1, "completion_tokens": "7", "total_tokens": 2.5}
    assert (said, whole) == ([*[(1, None)] * 4, (0, bad)], bad)


async def test_usage_in_last_chunk_stands_beside_choices(client):
    said, whole = await usages(client, "usage_in_last_chunk")

    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 2,
        "total_tokens": PROMPT_TOKENS + 2,
    }
    assert (said, whole) == ([*[(1, None)] * 3, (1, usage)], usage)


async def test_ignores_max_tokens_says_64_more(standin, client):
    body = chat(max_tokens=2, n=2, standin_fault="ignores_max_tokens")

    answer = (await client.post(CHAT, json=body)).json()

    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [len(text.split()) for text in texts] == [66, 66]
    assert answer["usage"]["completion_tokens"] == 132
    assert standin.app.records[0]["completion_tokens"] == 132


async def test_slow_takes_ten_times_as_long():
    app = Standin(StandinSettings(tokens_per_s=1000, ttft_ms=10))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://standin") as client:
        body = chat(standin_completion_tokens=6, standin_fault="slow")
        response = await client.post(CHAT, json=body)

    assert response.elapsed.total_seconds() >= 0.1 + 0.05 - 0.005
    assert response.json()["usage"]["completion_tokens"] == 6


async def test_embeddings_have_faults_too(standin, client):
    body = {"model": "llama-3-8b", "input": "a", "standin_fault": "no_usage"}
    without_usage = await client.post("/v1/embeddings", json=body)
    broken = {**body, "standin_fault": "eof_mid"}
    async with client.stream("POST", "/v1/embeddings", json=broken) as response:
        _, error = await read_broken(response)

    assert sorted(without_usage.json()) == ["data", "model", "object"]
    assert error is httpx.RemoteProtocolError
    assert await outcomes(standin, 2) == ["fault:no_usage", "fault:eof_mid"]


@pytest.mark.parametrize("kind", COMPLETION_FAULTS)
async def test_standin_serves_on_after_each_fault(standin, client, kind):
    body = chat(stream=True, max_tokens=4, standin_fault=kind)
    with contextlib.suppress(httpx.TransportError):
        await client.post(CHAT, json=body, timeout=STALL_S if kind.startswith("stall") else 5)

    response = await client.post(CHAT, json=chat(max_tokens=2))

    assert response.json()["usage"]["completion_tokens"] == 2
    assert sorted(await outcomes(standin, 2)) == sorted([f"fault:{kind}", "ok"])


async def test_faults_are_set_listed_and_cleared_from_outside(client):
    added = await client.post("/standin/faults", json={"kind": "http_500", "count": 2})
    endless = await client.post(
        "/standin/faults", json={"kind": "http_503", "count": None, "retry_after_s": 3}
    )
    statuses = [(await client.post(CHAT, json=chat())).status_code for _ in range(4)]
    listed = await client.get("/standin/faults")
    cleared = await client.delete("/standin/faults")
    statuses.append((await client.post(CHAT, json=chat())).status_code)

    five_hundred = {"kind": "http_500", "count": 2, "after_tokens": None, "retry_after_s": None}
    forever = {"kind": "http_503", "count": None, "after_tokens": None, "retry_after_s": 3}
    assert added.json() == {"faults": [five_hundred]}
    assert endless.json() == {"faults": [five_hundred, forever]}
    assert listed.json() == {"faults": [forever]}
    assert cleared.json() == {"faults": []}
    assert statuses == [500, 500, 503, 503, 200]


async def test_unknown_fault_from_outside_is_refused_with_the_kinds(client):
    response = await client.post("/standin/faults", json={"kind": "gremlin"})

    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message == f"no fault 'gremlin'; there are {', '.join(sorted(FAULT_KINDS))}"


async def test_health_and_metrics_have_faults_of_their_own(standin, client):
    standin.set_fault("unhealthy", None)
    standin.set_fault("metrics_500")

    health = [await client.get("/health"), await client.get("/health")]
    metrics = [await client.get("/metrics"), await client.get("/metrics")]
    served = await client.post(CHAT, json=chat())
    standin.clear_faults()
    well = await client.get("/health")
    standin.set_fault("health_stall")
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/health", timeout=0.05)

    assert [response.status_code for response in health] == [503, 503]
    assert [response.status_code for response in metrics] == [500, 200]
    assert (served.status_code, well.status_code) == (200, 200)


def test_fault_queue_uses_faults_up_in_order():
    queue = FaultQueue()
    queue.add(kind="http_500")
    queue.add(kind="unhealthy", count=2)
    queue.add(kind="slow")

    taken = [queue.take(COMPLETION_FAULTS) for _ in range(3)]

    assert [one and one.kind for one in taken] == ["http_500", "slow", None]
    assert [one["kind"] for one in queue.describe()] == ["unhealthy"]
