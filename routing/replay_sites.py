"""Real deployments as sites of the simulation, and what is assumed where nothing is known of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from routing.cost import nameplate_tokens_per_s
from routing.physics import Chance, Site
from routing.types import Deployment

# A decode step of a full batch takes no longer than this: more streams than the speed feeds so wait.
FULL_STEP_S = 0.05
# The part of a full batch's step that a lone stream takes too; the fitted profiles have 0.5 to 0.7.
LONE_STEP_SHARE = 0.6
# Prompts are read so many times as fast as answers are written; the fitted profiles have 4 to 8.
PREFILL_SPEEDUP = 8
CHUNK_TOKENS = 512
KV_TOKENS = 10**9
# A provider of which nothing is measured: its first token, its seconds per token, and their spread.
PROVIDER_TTFT_S = 0.6
PROVIDER_TPOT_S = 0.02
PROVIDER_TTFT_SIGMA = 0.3


def sites_of(
    deployments: Sequence[Deployment], *, replicas: Mapping[str, int], chance_of: Callable[[int], Chance]
) -> list[Site]:
    """A site for each cluster, by name; what several models on it have in common is read off the first."""
    clusters: dict[str, Deployment] = {}
    for deployment in sorted(deployments, key=lambda d: d.id):
        clusters.setdefault(deployment.cluster, deployment)
    sites = []
    for number, name in enumerate(sorted(clusters)):
        deployment = clusters[name]
        count = replicas.get(name, 1)
        given, profiles = _provider(deployment), {}
        if deployment.cluster_kind == "own":
            given, profiles = (
                _own(deployment, replicas=count),
                {name: engine_profile(deployment, replicas=count)},
            )
        sites.append(Site(number, given, profiles, chance_of(1000 + number)))
    return sites


def engine_profile(deployment: Deployment, *, replicas: int) -> dict[str, float]:
    """How one engine of an own cluster steps, from its speed (rated, else measured, else assumed)."""
    tokens_per_s = nameplate_tokens_per_s(deployment)
    streams_max = -(-deployment.in_flight_max // replicas)
    batch_max = min(streams_max, max(1, int(tokens_per_s * FULL_STEP_S)))
    full_step_s = batch_max / tokens_per_s
    return {
        "c0": full_step_s * LONE_STEP_SHARE,
        "c1": full_step_s * (1 - LONE_STEP_SHARE) / batch_max,
        "c2": 1 / (tokens_per_s * PREFILL_SPEEDUP),
        "chunk": CHUNK_TOKENS,
        "max_seqs": batch_max,
        "kv_tokens": KV_TOKENS,
    }


def _own(deployment: Deployment, *, replicas: int) -> dict[str, Any]:
    # The hours are billed apart, as integers.
    return {
        "name": deployment.cluster,
        "kind": "committed",
        "profile": deployment.cluster,
        "usd_per_hour": 0.0,
        "replicas": replicas,
        "rtt": deployment.rtt_s,
    }


def _provider(deployment: Deployment) -> dict[str, Any]:
    # Tokens are priced apart, as integers.
    given = {
        "name": deployment.cluster,
        "kind": "external",
        "usd_per_mtok_in": 0.0,
        "usd_per_mtok_out": 0.0,
        "ttft_p50": PROVIDER_TTFT_S if deployment.latency_ms is None else deployment.latency_ms / 1000,
        "ttft_sigma": PROVIDER_TTFT_SIGMA,
        "tpot_p50": PROVIDER_TPOT_S,
        "rtt": deployment.rtt_s,
    }
    limits = {"rpm": deployment.rpm_max, "tpm": deployment.tpm_max}
    return given | {name: limit for name, limit in limits.items() if limit is not None}
