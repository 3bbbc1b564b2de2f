"""The door: bursts wait, overload is turned away, the limit follows the lag, and nobody is forgotten."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.overload import (
    LAG_FAR_S,
    LIMIT_MAX,
    LIMIT_MIN,
    LIMIT_START,
    LIMIT_STEP,
    LINE_MAX,
    PATIENCE_S,
    PULSE_S,
    STANDING_LINE_MAX,
    STANDING_S,
    UNCOUNTED,
    Door,
)

# Between the two marks of the lag, which is where it is presumed to be first.
USUAL_LAG_S = 0.00075


@dataclass
class Street:
    """Time, the timers, and what became of everybody."""

    now_s: float = 100.0
    # Of the time that the process wants its core, how much it has it.
    core_share: float = 1.0
    timers: list = field(default_factory=list)
    begun: dict = field(default_factory=dict)
    refused: list = field(default_factory=list)

    def __post_init__(self):
        self.door = Door(
            clock=lambda: self.now_s,
            cpu_clock=lambda: self.now_s * self.core_share,
            call_later=lambda delay_s, act: self.timers.append((self.now_s + delay_s, act)),
        )

    def come(self, *names):
        for name in names:
            self.door.enter(
                lambda work, name=name: self.begun.update({name: work}),
                lambda name=name: self.refused.append(name),
            )

    def pass_time(self, seconds, *, lag_s=USUAL_LAG_S):
        """Timers ring so late; each sets the next."""
        end_s = self.now_s + seconds
        while self.timers and self.timers[0][0] + lag_s <= end_s:
            due_s, act = self.timers.pop(0)
            self.now_s = due_s + lag_s
            act()
        self.now_s = end_s


@pytest.fixture
def street():
    return Street()


def fill(street):
    street.come(*(f"first {number}" for number in range(LIMIT_START)))
    assert (len(street.begun), len(street.door)) == (LIMIT_START, 0)
    return list(street.begun.values())


def test_who_finds_room_begins_at_once_and_nothing_is_measured(street):
    fill(street)

    assert (street.timers, street.refused, street.door.work_count) == ([], [], LIMIT_START)


def test_who_finds_none_begins_in_turn_when_others_end(street):
    works = fill(street)
    street.come("a", "b", "c")
    assert len(street.door) == 3

    works[0].end()
    works[1].put_down()

    assert list(street.begun)[LIMIT_START:] == ["a", "b"]
    assert (len(street.door), street.door.work_count) == (1, LIMIT_START)


def test_who_waits_for_an_upstream_takes_no_room(street):
    works = fill(street)
    for work in works:
        work.put_down()
    street.come(*range(LIMIT_START))
    assert street.door.work_count == LIMIT_START

    # An answer came: it is worked on, whether there is room or not.
    works[0].take_up()

    assert (street.door.work_count, street.refused) == (LIMIT_START + 1, [])


def test_work_is_counted_once_however_often_it_is_told(street):
    street.come("a")
    work = street.begun["a"]
    for act, count in (
        (work.take_up, 1),
        (work.put_down, 0),
        (work.put_down, 0),
        (work.take_up, 1),
        (work.end, 0),
    ):
        act()
        assert street.door.work_count == count
    work.take_up()
    work.end()

    assert street.door.work_count == 0
    UNCOUNTED.take_up()
    UNCOUNTED.end()


def test_burst_may_wait_as_long_as_a_burst_lasts(street):
    fill(street)
    street.come("early")
    street.pass_time(STANDING_S - 2 * PULSE_S)
    street.come("late")
    assert (street.refused, street.door.is_closed) == ([], False)

    street.pass_time(4 * PULSE_S)

    # It waited too long; who came late has not, but the line stands now.
    assert street.refused == ["early", "late"]


def test_line_that_stands_is_patient_for_a_moment_only(street):
    fill(street)
    street.come("a")
    street.pass_time(STANDING_S + 2 * PULSE_S)
    street.refused.clear()

    street.come("b")
    street.pass_time(PATIENCE_S / 2)
    assert street.refused == []
    street.pass_time(PATIENCE_S + 2 * PULSE_S)

    assert street.refused == ["b"]


def test_line_that_stands_is_short_and_then_closed(street):
    fill(street)
    street.come("a")
    street.pass_time(STANDING_S + 2 * PULSE_S)
    street.refused.clear()

    street.come(*range(STANDING_LINE_MAX))
    assert (street.door.is_closed, street.refused) == (True, [])
    street.come("one too many")

    assert street.refused == ["one too many"]


def test_burst_is_long_but_has_an_end(street):
    fill(street)
    street.come(*range(LINE_MAX + 1))

    assert (len(street.door), street.refused) == (LINE_MAX, [LINE_MAX])


def test_line_stands_until_nobody_had_to_wait_for_as_long(street):
    works = fill(street)
    street.come("a")
    street.pass_time(STANDING_S + 2 * PULSE_S)
    for work in works:
        work.end()
    street.pass_time(STANDING_S + 2 * PULSE_S)
    assert street.timers == []
    street.refused.clear()

    fill_again = range(1000, 1000 + LIMIT_START + 1)
    street.come(*fill_again)
    street.pass_time(STANDING_S / 2)

    assert street.refused == []


@pytest.mark.parametrize(
    ("lag_s", "pulses", "limit"),
    [
        (USUAL_LAG_S, 30, LIMIT_START),
        (0.0, 200, LIMIT_MAX),
        (LAG_FAR_S * 2, 30, LIMIT_MIN),
    ],
)
def test_limit_follows_the_lag(street, lag_s, pulses, limit):
    for number in range(pulses):
        # Somebody always waits: so it is measured.
        street.come(*range(number * 2000, number * 2000 + 1100))
        street.pass_time(PULSE_S + lag_s, lag_s=lag_s)

    assert street.door.limit == pytest.approx(limit)


def test_limit_does_not_grow_while_nobody_waits_and_begins_anew_after_it(street):
    works = fill(street)
    street.come("a")
    for work in works:
        work.end()
    assert (list(street.begun)[-1], len(street.door)) == ("a", 0)

    street.pass_time(1.0, lag_s=0.0)
    assert (street.door.limit, street.timers) == (LIMIT_START, [])

    street.door.limit = 1000.0
    street.come(*range(1000))
    street.begun["a"].end()
    street.pass_time(2 * PULSE_S)
    assert street.door.limit == LIMIT_START


@pytest.mark.parametrize(
    ("lag_s", "limit"),
    [
        # Half of 5 ms and this lag is less than the pulse: it would be in time, had it a core of its own.
        (0.004, LIMIT_MAX),
        (0.020, LIMIT_MIN),
    ],
)
def test_lag_counts_as_far_as_the_process_was_at_work(street, lag_s, limit):
    street.core_share = 0.5
    for number in range(200):
        street.come(*range(number * 2000, number * 2000 + 1100))
        street.pass_time(PULSE_S + lag_s, lag_s=lag_s)

    assert street.door.limit == pytest.approx(limit)


def test_lag_that_is_only_a_little_too_long_takes_a_little_room(street):
    fill(street)
    street.come("a")
    street.pass_time(PULSE_S + 0.004, lag_s=0.004)

    assert street.door.limit == pytest.approx(LIMIT_START * (1 - LIMIT_STEP))


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "put_down", "take_up", "end", "time"]), st.integers(0, 10**6)),
        max_size=150,
    )
)
def test_everybody_is_begun_or_refused_once_and_never_more_than_the_limit_at_once(steps):
    street, count = Street(), 0
    for step, number in steps:
        if step == "come":
            before = street.door.work_count
            street.come(*range(count, count + number % 90))
            count += number % 90
            assert street.door.work_count <= max(before, street.door.limit + 1)
        elif step == "time":
            street.pass_time(number % 60 / 1000, lag_s=number % 7 / 1000)
        elif street.begun:
            getattr(list(street.begun.values())[number % len(street.begun)], step)()
        assert street.door.work_count >= 0
    street.pass_time(10.0)
    while len(street.begun) + len(street.refused) < count:
        for work in list(street.begun.values()):
            work.end()

    assert sorted([*street.begun, *street.refused]) == list(range(count))
    assert len(street.door) == 0
