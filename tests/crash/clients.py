"""Callers that note what they got: how many tokens, whether they saw the end, and what they were told."""

import asyncio
from dataclasses import dataclass, field

import httpx
import orjson

CHAT_PATH = "/v1/chat/completions"
TIMEOUT_S = 20.0
OUTPUT_TOKENS_MAX = 40
PAUSE_S = 0.01
# The model that each kind of request asks for, and whether it is a stream.
KINDS = {
    "plain": ("main", False),
    "stream": ("main", True),
    "slow": ("slow", True),
    "failover": ("frail", True),
}


@dataclass(slots=True, kw_only=True)
class Answer:
    """What one caller got. `status` 0: not even headers; `tokens` are counted from the words it was given."""

    kind: str
    status: int = 0
    request_id: str = ""
    tokens: int = 0
    is_complete: bool = False
    usage: dict = field(default_factory=dict)
    error: str = ""


def body_of(kind, *, tokens):
    model, is_stream = KINDS[kind]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": OUTPUT_TOKENS_MAX,
        "standin_completion_tokens": tokens,
    }
    if is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class Callers:
    """Many callers over one pool of connections; every answer is kept."""

    def __init__(self):
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits)
        self.answers = []

    async def ask(self, url, *, key, kind, tokens=12):
        answer = Answer(kind=kind)
        self.answers.append(answer)
        request = self._client.build_request(
            "POST",
            url + CHAT_PATH,
            content=orjson.dumps(body_of(kind, tokens=tokens)),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                await self._read(answer, response)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            answer.error = type(error).__name__
        return answer

    async def _read(self, answer, response):
        answer.status = response.status_code
        answer.request_id = response.headers["x-request-id"]
        if answer.status != httpx.codes.OK:
            answer.error = orjson.loads(await response.aread())["error"]["code"]
        elif response.headers["content-type"].startswith("text/event-stream"):
            await self._read_stream(answer, response)
        else:
            document = orjson.loads(await response.aread())
            answer.tokens = words(document["choices"][0]["message"]["content"])
            answer.usage = document["usage"]
            answer.is_complete = True

    async def _read_stream(self, answer, response):
        rest = b""
        async for chunk in response.aiter_raw():
            *frames, rest = (rest + chunk).split(b"\n\n")
            for frame in frames:
                note_frame(answer, frame.removeprefix(b"data: "))

    async def aclose(self):
        await self._client.aclose()


def note_frame(answer, data):
    if data == b"[DONE]":
        answer.is_complete = True
        return
    event = orjson.loads(data)
    if "error" in event:
        answer.error = event["error"]["code"]
        return
    answer.usage = event.get("usage") or answer.usage
    for choice in event["choices"]:
        answer.tokens += words(choice["delta"].get("content") or "")


def words(text):
    """A stand-in's token is a word."""
    return len(text.split())


async def keep_asking(callers, *, fleet, pick, is_over):
    """One caller after another, at whichever gateway lives; `pick` gives (key, kind, tokens)."""
    while not is_over():
        worker = fleet.any_live_worker()
        if worker is None:
            await asyncio.sleep(PAUSE_S)
            continue
        key, kind, tokens = pick()
        answer = await callers.ask(worker.url, key=key, kind=kind, tokens=tokens)
        if answer.status != httpx.codes.OK:
            await asyncio.sleep(PAUSE_S)
