import asyncio
import base64
import json
import struct

import httpx
import pytest

from clusters.demo.standin import Standin, StandinSettings
from tests.clusters.demo.replies_of import CHAT, PROMPT_TOKENS, chat, events, without_identity
from tests.fakes.standin_server import run_standin

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_price",
            "parameters": {"properties": {"day": {"type": "integer"}, "hot": {"type": "boolean"}}},
        },
    }
]


def direct(**settings):
    """A client that calls the application without a socket."""
    transport = httpx.ASGITransport(app=Standin(StandinSettings(**settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://standin")


def chunk(delta, *, finish_reason=None, **members):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"object": "chat.completion.chunk", "model": "llama-3-8b"}
    return {**head, "choices": [choice], **members}


async def test_chat_answers_whole(client):
    response = await client.post(CHAT, json=chat(standin_completion_tokens=4))

    assert response.status_code == 200
    assert without_identity(response.json()) == {
        "object": "chat.completion",
        "model": "llama-3-8b",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "the health check asks"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": 4,
            "total_tokens": PROMPT_TOKENS + 4,
        },
    }


async def test_chat_answers_same_request_the_same(client):
    first = await client.post(CHAT, json=chat())
    second = await client.post(CHAT, json=chat())

    assert first.json()["choices"] == second.json()["choices"]
    text = first.json()["choices"][0]["message"]["content"]
    assert len(text.split()) == first.json()["usage"]["completion_tokens"]


async def test_chat_streams_one_chunk_a_token(client):
    body = chat(stream=True, standin_completion_tokens=2)

    response = await client.post(CHAT, json=body)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert len({(one["id"], one["created"]) for one in chunks}) == 1
    assert [without_identity(one) for one in chunks] == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "the"}),
        chunk({"content": " health"}),
        chunk({}, finish_reason="stop"),
    ]


async def test_chat_stream_tells_usage_when_asked(client):
    body = chat(stream=True, stream_options={"include_usage": True}, max_tokens=1)

    response = await client.post(CHAT, json=body)

    *chunks, done = events(response.text)
    assert done == "[DONE]"
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 1,
        "total_tokens": PROMPT_TOKENS + 1,
    }
    assert [without_identity(one) for one in chunks] == [
        chunk({"role": "assistant", "content": ""}, usage=None),
        chunk({"content": "the"}, usage=None),
        chunk({}, finish_reason="length", usage=None),
        {
            "object": "chat.completion.chunk",
            "model": "llama-3-8b",
            "choices": [],
            "usage": usage,
        },
    ]


async def test_chat_stream_of_no_tokens_opens_and_closes(client):
    response = await client.post(CHAT, json=chat(stream=True, standin_completion_tokens=0))

    *chunks, _ = events(response.text)
    assert [without_identity(one) for one in chunks] == [
        chunk({"role": "assistant", "content": ""}),
        chunk({}, finish_reason="stop"),
    ]


