import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import httpx
import pytest

from clusters.demo.tiny_model import write_tiny_model
from tests.clusters.demo.replies_of import CHAT, events

RUN = """
import sys
from pathlib import Path
from clusters.demo.llama_server import serve
def ready(url):
    print(url, flush=True)
serve(model_path=Path(sys.argv[1]), host="127.0.0.1", port=0, api_key="k", parallel=2, ready=ready)
"""
HEADERS = {"authorization": "Bearer k"}
MESSAGES = [{"role": "user", "content": "the gateway"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    url: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def start_llama(tmp_path_factory):
    """Starts servers, each in a process of its own; those that still run are ended at last."""
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_tiny_model(path=path)
    started = []

    def start(*, stdin=subprocess.DEVNULL):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        started.append(process)
        assert process.stdout is not None
        return Llama(url=process.stdout.readline().strip(), process=process)

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def llama(start_llama):
    return start_llama()


@pytest.fixture
async def client(llama):
    async with httpx.AsyncClient(base_url=llama.url, headers=HEADERS, timeout=10) as client:
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
