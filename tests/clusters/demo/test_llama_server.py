import signal
import subprocess

import httpx
import pytest

from tests.clusters.demo.replies_of import CHAT, events
from tests.fakes.llama_server import llama_starter

HEADERS = {"authorization": "Bearer k"}
MESSAGES = [{"role": "user", "content": "the gateway"}]


@pytest.fixture(scope="session")
def start_llama(tmp_path_factory):
    with llama_starter(tmp_path_factory.mktemp("llama"), api_key="k") as start:
        yield start


@pytest.fixture(scope="session")
def llama(start_llama):
    return start_llama()


@pytest.fixture
async def client(llama):
    """A connection for each request: about one in 200 streams ends with its connection closed."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=llama.url, headers=HEADERS, timeout=10, limits=limits) as client:
        yield client


async def test_llama_streams_chat_with_exact_usage(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    limits = {"max_tokens": 12, "ignore_eos": True}
    body = {"model": "tiny-bigram", "messages": MESSAGES, **options, **limits}
    rendered = "user : the gateway assistant :"

    response = await client.post(CHAT, json=body)
    tokens = await client.post("/tokenize", json={"content": rendered, "add_special": True})

    *chunks, done = events(response.text)
    assert done == "[DONE]"
    usage = chunks[-1]["usage"]
    prompt_tokens = len(tokens.json()["tokens"])
    assert {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 12,
        "total_tokens": prompt_tokens + 12,
    }
    assert [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]][-1] == "length"


async def test_llama_embeds_beside_chat_and_tells_metrics(client):
    embedding = await client.post("/v1/embeddings", json={"model": "tiny-bigram", "input": "the gateway"})
    chat = await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2})
    models = await client.get("/v1/models")
    metrics = await client.get("/metrics")

    assert len(embedding.json()["data"][0]["embedding"]) == 576
    assert chat.json()["usage"]["completion_tokens"] <= 2
    assert [model["id"] for model in models.json()["data"]] == ["tiny-bigram"]
    assert "llamacpp:requests_processing" in metrics.text


async def test_llama_asks_for_its_key(llama):
    async with httpx.AsyncClient(base_url=llama.url) as client:
        refused = await client.post(CHAT, json={"messages": MESSAGES})
        health = await client.get("/health")

    assert (refused.status_code, health.status_code) == (401, 200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_llama_ends_cleanly_on_a_signal_in_the_middle_of_a_stream(start_llama, number):
    server = start_llama()
    body = {"prompt": "the", "max_tokens": 8000, "ignore_eos": True, "stream": True}

    with (
        httpx.Client(base_url=server.url, headers=HEADERS) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        server.process.send_signal(number)

        assert server.process.wait(timeout=5) == 0
        with pytest.raises(httpx.TransportError):
            for _ in pieces:
                pass


def test_llama_ends_with_its_parent(start_llama):
    server = start_llama(stdin=subprocess.PIPE)

    assert server.process.stdin is not None
    server.process.stdin.close()

    assert server.process.wait(timeout=5) == 0
