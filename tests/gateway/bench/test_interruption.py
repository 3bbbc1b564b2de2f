"""Being broken off by a signal: heard where all can be ended, never lost and never anywhere else."""

import asyncio
import os
import signal

import pytest

from gateway.bench.interruption import BrokenOffError, Interruption


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_load_that_runs_and_what_it_opened(runner, number):
    ended = []

    async def load():
        try:
            asyncio.get_running_loop().call_soon(tell, number)
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with Interruption() as interruption, pytest.raises(BrokenOffError):
        interruption.run(runner, load)

    assert ended == [True]


def test_signal_between_two_loads_is_heard_by_the_next(runner):
    begun = []

    async def load():
        begun.append(True)

    with Interruption() as interruption:
        tell()
        with pytest.raises(BrokenOffError):
            interruption.run(runner, load)
        with pytest.raises(BrokenOffError):
            interruption.check()

    assert begun == []


def test_load_gives_its_result_and_its_faults(runner):
    async def load():
        return 7

    async def fail():
        raise asyncio.CancelledError

    with Interruption() as interruption:
        interruption.check()
        assert interruption.run(runner, load) == 7
        with pytest.raises(asyncio.CancelledError):
            interruption.run(runner, fail)


def test_second_signal_does_not_wait():
    with Interruption():
        tell()
        with pytest.raises(KeyboardInterrupt):
            tell(signal.SIGINT)


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
