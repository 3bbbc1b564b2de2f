"""What nodes know of each other, over a real Valkey; each folder here is a node."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway import exchange as exchanges
from gateway import metrics, nodes
from gateway.embedded_valkey import is_answering, plan_server
from gateway.exchange import Exchange
from gateway.nodes import (
    BadMessageError,
    NodeExchange,
    NodeTally,
    OtherNodes,
    SpeakerLock,
    Told,
    decoded,
    encoded,
)
from gateway.regions import OwnRegion, PeerRegion
from routing.learning import NOTHING_LEARNT, Dispatched, observe
from routing.sharing import BACKLOG_TOKENS, FIELDS, IN_FLIGHT, OPEN_UNTIL_US, REQUESTS
from tests.fakes.loops import end_loops


@pytest.fixture(scope="module")
def valkey():
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as folder:
        server = Server(plan_server(data_dir=Path(folder)))
        server.start()
        yield server
        server.kill()


class Server:
    def __init__(self, plan):
        self.plan = plan
        self.url = plan.url

    def start(self):
        self.process = subprocess.Popen(self.plan.argv, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 10
        while not is_answering(self.url):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Process:
    """A gateway process: its exchange with the node's others, and the one with other nodes."""

    def __init__(self, url, data_dir):
        self.states = {}
        self.exchange = Exchange(clock=time.monotonic)
        self.exchange.open(data_dir)
        self.nodes = NodeExchange(
            redis=Redis.from_url(url), folder=self.exchange.folder, clock=time.monotonic
        )
        loop = asyncio.get_running_loop()
        self.loops = [
            loop.create_task(self.exchange.run(self.states)),
            loop.create_task(self.nodes.run()),
        ]

    def send(self, prompt_tokens=100):
        event = Dispatched(sent_s=time.monotonic(), prompt_tokens=prompt_tokens)
        before = self.states.get("d", NOTHING_LEARNT)
        after = self.states["d"] = observe(before, event, time.monotonic())
        self.exchange.tell("d", event, before=before, after=after)

    def others(self):
        self.exchange.hear(self.states, now_s=time.monotonic())
        state = self.states.get("d", NOTHING_LEARNT)
        return state.others_in_flight, state.forecast.others_tokens

    async def hears(self, expected, timeout_s=5.0):
        """Seconds until the others' requests and backlog are so."""
        begun_s = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while self.others() != expected:  # noqa: ASYNC110 -- another node does it
                await asyncio.sleep(0.002)
        return time.monotonic() - begun_s

    async def end(self):
        await end_loops(self.loops)
        self.exchange.close()
        await self.nodes.aclose()


@pytest.fixture
def data_dirs(tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "SHARED_MEMORY", tmp_path)
    made = [tmp_path / name for name in "abc"]
    for folder in made:
        folder.mkdir()
    return made


@asynccontextmanager
async def processes(url, data_dirs):
    made = [Process(url, data_dir) for data_dir in data_dirs]
    try:
        yield made
    finally:
        for process in made:
            await process.end()


def row_of(**fields):
    row = [0] * FIELDS
    names = {
        "in_flight": IN_FLIGHT,
        "backlog": BACKLOG_TOKENS,
        "requests": REQUESTS,
        "open_us": OPEN_UNTIL_US,
    }
    for name, value in fields.items():
        row[names[name]] = value
    return tuple(row)


async def test_nodes_hear_of_each_other_and_each_process_of_a_node_does(valkey, data_dirs):
    a, b, _ = data_dirs
    async with processes(valkey.url, [a, b, b]) as (first, second, third):
        first.send(100)
        await second.hears((1, 100))
        await third.hears((1, 100))
        third.send(30)
        await first.hears((1, 30))

        assert second.others() == (2, 130)


