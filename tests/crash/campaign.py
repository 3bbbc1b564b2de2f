"""What is done to the gateways: each named point once, kills at random under load, the comparison."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field

from tests.crash.audit import PROMISES, compare
from tests.crash.clients import keep_asking
from tests.crash.fleet import TIGHT_NANOUSD
from tests.crash.points import POINTS

FIRST_TOKENS_S_MAX = 15.0
POINT_S_MAX = 15.0
POLL_S = 0.005
# How often a random start is armed with a point, and after how many passes at most it is met.
ARMED_SHARE = 0.5
PASSES_MAX = 25
LIFE_S = (0.05, 0.6)
SETTLE_EVERY = 10
RECOVERY_HOLDS = 2_000
SLOW_TOKENS = 40


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened so far. `problems` by promise, each a sentence."""

    kills: int = 0
    points: list = field(default_factory=list)
    ended_in_doubt: int = 0
    problems: dict = field(default_factory=lambda: {promise: [] for promise in PROMISES})

    def note(self, promise, problems):
        self.problems[promise] += problems


# --- Named points


async def pass_points(fleet, tally):
    """Kill the first worker at each point in turn, while it serves one request of a key of the point's own.

    Each start recovers what the death before it left, and is armed with the next point.
    """
    for point in POINTS:
        fleet.issue_key(point.name)
    worker = fleet.workers[0]
    for point in POINTS:
        answer = await ENDINGS.get(point.traffic, at_request)(fleet, tally, worker, point)
        tally.kills += 1
        tally.points.append(point.name)
        if answer.is_complete and not point.may_be_complete:
            tally.note("M2", [f"{point.name}: the caller saw the end of what was not settled"])
    await restart(fleet, tally, worker)
    for point in POINTS:
        reservations = fleet.books.call("load_reservations", key_id=fleet.keys[point.name]["id"])
        states = tuple(reservation["state"] for reservation in reservations)
        if states != point.leaves:
            tally.note("M6", [f"{point.name} left {states}, not {point.leaves}"])


async def at_request(fleet, tally, worker, point):
    await restart(fleet, tally, worker, point=f"{point.name}:1")
    if point.traffic == "failover":
        fleet.standins["site-frail"].set_fault("http_500")
    tokens = SLOW_TOKENS if point.traffic == "slow" else 12
    key = fleet.keys[point.name]["key"]
    answer = await fleet.callers.ask(worker.url, key=key, kind=point.traffic, tokens=tokens)
    await dies_by_itself(worker, point)
    return answer


async def at_change(fleet, tally, worker, point):
    """The first reading is the start's."""
    await restart(fleet, tally, worker, point=f"{point.name}:2")
    async with open_stream(fleet, worker, point) as answer:
        fleet.books.call("add_route", model=f"marker-{point.name}", candidates=["main"])
        await dies_by_itself(worker, point)
    return answer


async def at_start(fleet, tally, worker, point):
    await restart(fleet, tally, worker)
    async with open_stream(fleet, worker, point) as answer:
        await worker.kill()
    assert not await worker.start(point=f"{point.name}:1"), f"{point.name} was not passed"
    return answer


async def at_stop(fleet, tally, worker, point):
    await restart(fleet, tally, worker, point=f"{point.name}:1")
    answer = await fleet.callers.ask(worker.url, key=fleet.keys[point.name]["key"], kind="stream")
    await worker.terminate()
    return answer


ENDINGS = {"change": at_change, "start": at_start, "stop": at_stop}


async def dies_by_itself(worker, point):
    assert await worker.wait_for_death(within_s=POINT_S_MAX), f"{point.name} was not passed"


@contextlib.asynccontextmanager
async def open_stream(fleet, worker, point):
    """A slow stream of the point's key that has begun; after the block it has ended, one way or the other."""
    key, count = fleet.keys[point.name]["key"], len(fleet.callers.answers)
    asking = asyncio.ensure_future(fleet.callers.ask(worker.url, key=key, kind="slow", tokens=SLOW_TOKENS))
    async with asyncio.timeout(FIRST_TOKENS_S_MAX):
        while len(fleet.callers.answers) == count or not fleet.callers.answers[count].tokens:
            assert not asking.done(), asking.result()
            await asyncio.sleep(POLL_S)
    yield fleet.callers.answers[count]
    await asking


async def restart(fleet, tally, worker, *, point=None):
    """Start it, as often as it takes; then nothing is held by the dead."""
    while not await worker.start(point=point):
        tally.kills += 1
        assert await worker.wait_for_death()
        point = None
    await look_for_phantoms(fleet, tally)


