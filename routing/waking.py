"""When to wake a replica of an autoscaled cluster: rent or buy, as a pure fold over what was spilt.

And how long it then takes: what the operator says and what was measured, together.
"""

from dataclasses import dataclass
from math import exp

SPILL_TAU_S = 60.0
# Wake when providers cost so many times what the replica would, because everything running was full.
BREAK_EVEN = 2.0
PAUSE_S = 30.0
FORGET_S = 60.0
# How long waking takes where nobody said and nothing was measured.
WARM_UP_ASSUMED_S = 60.0
GIVEN_COUNT = 2
LEARNT_WEIGHT = 0.3
PATIENCE_S_MIN, PATIENCE_FACTOR = 60.0, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spill:
    """USD per second that go to providers because own capacity is full (decayed), and the latest waking."""

    usd_per_s: float = 0.0
    at_s: float = 0.0
    replicas: int = 0
    woken_at_s: float = -1e9


def on_choice(spill: Spill, *, provider_usd: float, now_s: float) -> Spill:
    """A request was placed; `provider_usd` is what it costs at a provider, 0 where it stayed at home."""
    decay = exp(-max(now_s - spill.at_s, 0.0) / SPILL_TAU_S)
    return Spill(
        usd_per_s=spill.usd_per_s * decay + provider_usd / SPILL_TAU_S,
        at_s=now_s,
        replicas=spill.replicas,
        woken_at_s=spill.woken_at_s,
    )


def on_look(
    spill: Spill, *, usd_per_replica_hour: float, replicas: int, is_waking: bool, now_s: float
) -> Spill:
    """Ask for one replica more where the spill has passed the break-even; take the wish back later."""
    is_worth_it = spill.usd_per_s > BREAK_EVEN * usd_per_replica_hour / 3600
    if is_worth_it and not is_waking and now_s - spill.woken_at_s > PAUSE_S:
        return Spill(
            usd_per_s=spill.usd_per_s * 0.5, at_s=spill.at_s, replicas=replicas + 1, woken_at_s=now_s
        )
    if spill.replicas and now_s - spill.woken_at_s > FORGET_S:
        return Spill(usd_per_s=spill.usd_per_s, at_s=spill.at_s, replicas=0, woken_at_s=spill.woken_at_s)
    return spill


def warm_up_s(*, given_s: float | None, learnt_s: float | None, learnt_count: int) -> float:
    """How long a replica takes from the asking to its first answer, as far as anybody knows.

    What was given counts as GIVEN_COUNT measurements; who knows nothing assumes WARM_UP_ASSUMED_S.
    """
    if learnt_s is None or learnt_count <= 0:
        return WARM_UP_ASSUMED_S if given_s is None else given_s
    if given_s is None:
        return learnt_s
    return (given_s * GIVEN_COUNT + learnt_s * learnt_count) / (GIVEN_COUNT + learnt_count)


def learnt_warm_up_s(*, before_s: float | None, measured_s: float) -> float:
    """The mean of what was measured, the newer counting more."""
    return measured_s if before_s is None else before_s + LEARNT_WEIGHT * (measured_s - before_s)


def patience_s(expected_s: float) -> float:
    """How long a replica that was asked for is waited for before the cluster counts as cold again."""
    return max(PATIENCE_S_MIN, PATIENCE_FACTOR * expected_s)
