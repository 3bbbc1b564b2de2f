"""Folds what probes saw into a cluster's health, and says when the next probe is due (pure)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

FAILURES_UNTIL_UNHEALTHY = 2
INTERVALS_MAX = 5
# A cluster that recovers is seen within a minute, the prober's own tick included.
DOWN_INTERVAL_S_MAX = 58
# After a first failure the second look comes soon: either it is down or it was a hiccup.
SUSPECT_INTERVAL_S = 5
# What is waited for is looked at as often as the prober runs: a cluster that was woken, one that live traffic
# finds failing, one that refuses connections, which costs nothing and mostly is a restart.
AWAITED_INTERVAL_S = 1
QUICK_LOOKS = 60
JITTER_PERMILLE = 100
LATENCY_NOISE_MS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one probe saw. `None` means that the cluster did not say, never zero."""

    is_healthy: bool
    reason: str = ""
    duration_ms: int = 0  # of the health request alone
    is_conclusive: bool = False  # a failure that needs no second look: refused connection or credential
    is_absent: bool = False  # nobody answered there, or only a proxy that has nobody behind it
    queue_depth: int | None = None
    running_count: int | None = None
    generated_tokens_total: int | None = None
    tokens_per_s: int | None = None
    ttft_ms: int | None = None
    clock_skew_s: int | None = None  # positive where the cluster's clock is ahead
    certificate_expires_at: datetime | None = None  # the server's
    models: tuple[str, ...] | None = None
    context_windows: tuple[tuple[str, int], ...] = ()  # (model, tokens), for those that said so
    address_count: int | None = None  # of a cluster whose addresses were probed each by itself
    healthy_address_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A cluster's health between two probes."""

    health: str  # healthy | unhealthy | unknown
    failure_count: int
    is_waking: bool = False
    is_suspected: bool = False  # live traffic has failed there since the latest probe
    quick_look_count: int = 0  # how many looks in quick succession are left


def folded(*, condition: Condition, observation: Observation) -> Condition:
    """Unhealthy after two failures in a row, or one that is conclusive; healthy after one success."""
    if observation.is_healthy:
        return Condition(health="healthy", failure_count=0)
    failure_count = condition.failure_count + 1
    is_down = observation.is_conclusive or failure_count >= FAILURES_UNTIL_UNHEALTHY
    quick_look_count = 0
    if observation.is_conclusive and observation.is_absent:
        is_news = condition.health != "unhealthy"
        quick_look_count = QUICK_LOOKS if is_news else max(condition.quick_look_count - 1, 0)
    return Condition(
        health="unhealthy" if is_down else condition.health,
        failure_count=failure_count,
        quick_look_count=quick_look_count,
    )


def settled_temperature(
    *,
    before: str,
    health: str,
    observation: Observation,
    has_hook: bool,
    replica_count: int,
    is_awaited: bool,
) -> str:
    """cold, waking or warm; empty where nobody can know: it should run, and is not well.

    Args:
        before: the temperature up to now.
        health: the cluster's health with this observation in it.
        observation: what the latest probe saw.
        has_hook: nobody needs to tell how many replicas run: where nobody answers, none does.
        replica_count: how many run, as far as anybody said.
        is_awaited: a replica was asked for and is still waited for.
    """
    if observation.is_healthy:
        return "warm"
    if health != "unhealthy":
        return before
    if is_awaited and (observation.is_absent or replica_count == 0):
        return "waking"
    if replica_count == 0 or (has_hook and observation.is_absent):
        return "cold"
    return ""


def probe_interval(*, condition: Condition, interval_s: int, cluster_id: str) -> timedelta:
    """How long after its latest probe a cluster is due: with back-off while down, spread by its id."""
    if condition.is_waking or condition.is_suspected or condition.quick_look_count > 0:
        # No jitter and no back-off.
        return timedelta(seconds=min(interval_s, AWAITED_INTERVAL_S))
    if condition.failure_count == 0:
        seconds = interval_s
    elif condition.health != "unhealthy":
        seconds = min(interval_s, SUSPECT_INTERVAL_S)
    else:
        doublings = min(condition.failure_count - 1, INTERVALS_MAX)
        seconds = interval_s * min(2**doublings, INTERVALS_MAX)
    milliseconds = seconds * (1000 + _jitter_permille(cluster_id))
    if condition.failure_count > 0:
        milliseconds = min(milliseconds, DOWN_INTERVAL_S_MAX * 1000)
    return timedelta(milliseconds=milliseconds)


def is_probe_due(
    *, condition: Condition, checked_at: datetime | None, interval_s: int, cluster_id: str, now: datetime
) -> bool:
    """A cluster never probed is due at once."""
    if checked_at is None:
        return True
    return now - checked_at >= probe_interval(
        condition=condition, interval_s=interval_s, cluster_id=cluster_id
    )


def settled_latency_ms(*, before_ms: int | None, observation: Observation) -> int | None:
    """Time to first token, where the cluster says it, else the health request's; small moves are noise."""
    if not observation.is_healthy:
        return None
    seen_ms = observation.duration_ms if observation.ttft_ms is None else observation.ttft_ms
    if before_ms is not None and abs(seen_ms - before_ms) <= max(LATENCY_NOISE_MS, before_ms // 10):
        return before_ms
    return seen_ms


def _jitter_permille(cluster_id: str) -> int:
    """Between -100 and +100, always the same for one cluster: probes spread, yet stay predictable."""
    digest = hashlib.sha256(cluster_id.encode()).digest()
    return int.from_bytes(digest[:4]) % (2 * JITTER_PERMILLE + 1) - JITTER_PERMILLE
