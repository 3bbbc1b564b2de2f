"""Which of equally good clusters gets a request: the one that holds its prefix, within its share of the load.

A tie-break among clusters of one price level that meet the latency objective, never against either: a hot
prefix or a busy session gets no more than its share of the places, and what is beyond goes where it would go
without affinity.
"""

import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil

from routing.eligibility import exclusion_reason
from routing.learning import NOTHING_LEARNT, States
from routing.scoring import lateness
from routing.types import Affinity, Deployment, RequestProfile, RoutingSettings

BLOCK_BYTES = 1024
BLOCKS_MAX = 16
PREFIXES_MAX = 65_536
HOLDERS_MAX = 4
# What was in an engine's cache so long ago has likely made room for something else.
PREFIX_KEPT_S = 600.0
# Bounded loads (Mirrokni et al. 2018): affinity takes no cluster above this multiple of the mean.
LOAD_MAX = 1.25
# So much of a cluster's places is no load yet: an idle fleet need not be even.
FREE_SHARE = 0.125
CONSIDERED_MAX = 3
# Blocks that place a prefix nobody is known to hold: enough to tell prompts apart, and the same in each turn
# of a conversation.
RENDEZVOUS_BLOCKS = 4
_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def prefix_hashes(prompt: bytes) -> tuple[int, ...]:
    """A hash of each whole block's prefix, shortest first; only the first blocks count."""
    view = memoryview(prompt)
    hashes = []
    chained = 0
    for end in range(BLOCK_BYTES, min(len(prompt), BLOCK_BYTES * BLOCKS_MAX) + 1, BLOCK_BYTES):
        chained = zlib.crc32(view[end - BLOCK_BYTES : end], chained)
        hashes.append(chained)
    return tuple(hashes)


class Prefixes:
    """Which deployments served a prefix lately, by its hash; bounded, the least recently used goes first."""

    def __init__(self, *, prefixes_max: int = PREFIXES_MAX) -> None:
        self._prefixes_max = prefixes_max
        self._holders: dict[int, tuple[float, tuple[str, ...]]] = {}

    def note(self, hashes: Iterable[int], *, deployment_id: str, now_s: float) -> None:
        """The deployment holds these prefixes from now on."""
        holders = self._holders
        for prefix in hashes:
            _, known = holders.pop(prefix, (0.0, ()))
            if not known or known[0] != deployment_id:
                known = (deployment_id, *(one for one in known if one != deployment_id))[:HOLDERS_MAX]
            holders[prefix] = (now_s, known)
        while len(holders) > self._prefixes_max:
            del holders[next(iter(holders))]

    def holders(self, hashes: Sequence[int], *, now_s: float) -> tuple[str, ...]:
        """Who holds the longest prefix that anybody is known to hold, the latest first."""
        for prefix in reversed(hashes):
            found = self._holders.get(prefix)
            if found is not None and now_s - found[0] < PREFIX_KEPT_S:
                return found[1]
        return ()


def kept(
    deployments: Sequence[Deployment],
    *,
    affinity: Affinity,
    profile: RequestProfile,
    settings: RoutingSettings,
    state: States,
    now_s: float,
    trusts_polls: bool,
) -> tuple[Deployment, float] | None:
    """Of equally dear deployments the one that holds the request's prefix, and its share of the objective.

    None where none of those considered is eligible, in time and within its share of the load.
    """
    wanted = _wanted(deployments, affinity)
    if not wanted:
        return None
    for deployment in wanted:
        learnt = state.get(deployment.id, NOTHING_LEARNT)
        if _is_above_its_share(deployment, learnt.all_in_flight, deployments, state):
            continue
        if exclusion_reason(
            deployment,
            profile=profile,
            state=learnt,
            settings=settings,
            now_s=now_s,
            trusts_polls=trusts_polls,
        ):
            continue
        share = lateness(deployment, profile=profile, state=learnt, settings=settings, now_s=now_s)
        if share <= 1.0:
            return deployment, share
    return None


def _wanted(deployments: Sequence[Deployment], affinity: Affinity) -> list[Deployment]:
    """Who served its like, best first; where nobody here did, by rendezvous, so that all processes agree."""
    served_by = affinity.served_by
    if served_by:
        found = {one.id: one for one in deployments if one.id in served_by}
        wanted = [found[one] for one in served_by[:CONSIDERED_MAX] if one in found]
        if wanted:
            return wanted
    hashes = affinity.prefix_hashes
    if not hashes:
        return []
    key = hashes[min(len(hashes), RENDEZVOUS_BLOCKS) - 1] * _MIX & _MASK
    ranks = [(_seed(one.id) ^ key) * _MIX & _MASK for one in deployments]
    return [deployments[ranks.index(max(ranks))]]


def _load_per_place(deployments: Sequence[Deployment], state: States) -> float:
    """Requests in flight, this one included, per place of the clusters that are up."""
    load, places = 1, 0
    for one in deployments:
        if one.state == "active" and one.health != "unhealthy":
            places += one.in_flight_max
            learnt = state.get(one.id)
            if learnt is not None:
                load += learnt.all_in_flight
    return load / places if places else 0.0


def _is_above_its_share(
    deployment: Deployment, in_flight: int, deployments: Sequence[Deployment], state: States
) -> bool:
    if in_flight < int(FREE_SHARE * deployment.in_flight_max):
        return False
    return in_flight >= ceil(LOAD_MAX * _load_per_place(deployments, state) * deployment.in_flight_max)


@lru_cache(maxsize=4096)
def _seed(deployment_id: str) -> int:
    return int.from_bytes(blake2b(deployment_id.encode(), digest_size=8).digest(), "big")
