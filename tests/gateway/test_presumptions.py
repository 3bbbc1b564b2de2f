"""Presumptions: each due answer once, in the order of their moments, by one timer for all."""

from types import SimpleNamespace

import pytest

from gateway.presumptions import KEPT_MIN, RING_PAUSE_S, Presumptions
from tests.gateway.test_traffic import FakeClock, FakeLater


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def later():
    return FakeLater()


def plain(name):
    return SimpleNamespace(name=name, unseen_tokens=100)


def presumptions_of(clock, later):
    told = []
    made = Presumptions(
        clock=clock,
        call_later=later,
        on_due=lambda now_s: told.extend(each.name for each in made.take_due(now_s)),
    )
    return made, told


def test_one_timer_rings_for_all_in_the_order_of_their_moments(clock, later):
    presumptions, told = presumptions_of(clock, later)
    for name, delay_s in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        presumptions.add(plain(name), delay_s=delay_s)
    assert [delay_s for delay_s, _ in later.calls] == [2.0, 1.0]

    clock.now_s += 2.5
    later.calls[1][1]()

    assert told == ["a", "b"]
    assert [delay_s for delay_s, _ in later.calls[2:]] == [0.5]


def test_the_next_ring_gathers_what_is_due_just_after(clock, later):
    presumptions, told = presumptions_of(clock, later)
    for name, delay_s in (("a", 1.0), ("b", 1.0 + RING_PAUSE_S / 4)):
        presumptions.add(plain(name), delay_s=delay_s)
    clock.now_s += 1.0
    later.calls[0][1]()

    assert told == ["a"]
    assert [delay_s for delay_s, _ in later.calls[1:]] == [pytest.approx(RING_PAUSE_S)]


def test_what_ended_is_not_told(clock, later):
    presumptions, told = presumptions_of(clock, later)
    ended = plain("ended")
    presumptions.add(ended, delay_s=1.0)
    ended.unseen_tokens = 0
    clock.now_s += 1.0

    later.calls[0][1]()

    assert told == []
    assert presumptions.take_due(clock.now_s) == []


def test_what_ended_long_before_it_was_due_is_not_kept(clock, later):
    presumptions, told = presumptions_of(clock, later)
    running = plain("running")
    presumptions.add(running, delay_s=900.0)
    for number in range(10 * KEPT_MIN):
        ended = plain(number)
        presumptions.add(ended, delay_s=900.0)
        ended.unseen_tokens = 0

    assert len(presumptions._expected) <= KEPT_MIN + 1
    clock.now_s += 901.0
    later.calls[0][1]()
    assert told == ["running"]
