import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from django.core.management import CommandError, call_command

from clusters.demo.standin import Standin, StandinSettings
from clusters.management.commands.demo_cluster import load_verify
from clusters.signing import Rfc9421Signer
from tests.clusters.demo.replies_of import CHAT, chat

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def start_command():
    """Starts `manage.py` commands that print the URL they serve at."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, ROOT / "manage.py", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DEMO_SECRET": "s3cret"},
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_demo_cluster_serves_and_ends_cleanly(start_command, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    options = ["--port=0", "--models=a,b", "--tokens-per-s=0", f"--ledger={ledger}"]

    process, url = start_command("demo_cluster", *options)
    with httpx.Client(base_url=url) as client:
        answer = client.post(CHAT, json=chat(model="b", max_tokens=3))
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=5) == 0
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert len(ledger.read_text().splitlines()) == 2


@pytest.mark.slow
def test_demo_cluster_refuses_what_is_not_signed(start_command):
    process, url = start_command("demo_cluster", "--port=0", "--hmac-secret-env=DEMO_SECRET")
    with httpx.Client(base_url=url) as client:
        refused = client.post(CHAT, json=chat())
        health = client.get("/health")
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=5) == 0
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert health.status_code == 200


@pytest.mark.slow
def test_demo_llama_writes_its_model_and_serves(start_command, tmp_path):
    model_path = tmp_path / "models" / "tiny.gguf"

    process, url = start_command("demo_llama", "--port=0", f"--model-path={model_path}")
    with httpx.Client(base_url=url) as client:
        health = client.get("/health")
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=5) == 0
    assert health.json() == {"status": "ok"}
    assert model_path.stat().st_size == 4_082_688


async def test_demo_cluster_serves_what_the_gateway_signed_once(monkeypatch):
    monkeypatch.setenv("DEMO_SECRET", "s3cret")
    app = Standin(StandinSettings(verify=load_verify("DEMO_SECRET")))
    body = b'{"model": "llama-3-8b", "prompt": "hello"}'
    headers = Rfc9421Signer(secrets=[("key-1", "s3cret")]).headers(
        method="POST",
        authority="standin",
        path="/v1/completions",
        query="a=1",
        body=body,
        now_s=int(time.time()),  # noqa: TID251 -- the verifier reads the clock too
        nonce="nonce-1-of-this-test",
    )

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://standin") as client:
        url = "/v1/completions?a=1"
        served = await client.post(url, content=body, headers=headers)
        replayed = await client.post(url, content=body, headers=headers)

    assert (served.status_code, replayed.status_code) == (200, 401)


def test_demo_cluster_says_that_the_secret_is_missing(monkeypatch):
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)

    with pytest.raises(CommandError) as caught:
        call_command("demo_cluster", "--hmac-secret-env=NO_SUCH_SECRET")

    assert str(caught.value) == "NO_SUCH_SECRET is empty; set it to the cluster's shared secret"


def test_demo_llama_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "clusters.demo.llama_server", raising=False)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    with pytest.raises(CommandError) as caught:
        call_command("demo_llama", f"--model-path={tmp_path}/tiny.gguf")

    assert str(caught.value) == "xllamacpp is not installed: pip install -r requirements-dev.txt"
