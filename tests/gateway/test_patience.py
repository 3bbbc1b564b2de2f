"""Patience: which limit ends the reading, and when; milliseconds stand for the real seconds."""

import asyncio

import pytest

from gateway.patience import Patience

LONG_S = 60.0
SHORT_S = 0.03
# The loop tells the time in steps.
TICK_S = 0.002


def patience(*, first_byte_s=LONG_S, idle_s=LONG_S, total_s=LONG_S):
    return Patience(first_byte_s=first_byte_s, idle_s=idle_s, total_s=total_s)


async def outlast(given, *steps):
    """Run the steps inside, then wait; the seconds until patience ended it."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    async def wait():
        async with asyncio.timeout(5), given:
            for step in steps:
                step()
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await wait()
    assert loop.time() - started_s < 2
    return loop.time() - started_s


async def test_patience_ends_at_the_first_byte_limit():
    assert await outlast(patience(first_byte_s=SHORT_S)) >= SHORT_S - TICK_S


async def test_patience_ends_at_the_idle_limit_after_progress():
    given = patience(first_byte_s=LONG_S, idle_s=SHORT_S)

    assert await outlast(given, given.on_progress) >= SHORT_S - TICK_S


async def test_patience_ends_at_the_total_limit_whatever_comes():
    given = patience(total_s=SHORT_S)

    assert await outlast(given, given.on_progress, given.wait_for_caller) >= SHORT_S - TICK_S


async def test_patience_moves_with_each_progress():
    given = patience(first_byte_s=0.3, idle_s=0.3)
    async with given:
        for _ in range(4):
            await asyncio.sleep(0.1)
            given.on_progress()

    assert given.is_cut is False


async def test_patience_does_not_count_a_slow_caller_as_silence():
    given = patience(first_byte_s=SHORT_S, idle_s=SHORT_S)
    async with given:
        given.wait_for_caller()
        await asyncio.sleep(3 * SHORT_S)
        given.on_progress()


async def test_patience_is_shortened_inside_and_stays_so():
    given = patience()

    assert await outlast(given, lambda: given.shorten(SHORT_S), given.on_progress) >= SHORT_S - TICK_S


async def test_patience_is_never_lengthened_by_shorten():
    given = patience(total_s=SHORT_S)

    assert await outlast(given, lambda: given.shorten(LONG_S)) >= SHORT_S - TICK_S


async def test_patience_that_was_shortened_before_it_began_ends_as_soon():
    given = patience()
    given.shorten(SHORT_S)

    await outlast(given)


async def test_patience_that_was_cut_before_it_began_ends_at_once():
    given = patience()
    given.cut()

    await outlast(given)
    assert given.is_cut is True


async def test_patience_is_cut_inside():
    given = patience()

    await outlast(given, given.cut)
    assert given.is_cut is True


async def test_patience_may_be_told_anything_after_its_end():
    given = patience()
    async with given:
        pass

    given.on_progress()
    given.wait_for_caller()
    given.shorten(0)
    given.cut()

    assert given.is_cut is True


async def test_patience_leaves_another_cancellation_alone():
    async def wait():
        async with patience():
            await asyncio.sleep(10)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
