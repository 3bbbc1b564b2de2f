"""The wake hook for KEDA that is shipped as an example, run against a fake of Kubernetes' API server."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest
from ruamel.yaml import YAML

from clusters.signing import BearerSigner
from clusters.wake_hook import WakeCall, WakeHookError, call_hook
from tests.clusters.rows import NOW
from tests.fakes.ports import free_port

EXAMPLE = Path(__file__).resolve().parent.parent / "deploy" / "wake-hook.yaml"
TOKEN = "shared-with-tollgate"
START_S_MAX = 10.0


@pytest.fixture(scope="module")
def documents():
    loaded = YAML(typ="safe", pure=True).load_all(EXAMPLE)
    return {document["kind"]: document for document in loaded}


@pytest.fixture
def api():
    """Keeps what it is sent: (path, headers, document)."""

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self):
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            server.received.append((self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args):
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hook(documents, api, tmp_path):
    """Where it listens."""
    script = tmp_path / "hook.py"
    script.write_text(documents["ConfigMap"]["data"]["hook.py"])
    (tmp_path / "namespace").write_text("models\n")
    (tmp_path / "token").write_text("service-account\n")
    port = free_port()
    given = {
        "ACCOUNT": str(tmp_path),
        "API": f"http://127.0.0.1:{api.server_port}",
        "PORT": str(port),
        "SCALED_OBJECT": "vllm",
        "REPLICAS_MAX": "4",
        "HOLD_S": "0.3",
        "TOKEN": TOKEN,
    }
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, **given})
    try:
        until(lambda: is_listening(port))
        yield f"http://127.0.0.1:{port}/wake"
    finally:
        process.terminate()
        process.wait()


def is_listening(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def until(condition):
    deadline_s = time.monotonic() + START_S_MAX
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


async def wake(url, *, replicas=2, token=TOKEN):
    return await call_hook(
        WakeCall(
            cluster="gpu",
            endpoint=url,
            replicas_wanted=replicas,
            reason="spill",
            signer=BearerSigner(token),
            allow_private_network=True,
        ),
        now=NOW,
    )


def asked(api):
    return [document["spec"]["minReplicaCount"] for _, _, document in api.received]


async def test_hook_raises_the_least_number_of_replicas_and_lowers_it_again(hook, api):
    await wake(hook)
    await wake(hook, replicas=9)
    until(lambda: len(api.received) == 4)

    assert asked(api) == [0, 2, 4, 0]
    path, headers, _ = api.received[1]
    assert path == "/apis/keda.sh/v1alpha1/namespaces/models/scaledobjects/vllm"
    told = {name.lower(): value for name, value in headers.items()}
    assert told["content-type"] == "application/merge-patch+json"
    assert told["authorization"] == "Bearer service-account"


async def test_hook_takes_nothing_without_its_token(hook, api):
    with pytest.raises(WakeHookError, match="HTTP 401"):
        await wake(hook, token="another")

    assert asked(api) == [0]


def test_hook_may_patch_its_scaled_object_and_nothing_else(documents):
    assert documents["Role"]["rules"] == [
        {
            "apiGroups": ["keda.sh"],
            "resources": ["scaledobjects"],
            "resourceNames": ["vllm"],
            "verbs": ["patch"],
        }
    ]
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