async def test_what_a_known_node_sends_is_heard_within_a_few_beats(valkey, data_dirs):
    async with processes(valkey.url, data_dirs[:2]) as (first, second):
        first.send()
        second.send()
        await second.hears((1, 100))
        await first.hears((1, 100))
        delays_s = []
        for number in range(2, 12):
            first.send()
            delays_s.append(await second.hears((number, number * 100)))

        assert sorted(delays_s)[5] < 0.1


async def test_node_that_died_is_forgotten(valkey, data_dirs):
    async with processes(valkey.url, data_dirs[:2]) as (first, second):
        first.send()
        await second.hears((1, 100))
        await first.end()
        delay_s = await second.hears((0, 0))

        assert delay_s < nodes.SILENCE_S + 1.0


async def test_another_process_speaks_when_the_speaker_dies(valkey, data_dirs):
    a, b, _ = data_dirs
    async with processes(valkey.url, [a]) as (listener,), processes(valkey.url, [b, b]) as (first, second):
        first.send(100)
        second.send(30)
        await listener.hears((2, 130))
        await first.end()
        await listener.hears((1, 30))
        second.send(5)
        await listener.hears((2, 35))
        listener.send(7)

        await second.hears((1, 7))


async def test_without_the_store_a_node_goes_by_its_own_view_until_it_is_back(valkey, data_dirs):
    a, b, _ = data_dirs
    async with processes(valkey.url, [a, b, b]) as (far, first, second):
        far.send(100)
        first.send(30)
        await second.hears((2, 130))
        valkey.kill()
        try:
            await second.hears((1, 30))
            is_local = metrics.EXCHANGE_LOCAL._value.get()
        finally:
            valkey.start()
        await second.hears((2, 130))

        assert (is_local, metrics.EXCHANGE_LOCAL._value.get()) == (1, 0)


async def test_store_that_hangs_counts_as_away(valkey, data_dirs):
    async with processes(valkey.url, data_dirs[:2]) as (first, second):
        first.send()
        await second.hears((1, 100))
        os.kill(valkey.process.pid, signal.SIGSTOP)
        try:
            await second.hears((0, 0))
        finally:
            os.kill(valkey.process.pid, signal.SIGCONT)

        await second.hears((1, 100))


class FailingAtTheEnd:
    """A store that answers until it is told to fail; who publishes then is cancelled just before it fails."""

    def __init__(self):
        self.is_asked = asyncio.Event()
        self.fails = asyncio.Event()

    @asynccontextmanager
    async def pubsub(self, **_):
        yield self

    async def subscribe(self, _channel):
        """At once."""

    async def get_message(self, **_):
        await asyncio.sleep(60)

    async def publish(self, *_):
        self.is_asked.set()
        await self.fails.wait()
        raise ConnectionError

    async def aclose(self):
        """Nothing is open."""


async def test_speaker_ends_though_the_store_fails_at_the_same_moment(data_dirs):
    store = FailingAtTheEnd()
    exchange = Exchange(clock=time.monotonic)
    exchange.open(data_dirs[0])
    speaker = NodeExchange(redis=store, folder=exchange.folder, clock=time.monotonic)
    speaking = asyncio.get_running_loop().create_task(speaker.run())
    await store.is_asked.wait()

    # The fault ends the group first, and the cancellation finds it ending.
    store.fails.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    speaking.cancel()
    done, _ = await asyncio.wait({speaking}, timeout=5)
    exchange.close()

    assert done == {speaking}


async def test_process_and_speaker_come_back_when_the_folder_was_emptied(valkey, data_dirs):
    a, b, _ = data_dirs
    async with processes(valkey.url, [a, b, b]) as (far, first, second):
        far.send(100)
        first.send(30)
        await second.hears((2, 130))
        folder = first.exchange.folder
        for path in folder.iterdir():
            path.unlink()
        async with asyncio.timeout(5):
            while sorted(path.suffix for path in folder.iterdir()) != [".lock", ".nodes", *[".process"] * 2]:  # noqa: ASYNC110 -- another task does it
                await asyncio.sleep(0.02)
        first.send(5)
        far.send(1)

        await second.hears((4, 136))


