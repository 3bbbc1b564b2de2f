"""How long a decision takes: `python -m tests.bench_choose`. Microseconds of CPU time, p50 and p99.

By 10 and 50 clusters; without affinity, with a prefix that was served, and with one nobody has seen.
"""

import random
import sys
import time
from collections.abc import Iterator
from functools import partial

from routing.affinity import Prefixes, prefix_hashes
from routing.choose import choose
from routing.learning import NOTHING_LEARNT, DeploymentState, Dispatched, FirstToken, Progressed, observe
from routing.policies import POLICIES
from routing.types import Affinity, Deployment, Fleet, RoutePlan
from tests.routing.values import SETTINGS, deployment, flat, profile, provider

ROUNDS = 20_000
OWN_SHARE = 0.7
NOW_S = 20.0


def timings(act, arguments) -> tuple[float, float]:
    spent = []
    for given in arguments:
        begun = time.thread_time_ns()
        act(given)
        spent.append(time.thread_time_ns() - begun)
    spent.sort()
    return spent[len(spent) // 2] / 1000, spent[len(spent) * 99 // 100] / 1000


def busy_state() -> DeploymentState:
    state = NOTHING_LEARNT
    for second in range(20):
        state = observe(state, Dispatched(sent_s=float(second), prompt_tokens=500), float(second))
        first = FirstToken(ttft_ms=300.0, prompt_tokens=500, tokens_in_front=500, expected_s=0.3)
        state = observe(state, first, second + 0.3)
    return observe(state, Progressed(pace_s=0.03), NOW_S)


def inventory(count: int) -> list[Deployment]:
    own = round(count * OWN_SHARE)
    return [
        *(deployment(f"o{n:02}", in_flight_max=1000) for n in range(own)),
        *(
            provider(f"p{n:02}", in_flight_max=1000, rate=flat(150_000 + n, 600_000))
            for n in range(count - own)
        ),
    ]


def affinities(kind: str, places: list[Deployment], chance: random.Random) -> Iterator[Affinity | None]:
    for _ in range(ROUNDS):
        if kind == "none":
            yield None
        elif kind == "served":
            yield Affinity(served_by=(chance.choice(places).id,), prefix_hashes=(chance.getrandbits(32),))
        else:
            yield Affinity(prefix_hashes=(chance.getrandbits(32),))


def tell(what: str, act, arguments) -> None:
    p50, p99 = timings(act, arguments)
    sys.stdout.write(f"{what:55} p50 {p50:6.1f}  p99 {p99:6.1f}\n")


def bench_choose() -> None:
    for count in (10, 50):
        places = inventory(count)
        states = {place.id: busy_state() for place in places}
        own = [place for place in places if place.cluster_kind == "own"]
        for policy in sorted(POLICIES):
            plan = RoutePlan(model="m", policy=policy, candidates=tuple(places), fallbacks=())
            fleet = Fleet(routes={"m": plan}, settings=SETTINGS)
            for kind in ("none", "served", "unseen"):
                chance = random.Random(1)
                asked = [
                    profile(prompt_tokens_estimate=800, affinity=one) for one in affinities(kind, own, chance)
                ]
                act = partial(choose, fleet=fleet, state=states, now_s=NOW_S, draw=chance.random())
                tell(f"choose {policy}, {count} clusters, affinity {kind}", act, asked)


def bench_prefixes() -> None:
    for size in (1_000, 2_000, 4_000, 16_000, 100_000):
        bodies = [random.Random(n).randbytes(size) for n in range(200)] * 20
        tell(f"prefix_hashes, {size} bytes", prefix_hashes, bodies)
        memory = Prefixes()
        hashed = [prefix_hashes(body) for body in bodies]
        tell(f"Prefixes.note, {size} bytes", partial(memory.note, deployment_id="a", now_s=NOW_S), hashed)
        tell(f"Prefixes.holders, {size} bytes", partial(memory.holders, now_s=NOW_S), hashed)


if __name__ == "__main__":
    bench_prefixes()
    bench_choose()
