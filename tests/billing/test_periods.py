"""Which span of time a report is asked for."""

from datetime import UTC, datetime

import pytest

from billing.periods import PeriodError, moment_from_text, period_of

NOW = datetime(2026, 3, 31, 15, 4, tzinfo=UTC)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "from_text", "to_text", "expected"),
    [
        ("today", "", "", ("today", "2026-03-31", "2026-04-01")),
        ("7d", "", "", ("7d", "2026-03-25", "2026-04-01")),
        ("30d", "", "", ("30d", "2026-03-02", "2026-04-01")),
        ("month", "", "", ("month", "2026-03-01", "2026-04-01")),
        ("last_month", "", "", ("last_month", "2026-02-01", "2026-03-01")),
        ("", "", "", ("30d", "2026-03-02", "2026-04-01")),
        ("", "2026-01-02", "2026-01-02", ("custom", "2026-01-02", "2026-01-03")),
        ("custom", "", "", ("custom", "2026-03-01", "2026-04-01")),
        ("7d", "2026-01-02", "2026-01-02", ("7d", "2026-03-25", "2026-04-01")),
    ],
)
def test_period_of(name, from_text, to_text, expected):
    period = period_of(name=name, from_text=from_text, to_text=to_text, now=NOW)

    assert (period.name, period.from_at, period.to_at) == (expected[0], at(expected[1]), at(expected[2]))


def test_last_date_is_the_last_that_counts():
    period = period_of(name="last_month", from_text="", to_text="", now=NOW)

    assert (period.last_date.isoformat(), period.is_one_day) == ("2026-02-28", False)
    assert period_of(name="today", from_text="", to_text="", now=NOW).is_one_day


def test_moments_may_carry_a_time_and_a_zone():
    moments = [
        moment_from_text(text, is_end=True)
        for text in ("2026-11-03T12:00Z", "2026-11-03T12:00", "2026-11-03T14:00+02:00", "2026-11-02")
    ]

    assert moments == [at("2026-11-03T12:00")] * 3 + [at("2026-11-03")]


@pytest.mark.parametrize(
    ("name", "from_text", "to_text", "message"),
    [
        ("year", "", "", "unknown period 'year': it is one of today, 7d"),
        ("custom", "yesterday", "", "'yesterday' is not a date: write it as 2026-11-03"),
        ("", "2026-02-30", "", "is not a date"),
        ("", "2026-02-02", "2026-02-01", "ends before it begins"),
        ("", "", "9999-12-31", "is not a date"),
    ],
)
def test_period_of_refuses(name, from_text, to_text, message):
    with pytest.raises(PeriodError, match=message):
        period_of(name=name, from_text=from_text, to_text=to_text, now=NOW)
