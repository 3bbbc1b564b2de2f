import asyncio
import time

from gateway.bench.timer import Timer


async def test_calls_come_in_order_and_not_before_they_are_due():
    timer, calls, ended = Timer(), [], asyncio.Event()
    begun_ns = time.monotonic_ns()

    def note(name, due_ns):
        calls.append((name, time.monotonic_ns() >= due_ns))
        if len(calls) == 3:
            ended.set()

    for name, after_ms in (("c", 30), ("a", 10), ("b", 20)):
        due_ns = begun_ns + after_ms * 1_000_000
        timer.call_at(due_ns, lambda name=name, due_ns=due_ns: note(name, due_ns))
    await asyncio.wait_for(ended.wait(), 10)
    timer.close()

    assert calls == [("a", True), ("b", True), ("c", True)]


async def test_what_is_overdue_comes_at_once():
    timer, ended = Timer(), asyncio.Event()

    timer.call_at(time.monotonic_ns() - 1, ended.set)

    await asyncio.wait_for(ended.wait(), 10)
    timer.close()


async def test_a_call_may_ask_for_the_next():
    timer, times_ns, ended = Timer(), [], asyncio.Event()

    def again():
        times_ns.append(time.monotonic_ns())
        if len(times_ns) == 5:
            ended.set()
        else:
            timer.call_at(times_ns[0] + len(times_ns) * 1_000_000, again)

    timer.call_at(time.monotonic_ns(), again)
    await asyncio.wait_for(ended.wait(), 10)
    timer.close()

    assert times_ns[-1] - times_ns[0] >= 4_000_000
