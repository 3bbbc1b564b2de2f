"""The conditions of prices: what can be one, when it holds, when the next one begins."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.price_conditions import (
    PriceCondition,
    PriceConditionError,
    checked_condition,
    minute_from_text,
    minute_of_day,
    next_boundary,
    time_text,
)

LIGHT = settings(max_examples=60, deadline=None, database=None)
minutes = st.integers(0, 1439)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ((0, 1440), [0, 720, 1439], []),
        ((60, 120), [60, 119], [0, 59, 120, 1439]),
        ((990, 30), [990, 1439, 0, 29], [30, 989]),
        ((990, 0), [990, 1439], [0, 989]),
        ((0, 480), [0, 479], [480, 1439]),
    ],
)
def test_window_holds_from_its_beginning_up_to_its_end(window, inside, outside):
    condition = checked_condition(daily_from_minute=window[0], daily_to_minute=window[1])

    assert [minute for minute in (*inside, *outside) if condition.holds_at(minute)] == inside


def test_window_from_midnight_and_all_day_are_two_histories():
    from_midnight = checked_condition(daily_from_minute=0, daily_to_minute=480)

    assert from_midnight == PriceCondition(daily_from_minute=1440, daily_to_minute=480)
    assert from_midnight == checked_condition(daily_from_minute=1440, daily_to_minute=480)
    assert from_midnight.key != PriceCondition().key


def test_ended_condition_never_holds():
    ended = PriceCondition(daily_from_minute=60, daily_to_minute=60)

    assert ended.is_ended
    assert not any(ended.holds_at(minute) for minute in range(1440))


@pytest.mark.parametrize(
    ("given_parts", "message"),
    [
        ({"service_tier": "default"}, "is the standard one: leave the service tier empty"),
        ({"service_tier": "auto"}, "is the standard one"),
        ({"service_tier": "Flex"}, "is no name of one: write up to 16 small letters"),
        ({"service_tier": "a" * 17}, "is no name of one"),
        ({"context_tokens_min": -1}, "not between 0 and"),
        ({"context_tokens_min": 2**31}, "not between 0 and"),
        ({"daily_from_minute": -1}, "not between 0 and 1440"),
        ({"daily_to_minute": 1441}, "not between 0 and 1440"),
        ({"daily_from_minute": 60, "daily_to_minute": 60}, "01:00 to 01:00 is no part of the day"),
        ({"daily_from_minute": 0, "daily_to_minute": 0}, "no part of the day"),
        ({"daily_from_minute": 1440, "daily_to_minute": 1440}, "no part of the day"),
    ],
)
def test_checked_condition_refuses(given_parts, message):
    with pytest.raises(PriceConditionError, match=message):
        checked_condition(**given_parts)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (PriceCondition(), ""),
        (PriceCondition(service_tier="flex"), "flex"),
        (PriceCondition(service_tier="flex", context_tokens_min=200_001), "flex, from 200,001 tokens"),
        (PriceCondition(daily_from_minute=990, daily_to_minute=30), "16:30-00:30 UTC"),
        (PriceCondition(daily_from_minute=1440, daily_to_minute=480), "00:00-08:00 UTC"),
        (PriceCondition(service_tier="flex", daily_to_minute=0), "flex, ended"),
    ],
)
def test_condition_says_when_it_holds(condition, text):
    assert str(condition) == text


@LIGHT
@given(st.integers(0, 1440))
def test_time_of_day_is_read_back(minute):
    assert minute_from_text(time_text(minute)) == minute


@pytest.mark.parametrize("text", ["", "7:00", "24:01", "12:60", "-1:00", "noon", "12:00:00", "١٢:٣٠"])
def test_minute_from_text_refuses(text):
    with pytest.raises(PriceConditionError, match="is no time of the day: write HH:MM"):
        minute_from_text(text)


def test_minute_of_day_is_in_utc():
    east = datetime(2026, 1, 1, 1, 15, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    assert minute_of_day(east) == 19 * 60 + 45


@LIGHT
@given(st.sets(st.integers(0, 1440), max_size=4), st.datetimes(timezones=st.just(UTC)))
def test_next_boundary_is_the_first_after_now(boundaries, now):
    if now.year > 9998:
        return

    found = next_boundary(minutes=frozenset(boundaries), now=now)

    if not boundaries:
        assert found is None
        return
    assert found is not None
    assert now < found <= now + timedelta(days=1)
    assert (found.second, found.microsecond) == (0, 0)
    assert minute_of_day(found) in {minute % 1440 for minute in boundaries}
    between = [now + timedelta(minutes=step) for step in range(1, int((found - now).total_seconds() // 60))]
    assert not any(minute_of_day(moment) in {minute % 1440 for minute in boundaries} for moment in between)
