"""The outbox: order, back-pressure, either side leaving first, and no lost wake-ups."""

import asyncio
import random

import pytest

from gateway.errors import ClientClosedError, InternalError, error_event
from gateway.outbox import Outbox, Reply

REPLY = Reply(headers=(("a", "b"),), body=None)


async def settled():
    """Let everything that can run, run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def read(outbox):
    return [data async for data in outbox.stream()]


async def test_outbox_hands_on_what_was_put_in_order():
    outbox = Outbox(bytes_max=100)
    outbox.start(REPLY)
    for data in (b"a", b"", b"b", b"c"):
        await outbox.put(data)
    outbox.close()

    assert await outbox.reply() == REPLY
    assert await read(outbox) == [b"abc"]


async def test_outbox_hands_on_each_piece_to_a_reader_that_waits():
    outbox = Outbox(bytes_max=100)
    reader = asyncio.ensure_future(read(outbox))
    for data in (b"a", b"b"):
        await settled()
        await outbox.put(data)
    await settled()
    outbox.close()

    assert await reader == [b"a", b"b"]


async def test_put_waits_for_room():
    outbox = Outbox(bytes_max=10)
    await outbox.put(b"x" * 9)
    await outbox.put(b"y" * 9)  # one piece may cross the line
    third = asyncio.ensure_future(outbox.put(b"z"))
    await settled()
    assert (outbox.has_room, third.done()) == (False, False)

    stream = outbox.stream()
    assert await anext(stream) == b"x" * 9 + b"y" * 9
    await settled()

    assert third.done()
    assert await anext(stream) == b"z"


async def test_outbox_never_holds_more_than_its_limit_and_one_piece():
    outbox = Outbox(bytes_max=1000)
    total = 0

    async def pump():
        nonlocal total
        while True:
            await outbox.put(b"x" * 64)
            total += 64

    pumping = asyncio.ensure_future(pump())
    await settled()
    pumping.cancel()

    assert total == 1024


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_abandon_frees_a_pump_that_waits_and_drops_the_rest(is_waiting):
    outbox = Outbox(bytes_max=10)
    outbox.start(REPLY)
    await outbox.put(b"x" * 20)
    put = asyncio.ensure_future(outbox.put(b"y"))
    if is_waiting:
        await settled()

    outbox.abandon()
    await put
    await outbox.put(b"z" * 1000)
    outbox.fail(InternalError("late"))

    assert outbox.has_room
    assert await read(outbox) == []


async def test_abandon_calls_back_once():
    outbox = Outbox(bytes_max=10)
    calls = []
    outbox.on_abandon(lambda: calls.append("left"))

    outbox.abandon()
    outbox.abandon()

    assert calls == ["left"]


async def test_on_abandon_calls_back_at_once_when_the_caller_has_left():
    outbox = Outbox(bytes_max=10)
    outbox.abandon()
    calls = []

    outbox.on_abandon(lambda: calls.append("left"))

    assert calls == ["left"]


async def test_fail_before_the_start_is_the_reply():
    outbox = Outbox(bytes_max=10)
    waiting = asyncio.ensure_future(outbox.reply())
    await settled()
    error = InternalError("broken")

    outbox.fail(error)

    with pytest.raises(InternalError) as caught:
        await waiting
    assert caught.value is error
    assert await read(outbox) == []


async def test_fail_after_the_start_is_the_last_event():
    outbox = Outbox(bytes_max=10)
    outbox.start(REPLY)
    await outbox.put(b"data: 1\n\n")
    error = InternalError("broken")

    outbox.fail(error)

    assert await outbox.reply() == REPLY
    assert b"".join(await read(outbox)) == b"data: 1\n\n" + error_event(error)


async def test_fail_after_the_end_says_nothing():
    outbox = Outbox(bytes_max=10)
    outbox.start(REPLY)
    outbox.close()

    outbox.fail(InternalError("late"))

    assert await read(outbox) == []


async def test_close_before_the_start_ends_the_wait_for_a_reply():
    outbox = Outbox(bytes_max=10)
    waiting = asyncio.ensure_future(outbox.reply())
    await settled()

    outbox.abandon()
    outbox.close()

    with pytest.raises(ClientClosedError):
        async with asyncio.timeout(1):
            await waiting


async def test_start_counts_once():
    outbox = Outbox(bytes_max=10)
    before = outbox.is_started
    outbox.start(REPLY)
    outbox.start(Reply(headers=(), body=b"other"))

    assert (before, outbox.is_started) == (False, True)
    assert await outbox.reply() == REPLY


async def test_reply_survives_a_cancelled_reader():
    outbox = Outbox(bytes_max=10)
    first = asyncio.ensure_future(outbox.reply())
    await settled()
    first.cancel()
    await settled()

    outbox.start(REPLY)

    assert first.cancelled()
    assert await outbox.reply() == REPLY


@pytest.mark.parametrize("seed", range(60))
async def test_outbox_loses_no_wake_up_in_any_interleaving(seed):
    chance = random.Random(seed)
    outbox = Outbox(bytes_max=chance.choice([1, 3, 50]))
    sent = [bytes([chance.randrange(256)]) * chance.randrange(6) for _ in range(200)]
    leaves_at = chance.choice([None, None, chance.randrange(150)])

    async def pause():
        for _ in range(chance.choice([0, 0, 1, 3])):
            await asyncio.sleep(0)

    async def pump():
        outbox.start(REPLY)
        for data in sent:
            await pause()
            await outbox.put(data)
        outbox.close()

    async def caller():
        await outbox.reply()
        got = b""
        async for data in outbox.stream():
            got += data
            await pause()
            if leaves_at is not None and len(got) >= leaves_at:
                outbox.abandon()
                break
        return got

    async with asyncio.timeout(5):
        _, got = await asyncio.gather(pump(), caller())

    whole = b"".join(sent)
    assert got == whole if leaves_at is None else whole.startswith(got)