def test_node_speaks_with_one_voice_and_keeps_its_name(tmp_path):
    first, second = SpeakerLock(tmp_path), SpeakerLock(tmp_path)
    before = (first.is_held(), second.is_held(), first.is_held())
    name = first.node()
    first.close()

    assert (before, second.is_held(), second.node()) == ((True, False, True), True, name)
    second.close()


def test_speaker_whose_lock_was_taken_away_gives_up(tmp_path):
    first, second = SpeakerLock(tmp_path), SpeakerLock(tmp_path)
    first.is_held()
    (tmp_path / "speaker.lock").unlink()

    assert (second.is_held(), first.is_held()) == (True, False)
    first.close()
    second.close()


def test_message_tells_how_long_a_breaker_stays_open_and_not_until_when():
    message = encoded(
        "n", "e", {"d": list(row_of(in_flight=3, open_us=105_000_000))}, is_whole=True, now_s=100.0
    )

    assert decoded(message, now_s=7.0) == Told(
        node="n", epoch="e", is_whole=True, rows={"d": row_of(in_flight=3, open_us=12_000_000)}
    )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"{}",
        b'{"node": "n", "epoch": "e", "is_whole": true, "rows": 5}',
        b'{"node": "n", "epoch": "e", "is_whole": true, "rows": {"d": [1, 2]}}',
        b'{"node": "n", "epoch": "e", "is_whole": true, "rows": {"d": [%s]}}' % b",".join([b"1.5"] * FIELDS),
        b'{"node": "n", "epoch": "e", "is_whole": true, "rows": {"d": [%s]}}'
        % b",".join([b"9" * 18] * FIELDS),
    ],
)
def test_anything_else_is_no_message(message):
    with pytest.raises(BadMessageError):
        decoded(message, now_s=1.0)


def heard(others):
    with PeerRegion(others._region.path) as region:
        return {name: (row[IN_FLIGHT], row[REQUESTS]) for name, row in region.sweep()}


def test_new_speaker_of_a_known_node_replaces_the_old_one(tmp_path):
    others = OtherNodes(tmp_path)
    others.hear(Told(node="n", epoch="1", is_whole=True, rows={"d": row_of(in_flight=3)}), now_s=1.0)
    others.hear(
        Told(node="n", epoch="1", is_whole=False, rows={"d": row_of(in_flight=3, requests=2)}), now_s=1.0
    )
    partial = Told(node="n", epoch="2", is_whole=False, rows={"d": row_of(in_flight=2, requests=90)})
    others.hear(partial, now_s=1.1)
    before = heard(others)
    others.hear(
        Told(node="n", epoch="2", is_whole=True, rows={"d": row_of(in_flight=2, requests=90)}), now_s=1.2
    )

    assert (before, heard(others)) == ({"d": (3, 2)}, {"d": (2, 2)})
    others.close()


def test_nodes_beyond_the_most_are_not_heard(tmp_path):
    others = OtherNodes(tmp_path)
    for number in range(nodes.NODES_MAX + 1):
        told = Told(node=str(number), epoch="1", is_whole=True, rows={"d": row_of(in_flight=1)})
        others.hear(told, now_s=1.0)

    assert heard(others) == {"d": (nodes.NODES_MAX, 0)}
    others.close()


def test_tally_forgets_what_a_process_had_that_ended(tmp_path):
    own, other = OwnRegion(tmp_path / "1.process"), OwnRegion(tmp_path / "2.process")
    OwnRegion(tmp_path / "3.nodes").publish("d", row_of(in_flight=50))
    own.publish("d", row_of(in_flight=1))
    other.publish("d", row_of(in_flight=2))
    tally = NodeTally(tmp_path)
    tally.look()
    both = tally.changed()["d"][IN_FLIGHT]
    nothing = tally.changed()
    other.close()
    tally.look()

    assert (both, nothing, tally.everything()["d"][IN_FLIGHT]) == (3, {}, 1)
    tally.close()
    own.close()