async def test_chat_counts_cached_and_reasoning_tokens(client):
    body = chat(standin_completion_tokens=5, standin_reasoning_tokens=2, standin_cached_tokens=99)

    response = await client.post(CHAT, json=body)

    answer = response.json()
    assert answer["usage"] == {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 5,
        "total_tokens": PROMPT_TOKENS + 5,
        "prompt_tokens_details": {"cached_tokens": PROMPT_TOKENS},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    message = answer["choices"][0]["message"]
    assert len(message["content"].split()) == 3
    assert len(message["reasoning_content"].split()) == 2


async def test_chat_gives_n_choices_and_counts_all(client):
    plain = await client.post(CHAT, json=chat(n=3, max_tokens=4))
    stream = await client.post(CHAT, json=chat(n=3, max_tokens=4, stream=True))

    answer = plain.json()
    assert answer["usage"]["completion_tokens"] == 12
    texts = [""] * 3
    for one in events(stream.text)[:-1]:
        choice = one["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in answer["choices"]]


async def test_chat_calls_a_tool(client):
    body = chat(tools=TOOLS, tool_choice="required")

    answer = (await client.post(CHAT, json=body)).json()

    call = {
        "id": f"call_{answer['id'].removeprefix('chatcmpl-')}_0",
        "type": "function",
        "function": {"name": "get_price", "arguments": '{"day": 7, "hot": true}'},
    }
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert answer["usage"]["completion_tokens"] == 4


async def test_chat_streams_a_tool_call_in_pieces(client):
    messages = [{"role": "user", "content": "use the tool"}]
    body = {"model": "llama-3-8b", "messages": messages, "tools": TOOLS, "stream": True}

    response = await client.post(CHAT, json=body)

    *chunks, done = events(response.text)
    assert done == "[DONE]"
    deltas = [one["choices"][0]["delta"] for one in chunks]
    calls = [delta["tool_calls"][0] for delta in deltas[:-1]]
    assert calls[0]["function"] == {"name": "get_price", "arguments": ""}
    assert "".join(call["function"]["arguments"] for call in calls) == '{"day": 7, "hot": true}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("prompt", "prompt_tokens", "choice_count"),
    [
        ("hello there friend", 3, 1),
        (["hello there", "friend"], 3, 2),
        ([11, 12, 13, 14], 4, 1),
        ([[11, 12], [13], [14]], 4, 3),
    ],
)
async def test_completions_takes_each_form_of_prompt(client, prompt, prompt_tokens, choice_count):
    body = {"model": "qwen", "prompt": prompt, "max_tokens": 2}

    answer = (await client.post("/v1/completions", json=body)).json()

    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 2 * choice_count,
        "total_tokens": prompt_tokens + 2 * choice_count,
    }
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == list(range(choice_count))
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert all(len(choice["text"].split()) == 2 for choice in answer["choices"])


async def test_completions_streams_text(client):
    body = {"model": "qwen", "prompt": "hello", "stream": True, "standin_completion_tokens": 2}

    response = await client.post("/v1/completions", json=body)

    *chunks, done = events(response.text)
    assert done == "[DONE]"
    choices = [one["choices"][0] for one in chunks]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert len("".join(choice["text"] for choice in choices).split()) == 2


