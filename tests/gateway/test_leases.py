"""Limits over several processes and a real Valkey: never above, and nearly all of it usable."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway import leases
from gateway.embedded_valkey import is_answering, plan_server
from gateway.leases import LeasedLimiter
from gateway.ratelimit import Demand
from tests.fakes.loops import end_loops

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def valkey():
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        plan = plan_server(data_dir=Path(folder))
        with subprocess.Popen(plan.argv, stdout=subprocess.DEVNULL) as process:
            wait_for(lambda: is_answering(plan.url))
            yield plan
            process.terminate()


@pytest.fixture
async def clean(valkey):
    store = Redis.from_url(valkey.url)
    await store.flushall()
    await store.aclose()
    return valkey


def wait_for(condition, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


async def until(condition, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 -- another process or a beat does it
            await asyncio.sleep(0.02)


def start(argv, **options):
    return subprocess.Popen(argv, **options)


def stop(process):
    process.kill()
    process.wait()


@asynccontextmanager
async def limiters(url, count, *, others=0):
    made = [
        LeasedLimiter(redis=Redis.from_url(url), process=f"p{number}", clock=time.monotonic)
        for number in range(count)
    ]
    loop = asyncio.get_running_loop()
    beats = [loop.create_task(limiter.run()) for limiter in made]
    try:

        async def know_each_other():
            for limiter in made:
                await limiter._renew_places(everything=True)
            return all(not limiter.is_local and limiter.local.share == count + others for limiter in made)

        await until(know_each_other)
        yield made
    finally:
        await end_loops(beats)
        for limiter in made:
            await limiter.aclose()


def demand(amount=1, *, limit=100, kind="requests", scope="key:k"):
    return Demand(scope=scope, label="API key tg_k…", kind=kind, limit=limit, amount=amount)


async def passes(limiter, given):
    return (await limiter.take([given])).refused is None


async def is_refused(limiter, given):
    return not await passes(limiter, given)


async def admitted(limiter, given, *, tries):
    return sum([(await limiter.take([given])).refused is None for _ in range(tries)])


@pytest.mark.parametrize(("limit", "amount"), [(100, 1), (1000, 7), (5, 1)])
async def test_processes_together_take_all_of_a_limit_and_never_more(clean, limit, amount):
    async with limiters(clean.url, 4) as made:
        given = demand(amount, limit=limit, kind="tokens")
        counts = await asyncio.gather(*(admitted(one, given, tries=limit) for one in made))

    taken = sum(counts) * amount
    slices = len(made) * max(limit // leases.SLICE_PART, amount)
    assert taken <= limit
    assert taken >= limit - slices


async def test_refusal_says_what_is_left_and_when_there_will_be_more(clean):
    async with limiters(clean.url, 2) as (first, second):
        taken = await first.take([demand(90)])
        refused = (await second.take([demand(20)])).refused

    assert taken.refused is None
    assert refused is not None
    assert (refused.remaining, refused.is_refused) == (10, True)
    assert 50 < refused.retry_after_s <= leases.STORE_MINUTE_S


async def test_demands_are_leased_all_or_none(clean):
    async with limiters(clean.url, 1) as (limiter,):
        both = [demand(10), demand(50, limit=40, scope="team:t")]
        taken = await limiter.take(both)
        after = await limiter.take([demand(100)])

    assert [allowance.is_refused for allowance in taken.allowances] == [False, True]
    assert after.refused is None


async def test_slice_that_is_not_used_goes_back(clean):
    async with limiters(clean.url, 2) as (first, second):
        for _ in range(1 + 2 + 4 + 8 + 10 + 10):  # each slice twice the one before, up to a 16th of the limit
            await first.take([demand(limit=160)])
        assert first._counters.slices["requests", "key:k"].left == 0
        await first.take([demand(limit=160)])  # leases ten, takes one
        assert first._counters.slices["requests", "key:k"].left == 9
        await until(lambda: passes(second, demand(160 - 36, limit=160)))


async def test_requests_that_wait_for_a_lease_share_one_and_none_is_refused_below_the_limit(
    clean, monkeypatch
):
    monkeypatch.setattr(leases, "WAIT_MAX_S", 10.0)
    asked = []
    async with limiters(clean.url, 1) as (limiter,):
        inner = limiter._lease

        async def counted(**given):
            asked.append(given["args"])
            return await inner(**given)

        limiter._lease = counted
        both = [demand(limit=10**8), demand(limit=10**8, kind="concurrent", scope="key:c")]
        for _ in range(10):
            taken = await asyncio.gather(*(limiter.take(both) for _ in range(40)))
            assert [one for one in taken if one.refused is not None] == []
            for _ in taken:
                limiter.leave(both[1])

    assert len(asked) <= 2 * 10  # four hundred requests


async def test_requests_that_lease_at_once_lose_no_slice_of_each_other(clean, monkeypatch):
    """Each brings a slice; what another's still holds goes back before it is replaced."""
    # However busy the machine is, the store counts.
    monkeypatch.setattr(leases, "WAIT_MAX_S", 10.0)
    monkeypatch.setattr(leases, "RETRY_S", 10.0)
    given = demand(limit=320)
    async with limiters(clean.url, 1) as (limiter,):
        taken = await admitted(limiter, given, tries=60)
        for _ in range(40):
            limiter._counters.slices["requests", "key:k"].used = 20
            limiter._counters.slices["requests", "key:k"].ends_s = time.monotonic()
            taken += sum(await asyncio.gather(*(passes(limiter, given) for _ in range(20))))
            await limiter._beat()

    # A slice may lie unused at the end, and one be on its way back.
    assert 280 <= taken <= 320


