"""Calls a cluster's wake hook: one POST that says how many replicas are wanted, bounded in time and size.

The contract, which README.md tells to whoever writes one:

1. POST, `{"cluster": NAME, "replicas_wanted": N, "reason": "spill" | "request"}`. N is a least number: what
   runs more than that stays. The same call may come again.
2. With a secret it carries `Authorization: Bearer` or a signature by RFC 9421, as for the cluster itself.
3. 2xx: it was taken. The answer may say `{"replicas": N}`: how many run or start now, all of them paid for.
   Anything else is tried again with growing pauses; redirects are not followed.
4. When to take replicas down again is the scaler's own matter.
"""

import asyncio
import secrets
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import httpx
import orjson

from clusters.models import Cluster, ClusterSecret
from clusters.probes import open_client
from clusters.probes.exchange import ProbeError
from clusters.record_checks import REPLICAS_MAX
from clusters.signing import Signer, SigningError, TlsIdentity, build_signer
from clusters.vault import VaultError, opened

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024
NONCE_BYTES = 16


class WakeHookError(Exception):
    """The hook did not take the call, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeCall:
    """What is asked of whom; `signer` proves who asks."""

    cluster: str
    endpoint: str
    replicas_wanted: int
    reason: str
    signer: Signer
    allow_private_network: bool = False
    tls: TlsIdentity | None = None


def prepare_call(*, cluster: Cluster, replicas_wanted: int, reason: str) -> WakeCall:
    """Opens the hook's secret. Raises WakeHookError where it is missing or cannot be opened."""
    secrets_live = ClusterSecret.objects.filter(
        cluster=cluster, purpose=ClusterSecret.Purpose.WAKE, is_active=True
    )
    try:
        # The signer knows a secret by the kind of authentication that it is for.
        known = [
            (cluster.wake_auth, *opened(secret)[1:]) for secret in secrets_live.order_by("-created_at", "-id")
        ]
        signer = build_signer(auth_type=cluster.wake_auth, secrets=known)
    except (VaultError, SigningError) as error:
        raise WakeHookError(f"the wake hook's secret cannot be used: {error}") from error
    return WakeCall(
        cluster=cluster.name,
        endpoint=cluster.wake_url,
        replicas_wanted=replicas_wanted,
        reason=reason,
        signer=signer,
        allow_private_network=cluster.allow_private_network,
    )


async def call_hook(call: WakeCall, *, now: datetime) -> int | None:
    """How many replicas run or start by what the hook says; None: it took the call and says nothing.

    Raises WakeHookError within TIMEOUT_S.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S), open_client(cluster=call) as client:
            return await _post(call, client=client, now_s=int(now.timestamp()))
    except ProbeError as error:
        raise WakeHookError(error.reason) from error
    except TimeoutError as error:
        raise WakeHookError(f"no answer within {TIMEOUT_S:.0f} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise WakeHookError(f"no answer: {type(error).__name__} {error}".strip()) from error


async def _post(call: WakeCall, *, client: httpx.AsyncClient, now_s: int) -> int | None:
    body = orjson.dumps(
        {"cluster": call.cluster, "replicas_wanted": call.replicas_wanted, "reason": call.reason}
    )
    parts = urlsplit(call.endpoint)
    signed = call.signer.headers(
        method="POST",
        authority=parts.netloc,
        path=parts.path or "/",
        query="",
        body=body,
        now_s=now_s,
        nonce=secrets.token_hex(NONCE_BYTES),
    )
    headers = [("content-type", "application/json"), ("user-agent", "tollgate-wake"), *signed]
    async with client.stream("POST", call.endpoint, content=body, headers=headers) as answer:
        if not httpx.codes.is_success(answer.status_code):
            raise WakeHookError(f"the wake hook answers HTTP {answer.status_code}")
        return _replicas(await _beginning(answer))


async def _beginning(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            return b""
    return bytes(body)


def _replicas(body: bytes) -> int | None:
    """What the answer says, if it says so in our words: whatever else it is, the call was taken."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    replicas = document.get("replicas") if isinstance(document, dict) else None
    is_count = type(replicas) is int and 0 < replicas <= REPLICAS_MAX
    return replicas if is_count else None