async def look_for_phantoms(fleet, tally):
    """While all live. Who dies at an armed point meanwhile leaves what the next start will mark."""
    phantoms = await asyncio.to_thread(fleet.books.call, "count_phantoms")
    for worker in fleet.workers:
        if not worker.is_live or await worker.wait_for_death(within_s=POLL_S):
            return
    if phantoms:
        tally.note("M6", [f"{phantoms} attempts were held by the dead after a start"])


# --- Kills at random


class Load:
    """Callers in a closed loop: half of them with a key that has little room."""

    def __init__(self, fleet):
        self._fleet = fleet
        self._names = []
        fleet.issue_key("roomy")
        self.renew_tight_key()

    def renew_tight_key(self):
        name = f"tight-{len(self._names) + 1}"
        self._fleet.issue_key(name, limit_nanousd=TIGHT_NANOUSD)
        # Only now: callers pick while this waits in a thread.
        self._names.append(name)

    def pick(self):
        draw = self._fleet.draw
        kind = draw.choices(("plain", "stream", "failover", "slow"), weights=(10, 10, 2, 0.2))[0]
        frail = self._fleet.standins["site-frail"]
        # One at a time: where its breaker is open nobody takes them away.
        if kind == "failover" and not frail.app.faults.describe():
            frail.set_fault("http_500")
        name = self._names[-1] if draw.random() < 0.5 else "roomy"
        tokens = SLOW_TOKENS if kind == "slow" else draw.randint(1, 30)
        return self._fleet.keys[name]["key"], kind, tokens


async def kill_at_random(fleet, tally, *, kills, requests, callers, progress=lambda _: None):
    """Under load: until there were so many more kills and answers. All workers are live before and after."""
    load = Load(fleet)
    last_kill, last_answer = tally.kills + kills, len(fleet.callers.answers) + requests
    is_over = asyncio.Event()
    asking = [
        asyncio.ensure_future(keep_asking(fleet.callers, fleet=fleet, pick=load.pick, is_over=is_over.is_set))
        for _ in range(callers)
    ]
    try:
        while tally.kills < last_kill or len(fleet.callers.answers) < last_answer:
            if tally.kills < last_kill:
                await kill_one(fleet, tally)
            else:
                await asyncio.sleep(LIFE_S[1])
            if tally.kills % SETTLE_EVERY == 0:
                tally.ended_in_doubt += await asyncio.to_thread(fleet.books.call, "settle_in_doubt")
                await asyncio.to_thread(load.renew_tight_key)
                progress(tally)
    finally:
        is_over.set()
        await asyncio.gather(*asking)


async def kill_one(fleet, tally):
    """Or two at once, now and then. Each starts again, every other time with a point armed."""
    draw = fleet.draw
    victims = draw.sample(fleet.workers, 2 if len(fleet.workers) > 1 and draw.random() < 0.1 else 1)
    await victims[0].wait_for_death(within_s=draw.uniform(*LIFE_S))
    for victim in victims:
        await victim.kill()
    tally.kills += len(victims)
    for victim in victims:
        await restart(fleet, tally, victim, point=random_point(draw))
    for worker in fleet.workers:
        if await worker.wait_for_death(within_s=0.001):
            tally.kills += 1
            await restart(fleet, tally, worker)


def random_point(draw):
    if draw.random() > ARMED_SHARE:
        return None
    point = draw.choice([point for point in POINTS if point.traffic not in {"change", "stop"}])
    return f"{point.name}:{draw.randint(1, 1 if point.traffic == 'start' else PASSES_MAX)}"


# --- The comparison


async def compare_ledgers(fleet, tally):
    """Stop everything, end what is in doubt, and note each violation; give back the figures."""
    for worker in fleet.workers:
        await worker.terminate()
    # What a killed process held just before is marked by the next that starts.
    assert await fleet.workers[0].start()
    await fleet.workers[0].terminate()
    books, answers = fleet.books, fleet.callers.answers
    before = books.call("load_attempts")
    tally.ended_in_doubt += books.call("settle_in_doubt")
    after = books.call("load_attempts")
    found = compare(
        answers=answers,
        lines=fleet.upstream_lines(),
        attempts={"before": before, "after": after},
        reconciled=books.call("reconcile"),
    )
    for promise, problems in found.items():
        tally.note(promise, problems)
    tally.note("M5", fleet.watch.violations)
    return {
        "kills": tally.kills,
        "requests": len(answers),
        "completed": sum(answer.is_complete for answer in answers),
        "other_ends": dict(Counter(answer.error or "cut" for answer in answers if not answer.is_complete)),
        "attempts": len(after["reservations"]),
        "upstream_lines": len(fleet.upstream_lines()),
        "ended_in_doubt": tally.ended_in_doubt,
        "budget_samples": fleet.watch.samples,
        "violations": {promise: len(problems) for promise, problems in tally.problems.items()},
    }
