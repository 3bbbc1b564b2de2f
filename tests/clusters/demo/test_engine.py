import asyncio

import pytest

from clusters.demo.engine import Engine, Pace, QueueFullError, Sequence, SequenceCancelledError

NO_LIMIT = Pace(
    tokens_per_s=0,
    request_tokens_per_s=0,
    prefill_tokens_per_s=0,
    ttft_s=0,
    running_max=2,
    waiting_max=1,
)


def pace(**changes):
    return Pace(**{name: getattr(NO_LIMIT, name) for name in NO_LIMIT.__slots__} | changes)


def sequence(wanted_tokens, *, prefill_tokens=0):
    return Sequence(
        model="m",
        prefill_tokens=prefill_tokens,
        held_tokens=prefill_tokens,
        wanted_tokens=wanted_tokens,
    )


async def drain(engine, one, finished):
    async with engine.admit(one):
        total = 0
        while fresh := await engine.next_tokens(one):
            total += fresh
    finished.append(one)
    return total


async def test_slots_go_in_order_of_arrival():
    engine = Engine(pace(running_max=1, waiting_max=2))
    first, second, third = sequence(3), sequence(3), sequence(3)
    finished: list[Sequence] = []

    totals = await asyncio.gather(*(drain(engine, one, finished) for one in (first, second, third)))

    assert totals == [3, 3, 3]
    assert finished == [first, second, third]
    assert (engine.running, engine.waiting) == ({}, {})


async def test_full_queue_refuses_at_once():
    engine = Engine(NO_LIMIT)
    async with (
        engine.admit(sequence(1)),
        engine.admit(sequence(1)),
        engine.admit(sequence(1)) as waiting,
    ):
        with pytest.raises(QueueFullError):
            async with engine.admit(sequence(1)):
                pass

        assert (len(engine.running), list(engine.waiting)) == (2, [waiting])


async def test_cancelled_sequence_raises_also_while_it_waits():
    engine = Engine(pace(running_max=1))
    async with engine.admit(sequence(1)), engine.admit(sequence(1)) as waiting:
        waiter = asyncio.ensure_future(engine.next_tokens(waiting))
        await asyncio.sleep(0)
        waiting.cancel()

        with pytest.raises(SequenceCancelledError):
            await waiter


async def test_tokens_are_shared_fairly_and_no_faster_than_the_server():
    engine = Engine(pace(tokens_per_s=2000, running_max=10))
    loop = asyncio.get_running_loop()
    sequences = [sequence(30) for _ in range(10)]
    finished: list[Sequence] = []
    begun_s = loop.time()

    totals = await asyncio.gather(*(drain(engine, one, finished) for one in sequences))

    # The first token of each comes with the prefill; 29 more of 10 streams at 2,000 a second.
    assert loop.time() - begun_s >= 29 * 10 / 2000 - 0.005
    assert totals == [30] * 10


async def test_streams_are_level_at_each_tick():
    engine = Engine(pace(tokens_per_s=300, request_tokens_per_s=80))
    sequences = [sequence(1000) for _ in range(3)]
    for one in sequences:
        one.start(now_s=0.0, first_token_s=1.0)
        engine.running[one] = None

    # Of the pause of a minute, at the end, one second is made up for.
    granted = []
    for now_s in (0.9, 1.0, 1.125, 2.0, 2.01, 62.01):
        engine._tick(now_s)
        granted.append([one.granted_tokens for one in sequences])

    assert granted == [[tokens] * 3 for tokens in (0, 1, 11, 81, 81, 161)]


async def test_fewer_streams_are_faster_each():
    engine = Engine(pace(tokens_per_s=300))
    first, second, third = (sequence(1000) for _ in range(3))
    for one in (first, second, third):
        one.start(now_s=0.0, first_token_s=0.0)
        engine.running[one] = None

    engine._tick(0.5)
    del engine.running[second]
    engine._tick(1.0)

    assert [one.granted_tokens for one in (first, second, third)] == [126, 51, 126]


async def test_prefill_is_served_one_prompt_after_the_other():
    engine = Engine(pace(tokens_per_s=1e6, prefill_tokens_per_s=1000))
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    arrivals_s = []

    async def first_token(one):
        async with engine.admit(one):
            await engine.next_tokens(one)
            arrivals_s.append(loop.time() - begun_s)

    await asyncio.gather(*(first_token(sequence(1, prefill_tokens=40)) for _ in range(2)))

    assert arrivals_s[0] >= 0.035
    assert arrivals_s[1] >= 0.075


async def test_held_tokens_count_prompt_and_answer():
    engine = Engine(NO_LIMIT)
    async with engine.admit(sequence(5, prefill_tokens=7)) as one:
        await engine.next_tokens(one)

        assert engine.held_tokens == 7 + 1


async def test_failing_tick_ends_the_streams(caplog):
    engine = Engine(pace(tokens_per_s=100))
    async with engine.admit(sequence(5)) as one:
        one.slowness = 0.0

        with pytest.raises(SequenceCancelledError):
            await engine.next_tokens(one)

    assert [record.message for record in caplog.records] == ["standin_ticker_failed"]
