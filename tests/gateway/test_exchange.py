"""What the processes of a node know of each other; each Exchange here stands for a process."""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import exchange as exchanges
from gateway.exchange import BEAT_S, SILENCE_S, Exchange
from routing.learning import NOTHING_LEARNT, Dispatched, FirstToken, observe
from tests.routing.values import deployment

ROOT = Path(__file__).resolve().parent.parent.parent
PLACE = deployment(id="d", in_flight_max=4)


@dataclass
class FakeClock:
    now_s: float = 100.0

    def __call__(self):
        return self.now_s


class Process:
    """An exchange with the states that belong to it."""

    def __init__(self, clock, folder):
        self.clock = clock
        self.states = {}
        self.exchange = Exchange(clock=clock)
        self.exchange.open(folder)

    def fold(self, event, name="d"):
        before = self.states.get(name, NOTHING_LEARNT)
        after = self.states[name] = observe(before, event, self.clock())
        self.exchange.tell(name, event, before=before, after=after)

    def send(self, prompt_tokens=100):
        self.fold(Dispatched(sent_s=self.clock(), prompt_tokens=prompt_tokens))

    def takes_place(self):
        is_taken = self.exchange.takes_place(PLACE, self.states, now_s=self.clock())
        if is_taken:
            self.send()
        return is_taken

    def others(self):
        self.exchange.hear(self.states, now_s=self.clock())
        state = self.states.get("d", NOTHING_LEARNT)
        return state.others_in_flight, state.forecast.others_tokens


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def start(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "SHARED_MEMORY", tmp_path)
    started = []

    def start():
        started.append(Process(clock, tmp_path / "data"))
        for process in started:
            process.exchange.look()
        return started[-1]

    (tmp_path / "data").mkdir()
    yield start
    for process in started:
        process.exchange.close()


def test_others_hear_at_once_what_one_sent(start):
    first, second, third = start(), start(), start()
    first.send(100)
    second.send(30)

    assert [process.others() for process in (first, second, third)] == [(1, 30), (1, 100), (2, 130)]


def test_first_token_takes_the_prompt_out_of_the_others_backlog(start):
    first, second = start(), start()
    first.send(100)
    second.others()
    first.fold(FirstToken(ttft_ms=10.0, prompt_tokens=100, tokens_in_front=100, expected_s=0.01))

    assert second.others() == (1, 0)
    assert second.states["d"].forecast.drained_tokens == 100


def test_process_that_starts_later_hears_what_stands(start):
    first = start()
    first.send(100)
    late = start()

    assert late.others() == (1, 100)


def test_process_alone_goes_by_its_own_view(clock):
    alone = Exchange(clock=clock)
    states = {}
    alone.tell("d", Dispatched(sent_s=1.0), before=NOTHING_LEARNT, after=NOTHING_LEARNT)
    alone.hear(states, now_s=100.0)
    alone.look()
    alone.close()

    assert alone.takes_place(PLACE, states, now_s=100.0)
    assert (states, alone.folder, alone.has_peers) == ({}, None, False)


def test_what_was_told_before_the_opening_is_not_lost(start, clock, tmp_path):
    early = Exchange(clock=clock)
    event = Dispatched(sent_s=1.0, prompt_tokens=50)
    early.tell("d", event, before=NOTHING_LEARNT, after=observe(NOTHING_LEARNT, event, 100.0))
    early.open(tmp_path / "data")

    assert start().others() == (1, 50)
    early.close()


def test_who_ended_is_forgotten_with_the_next_look(start):
    first, second = start(), start()
    first.send()
    before = second.others()
    first.exchange.close()
    second.exchange.look()

    assert (before, second.others(), second.exchange.has_peers) == ((1, 100), (0, 0), False)


def test_who_is_silent_is_forgotten_until_it_is_heard_again(start, clock):
    first, second = start(), start()
    first.send()
    heard = []
    for _ in range(int(SILENCE_S / BEAT_S) + 2):
        clock.now_s += BEAT_S
        second.exchange.look()
        heard.append(second.others())
    first.exchange.look()
    first.send()
    second.exchange.look()

    assert heard == [(1, 100)] * int(SILENCE_S / BEAT_S) + [(0, 0)] * 2
    assert second.others() == (2, 200)


def test_last_place_goes_to_one_of_two_that_ask_at_once(start):
    """The second asks after the first had written its own down, and before it looked at the second's."""
    first, second = start(), start()
    for _ in range(PLACE.in_flight_max - 1):
        first.send()
    publish = first.exchange._publish
    taken = []

    def publish_and_pause(deployment_id, row):
        first.exchange._publish = publish
        publish(deployment_id, row)
        taken.append(second.takes_place())

    first.exchange._publish = publish_and_pause
    taken.append(first.takes_place())

    assert taken == [False, True]
    assert (first.others(), second.others()) == ((0, 0), (4, 400))


def test_places_are_never_more_than_the_limit(start):
    processes = [start() for _ in range(3)]
    taken = [process.takes_place() for _ in range(3) for process in processes]

    assert taken == [True] * 4 + [False] * 5


