"""The pumps: kept alive, cut when the process goes down, shortened when their callers leave."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway.outbox import Outbox
from gateway.patience import Patience
from gateway.pumps import PumpSet


def pump_set(*, detached_max=2, detached_drain_s=0.03):
    return PumpSet(detached_max=detached_max, detached_drain_s=detached_drain_s)


def patience():
    return Patience(first_byte_s=60, idle_s=60, total_s=60)


async def test_pumps_are_joined_when_all_have_ended():
    pumps, ended = pump_set(), []

    async def pump(number):
        await asyncio.sleep(0.001 * number)
        ended.append(number)
        if number == 3:
            pumps.start(pump(5))

    for number in (1, 2, 3):
        pumps.start(pump(number))
    assert len(pumps) == 3
    async with asyncio.timeout(2):
        await pumps.join()

    assert ended == [1, 2, 3, 5]
    assert len(pumps) == 0


async def test_join_of_nothing_returns():
    async with asyncio.timeout(1):
        await pump_set().join()


async def test_pump_that_fails_is_logged_and_harms_no_other():
    pumps, ended = pump_set(), []

    async def failing():
        raise ValueError("broken")

    async def working():
        await asyncio.sleep(0.005)
        ended.append("working")

    with capture_logs() as logs:
        pumps.start(failing())
        pumps.start(working())
        await pumps.join()

    assert ended == ["working"]
    assert [(line["event"], str(line["exc_info"])) for line in logs] == [("pump_failed", "broken")]


async def read(pumps, outbox, given):
    """What a delivery does around its reading; how it ended."""
    pumps.track(given, outbox)
    try:
        async with given:
            await asyncio.sleep(30)
    except TimeoutError:
        return "cut" if given.is_cut else "timeout"
    finally:
        pumps.untrack(given, outbox)
    return "whole"


@pytest.mark.parametrize("is_late", [False, True])
async def test_cut_ends_every_answer_also_those_that_begin_after_it(is_late):
    pumps, results = pump_set(), []

    async def pump():
        await asyncio.sleep(0)
        results.append(await read(pumps, Outbox(bytes_max=10), patience()))

    for _ in range(5):
        pumps.start(pump())
    if not is_late:
        await asyncio.sleep(0.005)
    pumps.cut()
    async with asyncio.timeout(2):
        await pumps.join()

    assert results == ["cut"] * 5


@pytest.mark.parametrize("is_early", [False, True])
async def test_abandoned_answer_is_read_on_for_a_moment(is_early):
    pumps, outbox = pump_set(), Outbox(bytes_max=10)
    if is_early:
        outbox.abandon()
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    reading = asyncio.ensure_future(read(pumps, outbox, patience()))
    await asyncio.sleep(0)
    outbox.abandon()

    async with asyncio.timeout(2):
        assert await reading == "timeout"
    assert loop.time() - started_s >= 0.03


async def test_only_so_many_abandoned_answers_are_read_on():
    pumps = pump_set(detached_max=2, detached_drain_s=30)
    outboxes = [Outbox(bytes_max=10) for _ in range(5)]
    readings = [asyncio.ensure_future(read(pumps, outbox, patience())) for outbox in outboxes]
    await asyncio.sleep(0)
    for outbox in outboxes:
        outbox.abandon()
    await asyncio.sleep(0.05)

    assert [reading.done() for reading in readings] == [False, False, True, True, True]
    pumps.cut()
    assert await asyncio.gather(*readings) == ["cut", "cut", "timeout", "timeout", "timeout"]


@pytest.mark.parametrize("is_abandoned_first", [True, False])
async def test_room_for_abandoned_answers_is_given_back(is_abandoned_first):
    pumps = pump_set(detached_max=1, detached_drain_s=30)
    for _ in range(3):
        given, outbox = patience(), Outbox(bytes_max=10)
        if is_abandoned_first:
            outbox.abandon()
        reading = asyncio.ensure_future(read(pumps, outbox, given))
        await asyncio.sleep(0)
        outbox.abandon()
        await asyncio.sleep(0.01)
        assert reading.done() is False
        given.cut()
        assert await reading == "cut"


async def test_room_is_given_back_by_each_attempt_of_one_answer():
    pumps = pump_set(detached_max=1, detached_drain_s=30)
    outbox = Outbox(bytes_max=10)
    outbox.abandon()
    for _ in range(3):
        given = patience()
        reading = asyncio.ensure_future(read(pumps, outbox, given))
        await asyncio.sleep(0.01)
        assert reading.done() is False
        given.cut()
        await reading


async def test_caller_that_leaves_after_the_end_changes_nothing():
    pumps, outbox, given = pump_set(), Outbox(bytes_max=10), patience()
    pumps.track(given, outbox)
    pumps.untrack(given, outbox)

    outbox.abandon()
    pumps.cut()

    assert given.is_cut is False
