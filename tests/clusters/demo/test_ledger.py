import json

import httpx

from clusters.demo.standin import Standin, StandinSettings
from tests.clusters.demo.replies_of import CHAT, PROMPT_TOKENS, chat

HEADERS = {"x-request-id": "req_1", "x-gateway-attempt-id": "att_1"}


def client_of(app):
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://standin")


def without_time(line):
    return {name: value for name, value in line.items() if name != "at"}


async def test_ledger_has_two_lines_for_each_attempt(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"older": true}\n')
    app = Standin(StandinSettings(ledger_path=path))

    async with client_of(app) as client:
        await client.post(CHAT, json=chat(max_tokens=2), headers=HEADERS)
        await client.post(CHAT, json=chat(stream=True, standin_fault="http_500"))
        await client.get("/v1/models", headers=HEADERS)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    answered = {"request_id": "req_1", "attempt_id": "att_1", "path": CHAT}
    anonymous = {"request_id": None, "attempt_id": None, "path": CHAT}
    counted = {"model": "llama-3-8b", "prompt_tokens": PROMPT_TOKENS}
    assert [without_time(line) for line in lines[1:]] == [
        {"event": "received", **answered},
        {**answered, **counted, "completion_tokens": 2, "outcome": "ok", "stream": False},
        {"event": "received", **anonymous},
        {
            **anonymous,
            **counted,
            "completion_tokens": 0,
            "outcome": "fault:http_500",
            "stream": True,
        },
    ]
    assert lines[0] == {"older": True}
    assert [*app.received, *app.records] == [lines[1], lines[3], lines[2], lines[4]]


async def test_record_is_there_before_the_last_bytes():
    app = Standin(StandinSettings())
    seen = []

    async def watching(scope, receive, send):
        async def watched_send(message):
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            seen.append((is_last, len(app.received), len(app.records)))
            await send(message)

        await app(scope, receive, watched_send)

    async with client_of(watching) as client:
        await client.post(CHAT, json=chat(stream=True, max_tokens=1))

    # The head, the content and the end of the stream.
    assert seen == [(False, 1, 0), (False, 1, 0), (True, 1, 1)]


async def test_received_line_is_there_before_the_body_is_read():
    app = Standin(StandinSettings())
    seen = []

    async def watching(scope, receive, send):
        async def watched_receive():
            seen.append(len(app.received))
            return await receive()

        await app(scope, watched_receive, send)

    async with client_of(watching) as client:
        await client.post(CHAT, json=chat())

    assert seen[0] == 1
