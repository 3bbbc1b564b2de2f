"""The process's loops end when the gateway stops, even one that swallows a cancellation."""

import asyncio

from gateway.lifespan import Gateway


async def test_loop_that_swallows_a_cancellation_is_cancelled_again():
    gateway = Gateway()
    swallowed = []

    async def stubborn():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(1)
                if len(swallowed) > 2:
                    raise

    task = asyncio.get_running_loop().create_task(stubborn())
    gateway._loops.add(task)
    task.add_done_callback(gateway._on_loop_ended)
    await asyncio.sleep(0)

    await gateway._end_loops()

    assert (len(swallowed), gateway._loops, task.cancelled()) == (3, set(), True)