async def test_store_that_goes_between_two_leases_makes_the_process_count_alone(clean, monkeypatch):
    async with limiters(clean.url, 1) as (limiter,):
        inner, calls = limiter._lease_slices, []

        async def lost_after_the_first(missing):
            calls.append(missing)
            if len(calls) > 1:
                raise OSError("gone")
            refused = await inner(missing)
            # Another request used the slice meanwhile.
            limiter._counters.slices["requests", "key:k"].left = 0
            return refused

        monkeypatch.setattr(limiter, "_lease_slices", lost_after_the_first)
        taken = await limiter.take([demand()])

    assert (len(calls), taken.refused, limiter.is_local) == (2, None, True)


async def test_more_used_than_taken_counts_for_everybody(clean):
    async with limiters(clean.url, 2) as (first, second):
        await first.take([demand(10, kind="tokens")])
        first.correct(demand(10, kind="tokens"), amount=85)

        async def is_told():
            return not first._counters.untold

        await until(is_told)

        assert await is_refused(second, demand(6, kind="tokens"))
        assert await passes(second, demand(5, kind="tokens"))


async def test_places_hold_over_processes_and_are_free_when_left(clean):
    place = demand(limit=3, kind="concurrent")
    async with limiters(clean.url, 2) as (first, second):
        taken = [(await one.take([place])).refused is None for one in (first, second, first, second)]
        first.leave(place)
        await until(lambda: passes(second, place))
        refused = (await first.take([place])).refused

    assert taken == [True, True, True, False]
    assert refused is not None
    assert refused.retry_after_s == 1.0


DYING = """
import asyncio, sys, time
from gateway import leases
leases.PLACES_KEPT_S = 1.0
from redis.asyncio import Redis
from gateway.leases import LeasedLimiter
from gateway.ratelimit import Demand
async def main():
    limiter = LeasedLimiter(redis=Redis.from_url(sys.argv[1]), process="dying", clock=time.monotonic)
    asyncio.get_running_loop().create_task(limiter.run())
    while limiter.is_local:
        await asyncio.sleep(0.01)
    await limiter.take([Demand(scope="key:k", label="k", kind="concurrent", limit=1, amount=1)])
    print("taken", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_places_of_a_killed_process_are_free_again(clean, monkeypatch):
    monkeypatch.setattr(leases, "PLACES_KEPT_S", 1.0)
    place = demand(limit=1, kind="concurrent")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    argv = [sys.executable, "-c", DYING, clean.url]
    process = start(argv, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    with process, process.stdout:
        for line in process.stdout:
            if line == b"taken\n":
                break
        async with limiters(clean.url, 1, others=1) as (limiter,):
            first = await is_refused(limiter, place)
            stop(process)
            await until(lambda: passes(limiter, place))

    assert first


async def test_limits_count_alone_while_the_store_is_away_and_together_when_it_is_back():
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        plan = plan_server(data_dir=Path(folder))
        process = start(plan.argv, stdout=subprocess.DEVNULL)
        wait_for(lambda: is_answering(plan.url))
        async with limiters(plan.url, 2) as (first, second):
            await first.take([demand(30)])
            stop(process)
            # Alone each may take half of the limit: 50, of which the first has used 30.
            alone = [await admitted(one, demand(), tries=60) for one in (first, second)]
            modes = [first.is_local, second.is_local]

            process = start(plan_server(data_dir=Path(folder)).argv, stdout=subprocess.DEVNULL)

            async def both_are_back():
                return not (first.is_local or second.is_local)

            await until(both_are_back)
            together = [await admitted(one, demand(), tries=5) for one in (first, second)]
        stop(process)

    assert (alone, modes, together) == ([20, 50], [True, True], [0, 0])
