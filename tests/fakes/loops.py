"""Ends loops that talk to a store: its client may swallow a cancellation that meets an answer."""

import asyncio

CANCELLATIONS_MAX = 20
WAIT_S = 0.5


async def end_loops(tasks):
    """As gateway.lifespan ends its own."""
    running = set(tasks)
    for _ in range(CANCELLATIONS_MAX):
        if not running:
            return
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=WAIT_S)
    raise AssertionError(f"{len(running)} loops did not end")
