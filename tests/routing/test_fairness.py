"""Turns: priority, fair shares, arrival."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import fairness
from routing.fairness import AGEING_S, RATE_TAU_S, Departures, Line
from tests.routing.values import LIGHT


def lined_up(*entries, now_s=0.0):
    """A line of (team, weight, priority), numbered from 1."""
    line = Line()
    for number, (team, weight, priority) in enumerate(entries, start=1):
        line = fairness.joined(line, number=number, team=team, weight=weight, priority=priority, now_s=now_s)
    return line


def order_of(line, *, now_s=0.0):
    numbers = []
    while (number := fairness.first_of(line, now_s=now_s)) is not None:
        line = fairness.served(line, number=number)
        numbers.append(number)
    return numbers


def test_one_team_is_served_as_it_came():
    assert order_of(lined_up(*[("a", 1, 0)] * 4)) == [1, 2, 3, 4]


def test_a_higher_priority_goes_first_and_equals_by_arrival():
    assert order_of(lined_up(("a", 1, 0), ("b", 1, 5), ("a", 1, 5), ("c", 1, -3))) == [2, 3, 1, 4]


def test_waiting_raises_a_priority_until_it_is_served():
    line = lined_up(("late", 1, -1))
    line = fairness.joined(line, number=2, team="new", weight=1, priority=0, now_s=2 * AGEING_S)

    assert fairness.first_of(line, now_s=2 * AGEING_S) == 1
    assert fairness.first_of(lined_up(("late", 1, -1), ("new", 1, 0)), now_s=0.0) == 2


def test_a_team_that_comes_late_gets_its_share_from_now_on_and_no_more():
    line = lined_up(*[("a", 1, 0)] * 20)
    for _ in range(10):
        line = fairness.served(line, number=fairness.first_of(line, now_s=0.0))
    for number in range(21, 26):
        line = fairness.joined(line, number=number, team="b", weight=1, priority=0, now_s=0.0)

    first_ten = order_of(line)[:10]

    assert sum(number > 20 for number in first_ten) == 5


@LIGHT
@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20), min_size=2))
def test_teams_that_wait_get_places_by_their_weights(weights):
    entries = [(team, weight, 0) for _ in range(120) for team, weight in weights.items()]
    line, served = lined_up(*entries), Counter()
    teams = {waiter.number: waiter.team for waiter in line.waiters}
    for _ in range(100):
        number = fairness.first_of(line, now_s=0.0)
        line = fairness.served(line, number=number)
        served[teams[number]] += 1

    for team, weight in weights.items():
        assert served[team] == pytest.approx(100 * weight / sum(weights.values()), abs=len(weights))


entries = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(-2, 2)), min_size=1, max_size=12
)


@LIGHT
@given(entries, st.integers(0, 11), st.floats(0.0, 30.0))
def test_who_leaves_changes_nobody_elses_place(drawn, which, now_s):
    line, leaver = lined_up(*drawn), which % len(drawn) + 1
    before = [number for number in order_of(line, now_s=now_s) if number != leaver]

    assert order_of(fairness.left(line, number=leaver), now_s=now_s) == before


@LIGHT
@given(entries, st.floats(0.0, 30.0))
def test_positions_count_the_order_and_everybody_is_served(drawn, now_s):
    line = lined_up(*drawn)
    order = order_of(line, now_s=now_s)

    assert sorted(order) == list(range(1, len(drawn) + 1))
    positions = [fairness.position_of(line, number=number, now_s=now_s) for number in order]
    assert positions == list(range(1, len(drawn) + 1))


def test_expected_wait_follows_the_places_that_came_free_of_late():
    departures = Departures()
    assert fairness.expected_wait_s(departures, position=1, now_s=0.0) is None
    for step in range(2000):
        departures = fairness.on_departure(departures, now_s=step / 20)

    assert fairness.expected_wait_s(departures, position=10, now_s=100.0) == pytest.approx(0.5, rel=0.05)
    assert fairness.expected_wait_s(departures, position=1, now_s=100.0 + 20 * RATE_TAU_S) is None
