"""Probes one cluster: is it healthy, how loaded, how fast, and what does it serve?"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

import httpx

from clusters.health import Observation
from clusters.probes.connection import server_certificate_expiry
from clusters.probes.exchange import CertificateExpiredError, Exchange, ProbeError, ProbeTarget, Reply
from clusters.probes.listing import Listing, read_listing
from clusters.probes.load import METRIC_NAMES, Load, mean_ttft_ms, measured_tokens_per_s, read_load

logger = logging.getLogger(__name__)

TOTAL_TIMEOUT_S = 5.0
# A busy cluster is looked at twice, this far apart: the growth of its counters is its speed.
SAMPLE_GAP_S = 1.0
MODELS_PATH = "/v1/models"
METRICS_PATH = "/metrics"
# What is not here is asked for its models: free, and it tells a bad credential.
HEALTH_PATHS = {
    "vllm": "/health",
    "sglang": "/health",
    "llamacpp": "/health",
    "tgi": "/health",
    "ollama": "/api/version",
}
# Google lists fifty unless asked for more; Azure's list is free and tells a bad credential, but it names what
# could be deployed there, not what is.
MODELS_PATHS = {"gemini": "/v1beta/models?pageSize=1000", "azure": "/openai/v1/models"}
UNDEPLOYED = frozenset({"azure"})
# Bedrock lists its models at another host. That its own answers at all, be it "no such operation", is all
# that can be had of it for free; a signature that it does not accept is a 403 here too.
REACHED_PATHS = {"bedrock": "/"}


async def probe(
    *,
    cluster: ProbeTarget,
    client: httpx.AsyncClient,
    now_s: int,
    nonce: str,
    sample_gap_s: float = SAMPLE_GAP_S,
) -> Observation:
    """What the cluster says of itself, within five seconds; never raises for what the cluster does.

    1. health: the backend's own endpoint; anything but 2xx ends the probe;
    2. credential and models: GET /v1/models, where there is a credential, or models are to be discovered;
    3. load: the metrics, twice while it is busy. What fails here leaves the load unknown.

    `nonce` is at least 8 letters or digits, unlike any before.
    """
    if cluster.secret_problem:
        return Observation(is_healthy=False, reason=cluster.secret_problem, is_conclusive=True)
    exchange = Exchange(cluster=cluster, client=client, now_s=now_s, nonce=nonce)
    try:
        async with asyncio.timeout(TOTAL_TIMEOUT_S) as deadline:
            seen = await _look(cluster=cluster, exchange=exchange)
            seen = replace(
                seen,
                clock_skew_s=exchange.clock_skew_s,
                certificate_expires_at=exchange.certificate_expires_at,
            )
            deadline_s = deadline.when()
        if cluster.backend not in METRIC_NAMES:
            return seen
        with contextlib.suppress(TimeoutError):
            # What the metrics do not say in the time that is left stays unknown.
            async with asyncio.timeout_at(deadline_s):
                seen = await _with_load(
                    seen, exchange=exchange, backend=cluster.backend, sample_gap_s=sample_gap_s
                )
    except CertificateExpiredError:
        return await _expired(cluster)
    except ProbeError as error:
        return Observation(
            is_healthy=False,
            reason=error.reason,
            is_conclusive=error.is_conclusive,
            is_absent=error.is_absent,
            clock_skew_s=exchange.clock_skew_s,
        )
    except TimeoutError:
        return Observation(
            is_healthy=False, reason=f"no answer within {TOTAL_TIMEOUT_S:.0f} s", is_absent=True
        )
    return seen


async def _expired(cluster: ProbeTarget) -> Observation:
    expired_at = await server_certificate_expiry(cluster=cluster)
    when = "" if expired_at is None else f" on {expired_at:%Y-%m-%d}"
    return Observation(
        is_healthy=False,
        reason=f"the server certificate of {cluster.name} expired{when}: renew it on the cluster's side",
        is_conclusive=True,
        certificate_expires_at=expired_at,
    )


async def _look(*, cluster: ProbeTarget, exchange: Exchange) -> Observation:
    """Health, and where it serves a purpose, the models."""
    if path := REACHED_PATHS.get(cluster.backend):
        reply = await exchange.get(path)
        if httpx.codes.is_server_error(reply.status):
            _check_health(reply=reply, path=path)
        return _observation(reply=reply, listing=None)
    path = HEALTH_PATHS.get(cluster.backend)
    if path is None:
        return await _listed(cluster=cluster, exchange=exchange)
    reply = await exchange.get(path)
    _check_health(reply=reply, path=path)
    listing = None
    is_followed = cluster.discovery == "always" or not cluster.deployments
    if is_followed or cluster.auth_type in {"bearer", "hmac"}:
        models_reply = await exchange.get(MODELS_PATH)
        listing = read_listing(models_reply.body) if models_reply.status == httpx.codes.OK else None
    return _observation(reply=reply, listing=listing)


async def _listed(*, cluster: ProbeTarget, exchange: Exchange) -> Observation:
    """Of what has no health endpoint: its list of models answers, and is one."""
    path = MODELS_PATHS.get(cluster.backend, MODELS_PATH)
    reply = await exchange.get(path)
    _check_health(reply=reply, path=path)
    listing = read_listing(reply.body)
    if listing is None:
        raise ProbeError(f"{path} answers no list of models: check endpoint and backend")
    return _observation(reply=reply, listing=None if cluster.backend in UNDEPLOYED else listing)


def _check_health(*, reply: Reply, path: str) -> None:
    """Raise `ProbeError` for all but 2xx, saying what the status tells an operator."""
    status = reply.status
    if httpx.codes.is_success(status):
        return
    if httpx.codes.is_redirect(status):
        raise ProbeError(f"{path} redirects (HTTP {status}), which is not followed: correct the endpoint")
    if status == httpx.codes.NOT_FOUND:
        raise ProbeError(f"there is no {path} (HTTP 404): check endpoint and backend")
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        raise ProbeError("not ready (HTTP 503): starting, or its engine is dead", is_absent=True)
    is_absent = status in {httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT}
    raise ProbeError(f"{path} answers HTTP {status}", is_absent=is_absent)


async def _with_load(
    seen: Observation, *, exchange: Exchange, backend: str, sample_gap_s: float
) -> Observation:
    """The observation with the load in it; as it was where the metrics fail: it is healthy by now."""
    before = await _scrape(exchange=exchange, backend=backend)
    if before is None:
        return seen
    before_s = time.monotonic()
    after = before
    if before.running_count:
        await asyncio.sleep(sample_gap_s)
        after = await _scrape(exchange=exchange, backend=backend) or before
    gap_s = time.monotonic() - before_s
    return replace(
        seen,
        queue_depth=after.queue_depth,
        running_count=after.running_count,
        generated_tokens_total=after.generated_tokens_total,
        tokens_per_s=measured_tokens_per_s(before=before, after=after, gap_s=gap_s),
        ttft_ms=mean_ttft_ms(before=before, after=after),
    )


async def _scrape(*, exchange: Exchange, backend: str) -> Load | None:
    """None where the backend has its metrics switched off, or they cannot be had now."""
    try:
        reply = await exchange.get(METRICS_PATH)
    except ProbeError as error:
        # Of llama.cpp's free endpoints only this one asks for the key; elsewhere a proxy may guard it.
        if error.is_conclusive and backend == "llamacpp":
            raise
        logger.info("probe_without_load reason=%s", error.reason)
        return None
    if reply.status != httpx.codes.OK:
        return None
    return read_load(backend=backend, text=reply.body.decode(errors="replace"))


def _observation(*, reply: Reply, listing: Listing | None) -> Observation:
    return Observation(
        is_healthy=True,
        duration_ms=reply.duration_ms,
        models=None if listing is None else listing.models,
        context_windows=() if listing is None else listing.context_windows,
    )