async def test_embeddings_come_as_floats_and_base64(client):
    body = {"model": "llama-3-8b", "input": ["a b", "c"], "dimensions": 8}

    floats = (await client.post("/v1/embeddings", json=body)).json()
    coded = (await client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()

    assert without_identity(floats) == {
        "object": "list",
        "model": "llama-3-8b",
        "data": [
            {"object": "embedding", "index": index, "embedding": one["embedding"]}
            for index, one in enumerate(floats["data"])
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    for one, same in zip(floats["data"], coded["data"], strict=True):
        decoded = struct.unpack("<8f", base64.b64decode(same["embedding"]))
        assert decoded == pytest.approx(one["embedding"], abs=1e-6)
        assert sum(value * value for value in decoded) == pytest.approx(1.0, abs=1e-6)


async def test_models_are_listed_and_shown(client):
    listed = await client.get("/v1/models")
    shown = await client.get("/v1/models/qwen")
    missing = await client.get("/v1/models/none/such")

    qwen = {
        "id": "qwen",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "vllm",
        "root": "Qwen/Qwen3-8B",
        "parent": None,
        "max_model_len": 131_072,
    }
    llama = {**qwen, "id": "llama-3-8b", "root": "llama-3-8b"}
    assert listed.json() == {"object": "list", "data": [llama, qwen]}
    assert shown.json() == qwen
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"model": ', 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (json.dumps(chat(model="gone")).encode(), 404, "model_not_found"),
        (json.dumps(chat(standin_fault="gone")).encode(), 400, None),
        (json.dumps(chat(max_tokens=0)).encode(), 400, None),
    ],
)
async def test_completion_refuses_in_openai_shape(standin, client, content, status, code):
    response = await client.post(CHAT, content=content)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (
        status,
        code,
        "invalid_request_error",
    )
    assert sorted(error) == ["code", "message", "param", "type"]
    [record] = await standin.ended_records(1)
    assert record["outcome"] == f"refused:{status}"


async def test_completion_refuses_a_prompt_beyond_the_context():
    async with direct(context_tokens_max=8) as client:
        response = await client.post(CHAT, json=chat())

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_completion_ends_where_the_context_does():
    async with direct(context_tokens_max=PROMPT_TOKENS + 2) as client:
        response = await client.post(CHAT, json=chat())

    assert response.json()["usage"]["completion_tokens"] == 2
    assert response.json()["choices"][0]["finish_reason"] == "length"


async def test_api_key_is_asked_for_but_by_health():
    async with direct(api_key="secret") as client:
        refused = await client.post(CHAT, json=chat())
        wrong = await client.get("/v1/models", headers={"authorization": "Bearer public"})
        served = await client.get("/v1/models", headers={"authorization": "Bearer secret"})
        health = await client.get("/health")

    assert refused.status_code == 401
    assert refused.json() == {
        "error": {
            "message": "Incorrect API key provided.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    assert wrong.status_code == 401
    assert served.status_code == 200
    assert (health.status_code, health.content) == (200, b"")


async def test_verify_sees_the_request_as_sent_and_may_refuse():
    seen = []

    def verify(method, path_and_query, headers, body):
        seen.append((method, path_and_query, headers["x-signature"], body))
        return "the signature is stale" if len(seen) == 2 else None

    async with direct(verify=verify) as client:
        headers = {"x-signature": "abc"}
        served = await client.get("/v1/models/llama-3%2D8b?a=1&b=%20", headers=headers)
        refused = await client.post("/v1/embeddings", content=b"{}", headers=headers)

    assert served.status_code == 200
    assert refused.status_code == 401
    assert refused.json()["error"]["message"] == "the signature is stale"
    assert seen == [
        ("GET", "/v1/models/llama-3%2D8b?a=1&b=%20", "abc", b""),
        ("POST", "/v1/embeddings", "abc", b"{}"),
    ]


async def test_provider_tells_rate_limits_and_has_no_metrics():
    async with direct(kind="provider", name="acme") as client:
        answer = await client.post(CHAT, json=chat(max_tokens=1))
        metrics = await client.get("/metrics")
        models = await client.get("/v1/models")

    rate = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    assert rate == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": str(2_000_000 - PROMPT_TOKENS),
        "x-ratelimit-reset-tokens": "0ms",
    }
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.json()["system_fingerprint"] == "fp_standin"
    assert (metrics.status_code, metrics.json()) == (404, {"detail": "Not Found"})
    assert models.json()["data"] == [
        {"id": "llama-3-8b", "object": "model", "created": 1_700_000_000, "owned_by": "acme"}
    ]


async def test_version_unknown_path_and_wrong_method(client):
    version = await client.get("/version")
    unknown = await client.get("/v2/models")
    wrong = await client.post("/v1/models")

    assert version.json() == {"version": "0.11.0+standin"}
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})


async def test_metrics_have_vllm_names_and_count():
    async with direct() as client:
        await client.post(CHAT, json=chat(max_tokens=5, standin_cached_tokens=4))
        await client.post(CHAT, json=chat(max_tokens=3, stream=True))
        await client.post(CHAT, json=chat(), headers={"x-request-id": "r"})
        text = (await client.get("/metrics")).text

    labels = 'engine="0",model_name="llama-3-8b"'
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    whole = len((await _text_of_chat()).split())
    names = {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:prompt_tokens_total": 3 * PROMPT_TOKENS,
        "vllm:generation_tokens_total": 8 + whole,
        "vllm:prefix_cache_queries_total": 3 * PROMPT_TOKENS,
        "vllm:prefix_cache_hits_total": 4,
        "vllm:time_to_first_token_seconds_count": 3,
        # The stream's second and third token; whole answers come at once without a speed limit.
        "vllm:inter_token_latency_seconds_count": 2,
        "vllm:e2e_request_latency_seconds_count": 3,
        "vllm:request_queue_time_seconds_count": 3,
    }
    assert {name: float(lines[f"{name}{{{labels}}}"]) for name in names} == names
    reasons = {
        reason: float(
            lines[
                f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="llama-3-8b"}}'
            ]
        )
        for reason in ("stop", "length", "abort")
    }
    assert reasons == {"stop": 1, "length": 2, "abort": 0}


async def _text_of_chat():
    async with direct() as client:
        answer = (await client.post(CHAT, json=chat())).json()
    return answer["choices"][0]["message"]["content"]


