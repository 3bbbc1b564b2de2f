"""Calendar windows of budgets, over changes of the clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.windows import WindowSpan, is_timezone, window_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # midnight comes twice in autumn
    "America/Santiago",  # midnight is skipped in spring
    "America/St_Johns",  # clocks changed at 00:01 until 2011
    "Asia/Beirut",  # the clocks go back over midnight
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # lost a whole day in 2011
]
MOMENTS = st.datetimes(
    min_value=datetime(1985, 1, 1),  # noqa: DTZ001 -- hypothesis adds the zone
    max_value=datetime(2045, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(now=MOMENTS, zone=st.sampled_from(ZONES), window=st.sampled_from(["day", "week", "month"]))
def test_window_holds_its_moment_and_touches_the_next(now, zone, window):
    span = window_of(window=window, timezone=zone, now=now)
    following = window_of(window=window, timezone=zone, now=span.ends_at)
    before = window_of(window=window, timezone=zone, now=span.starts_at - timedelta(microseconds=1))

    assert span.starts_at <= now < span.ends_at
    assert following.starts_at == span.ends_at
    assert before.ends_at == span.starts_at
    assert window_of(window=window, timezone=zone, now=span.starts_at) == span
    assert len(span.key) <= 27
    assert len({before.key, span.key, following.key}) == 3


# Kathmandu had no midnight when it moved by a quarter of an hour: 1986-01-01 began at 00:15.
@given(
    now=MOMENTS.filter(lambda now: now.year > 1986),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
)
def test_windows_begin_at_local_midnight(now, zone):
    local = {
        window: window_of(window=window, timezone=zone, now=now).starts_at.astimezone(ZoneInfo(zone))
        for window in ("day", "week", "month")
    }

    assert {f"{moment:%H:%M:%S}" for moment in local.values()} == {"00:00:00"}
    assert local["week"].weekday() == 0
    assert local["month"].day == 1


@pytest.mark.parametrize(
    ("now", "hours"),
    [("2026-03-29T12:00+00:00", 23), ("2026-10-25T12:00+00:00", 25), ("2026-11-20T12:00+00:00", 24)],
)
def test_day_of_a_clock_change_is_shorter_or_longer(now, hours):
    span = window_of(window="day", timezone="Europe/Berlin", now=datetime.fromisoformat(now))

    assert span.ends_at - span.starts_at == timedelta(hours=hours)


def test_month_window_is_the_local_month():
    span = window_of(window="month", timezone="Europe/Berlin", now=datetime(2026, 10, 31, 23, 30, tzinfo=UTC))

    assert span == WindowSpan(
        key="month:2026-10-31T23:00Z",
        starts_at=datetime(2026, 10, 31, 23, tzinfo=UTC),
        ends_at=datetime(2026, 11, 30, 23, tzinfo=UTC),
    )


def test_total_window_never_ends():
    span = window_of(window="total", timezone="UTC", now=datetime(2026, 11, 20, tzinfo=UTC))

    assert span == WindowSpan(
        key="total:1970-01-01T00:00Z", starts_at=datetime(1970, 1, 1, tzinfo=UTC), ends_at=None
    )


def test_unknown_window_is_refused():
    with pytest.raises(ValueError, match="unknown window 'year'"):
        window_of(window="year", timezone="UTC", now=datetime(2026, 11, 20, tzinfo=UTC))


def test_is_timezone_knows_names_only():
    assert [is_timezone(name) for name in ("UTC", "Europe/Berlin", "", "Europe", "../x", "Mars/Base")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
