"""A cluster to probe, and a fake server that answers from a table, both in memory."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from clusters.probes import probe
from clusters.signing import NoneSigner

NOW_S = 1_900_000_000


@dataclass(frozen=True, kw_only=True)
class Target:
    name: str = "metal"
    endpoint: str = "http://cluster.example:8000"
    kind: str = "own"
    backend: str = "vllm"
    auth_type: str = "none"
    allow_private_network: bool = True
    signer: Any = field(default_factory=NoneSigner)
    tls: Any = None
    secret_problem: str = ""
    deployments: tuple = ("known",)
    discovery: str = "empty"


class FakeServer:
    """ASGI: path -> (status, body), or a list of them, one for each request; anything else is 404."""

    def __init__(self, replies):
        self.replies = {
            path: list(given) if isinstance(given, list) else given for path, given in replies.items()
        }
        self.requests = []

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["method"], scope["path"], headers))
        reply = self.replies.get(scope["path"], (404, b""))
        if isinstance(reply, list):
            reply = reply.pop(0)
        status, body = reply
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body.encode() if isinstance(body, str) else body})


async def ask(server, *, sample_gap_s=0.06, **values):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server)) as client:
        return await probe(
            cluster=Target(**values),
            client=client,
            now_s=NOW_S,
            nonce="nonce-0001",
            sample_gap_s=sample_gap_s,
        )