async def loads(client):
    """The running and the waiting requests, by /metrics."""
    lines = (await client.get("/metrics")).text.splitlines()
    found = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("vllm:num_requests_")]
    return tuple(float(value) for value in found)


async def until(predicate):
    """Ask again and again; the test's own time limit ends a wait in vain."""
    while not await predicate():
        pass


async def test_requests_beyond_the_slots_wait_and_beyond_the_queue_are_refused():
    settings = StandinSettings(running_max=1, waiting_max=1)
    with run_standin(settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:

            async def is_load(running, waiting):
                return await loads(client) == (running, waiting)

            stalled = chat(stream=True, standin_fault="stall_mid")
            async with client.stream("POST", CHAT, json=stalled):
                await until(lambda: is_load(1, 0))
                queued = asyncio.ensure_future(client.post(CHAT, json=chat(max_tokens=1)))
                await until(lambda: is_load(1, 1))
                refused = await client.post(CHAT, json=chat())
            answer = await queued
            idle = await loads(client)

    assert refused.status_code == 503
    assert refused.json()["error"] == {
        "message": "server busy, please try again. maximum pending requests exceeded",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    assert answer.json()["usage"]["completion_tokens"] == 1
    assert idle == (0, 0)
    assert [record["outcome"] for record in server.app.records] == [
        "refused:503",
        "fault:stall_mid",
        "ok",
    ]


async def test_lost_client_leaves_the_queue():
    with run_standin(StandinSettings(running_max=1)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:

            async def is_load(running, waiting):
                return await loads(client) == (running, waiting)

            stalled = chat(stream=True, standin_fault="stall_mid")
            async with client.stream("POST", CHAT, json=stalled):
                queued = asyncio.ensure_future(client.post(CHAT, json=chat()))
                await until(lambda: is_load(1, 1))
                queued.cancel()
                await until(lambda: is_load(1, 0))

    ended = [(record["outcome"], record["completion_tokens"]) for record in server.app.records]
    assert ended == [("cancelled", 0), ("fault:stall_mid", 3)]


@pytest.mark.parametrize("tokens_per_s", [0, 400])
async def test_lost_client_stops_its_stream_and_frees_the_slot(tokens_per_s):
    settings = StandinSettings(tokens_per_s=tokens_per_s, running_max=1)
    with run_standin(settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
            body = chat(stream=True, standin_completion_tokens=100_000)
            async with client.stream("POST", CHAT, json=body) as response:
                received = 0
                async for line in response.aiter_lines():
                    received += '"content":' in line
                    if received > 10:
                        break

            async def is_idle():
                return await loads(client) == (0, 0)

            await until(is_idle)
            [record] = await server.ended_records(1)
            after = await client.post(CHAT, json=chat(max_tokens=2))

    assert record["outcome"] == "cancelled"
    assert 10 <= record["completion_tokens"] < 100_000
    assert after.json()["usage"]["completion_tokens"] == 2


async def test_paced_answer_takes_its_time_and_is_exact():
    settings = StandinSettings(
        tokens_per_s=1000, request_tokens_per_s=500, prefill_tokens_per_s=900, ttft_ms=20
    )
    with run_standin(settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
            body = chat(stream=True, standin_completion_tokens=51)
            response = await client.post(CHAT, json=body)

    # 9 tokens of prefill at 900/s, 20 ms, then 50 more tokens at 500/s.
    assert response.elapsed.total_seconds() >= 0.01 + 0.02 + 0.1 - 0.005
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in events(response.text)[:-1])
    assert len(text.split()) == 51
    assert server.app.records[0]["completion_tokens"] == 51


async def test_stop_cuts_open_streams():
    with run_standin(StandinSettings(tokens_per_s=10)) as server:
        client = httpx.AsyncClient(base_url=server.url, timeout=10)
        body = chat(stream=True, standin_completion_tokens=1000)
        response = await client.send(client.build_request("POST", CHAT, json=body), stream=True)
        lines = response.aiter_lines()
        await anext(lines)

    with pytest.raises(httpx.RemoteProtocolError):
        async for _ in lines:
            pass
    await response.aclose()
    await client.aclose()
    assert server.app.records[0]["outcome"] == "cancelled"