def test_region_that_is_being_made_is_nobodys_yet(start):
    first = start()
    (first.exchange.folder / ".half.process").touch()
    first.exchange.look()

    assert (first.exchange.has_peers, first.exchange._unreadable) == (False, set())


# Sends one request and waits for its death.
DOOMED = """
import sys, time
from pathlib import Path
from gateway import exchange as exchanges
from gateway.exchange import Exchange
from routing.learning import NOTHING_LEARNT, Dispatched, observe

exchanges.SHARED_MEMORY = Path(sys.argv[1])
exchange = Exchange(clock=time.monotonic)
exchange.open(Path(sys.argv[1]) / "data")
event = Dispatched(sent_s=0.0, prompt_tokens=100)
exchange.tell("d", event, before=NOTHING_LEARNT, after=observe(NOTHING_LEARNT, event, 1.0))
print("ready", flush=True)
sys.stdin.readline()
"""


def test_killed_process_is_forgotten_with_the_next_look(start, tmp_path):
    first = start()
    argv = [sys.executable, "-c", DOOMED, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as doomed:
        assert doomed.stdout.readline() == b"ready\n"
        first.exchange.look()
        before = first.others()
        doomed.kill()
        doomed.wait()
        first.exchange.look()

    assert (before, first.others()) == ((1, 100), (0, 0))
    assert len(list(first.exchange.folder.iterdir())) == 1


async def test_place_for_a_request_that_never_came_to_be_is_given_back(start, clock):
    first, second = start(), start()
    first.send()
    first.exchange.takes_place(PLACE, first.states, now_s=clock())
    before = second.others()
    running = asyncio.ensure_future(first.exchange.run(first.states))
    await asyncio.sleep(0)
    running.cancel()

    assert (before, second.others()) == ((2, 100), (1, 100))


def test_region_that_was_deleted_is_made_anew(start):
    first, second = start(), start()
    first.send(100)
    for path in first.exchange.folder.iterdir():
        path.unlink()
    for process in (first, second, first):
        process.exchange.look()
    first.send(30)

    assert second.others() == (2, 130)
    assert second.states["d"].forecast.backlog_tokens == 0


# Takes a place, notes from when to when it had it, and gives it back: a second in a process of its own.
GREEDY = """
import json, sys, time
from pathlib import Path
from gateway import exchange as exchanges
from gateway.exchange import Exchange
from routing.learning import NOTHING_LEARNT, Abandoned, Dispatched, observe
from tests.routing.values import deployment

exchanges.SHARED_MEMORY = Path(sys.argv[1])
exchange, states, held = Exchange(clock=time.monotonic), {}, []
exchange.open(Path(sys.argv[1]) / "data")

def fold(event):
    before = states.get("d", NOTHING_LEARNT)
    after = states["d"] = observe(before, event, time.monotonic())
    exchange.tell("d", event, before=before, after=after)

place = deployment(id="d", in_flight_max=1)
print("ready", flush=True)
sys.stdin.readline()
exchange.look()
ends_s = time.monotonic() + 1.0
while time.monotonic() < ends_s:
    exchange.hear(states, now_s=time.monotonic())
    if states.get("d", NOTHING_LEARNT).all_in_flight >= 1:
        continue
    if exchange.takes_place(place, states, now_s=time.monotonic()):
        from_s = time.monotonic()
        fold(Dispatched(sent_s=0.0))
        held.append((from_s, time.monotonic()))
        fold(Abandoned(sent_s=0.0))
print(json.dumps(held), flush=True)
sys.stdin.readline()
"""


def test_processes_that_hammer_one_place_never_have_it_together(tmp_path):
    (tmp_path / "data").mkdir()
    argv = [sys.executable, "-c", GREEDY, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(subprocess.Popen(argv, cwd=ROOT, **pipes)) for _ in range(3)]
        for process in greedy:
            assert process.stdout.readline() == "ready\n"
        for process in greedy:
            process.stdin.write("go\n")
            process.stdin.flush()
        held = [json.loads(process.stdout.readline()) for process in greedy]
        for process in greedy:
            process.stdin.close()

    times = sorted(span for spans in held for span in spans)
    # On a busy machine one of them may never have been there in time.
    assert sum(bool(spans) for spans in held) >= 2
    together = [(earlier, later) for earlier, later in itertools.pairwise(times) if later[0] < earlier[1]]
    assert together == []


def test_foreign_file_is_complained_of_once_and_left_alone(start, tmp_path):
    first = start()
    foreign = first.exchange.folder / "foreign.process"
    foreign.write_text("not a region")
    second = start()
    second.send()

    assert first.others() == (1, 100)
    assert foreign.exists()


def test_folder_of_another_user_is_not_used(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "SHARED_MEMORY", tmp_path)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    open_to_all = exchanges._memory_folder(data_dir)
    open_to_all.mkdir(mode=0o755)
    process = Exchange(clock=clock)
    process.open(data_dir)

    assert process.folder == data_dir / "exchange"
    process.close()


def test_without_any_folder_the_process_serves_alone(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(exchanges.tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    process = Exchange(clock=clock)
    process.open(tmp_path / "nowhere")

    assert (process.folder, process.takes_place(PLACE, {}, now_s=1.0)) == (None, True)
