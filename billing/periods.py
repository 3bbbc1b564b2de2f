"""Reads which span of time a usage report is asked for: a named period or two dates, all in UTC."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

# The name in the address, and how people call it.
PERIODS = {
    "today": "Today",
    "7d": "7 days",
    "30d": "30 days",
    "month": "This month",
    "last_month": "Last month",
    "custom": "Custom",
}
DEFAULT_PERIOD = "30d"


class PeriodError(ValueError):
    """A period that cannot be read; the message says how to write one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `from_at` up to, not including, `to_at`, in UTC."""

    name: str
    from_at: datetime
    to_at: datetime

    @property
    def last_date(self) -> date:
        return (self.to_at - timedelta(microseconds=1)).date()

    @property
    def is_one_day(self) -> bool:
        return self.last_date == self.from_at.date()


def period_of(*, name: str, from_text: str, to_text: str, now: datetime) -> Period:
    """The named period around `now`; two dates, or no name and a date, make a custom one."""
    if not name:
        name = "custom" if from_text or to_text else DEFAULT_PERIOD
    if name not in PERIODS:
        raise PeriodError(f"unknown period {name!r}: it is one of {', '.join(PERIODS)}")
    today = _midnight(now.astimezone(UTC).date())
    tomorrow = today + timedelta(days=1)
    month = today.replace(day=1)
    if name == "custom":
        from_at = moment_from_text(from_text, is_end=False) if from_text else month
        to_at = moment_from_text(to_text, is_end=True) if to_text else tomorrow
        if to_at <= from_at:
            raise PeriodError("the period ends before it begins: `to` must not lie before `from`")
        return Period(name=name, from_at=from_at, to_at=to_at)
    if name == "last_month":
        return Period(name=name, from_at=(month - timedelta(days=1)).replace(day=1), to_at=month)
    from_at = {
        "today": today,
        "7d": today - timedelta(days=6),
        "30d": today - timedelta(days=29),
        "month": month,
    }[name]
    return Period(name=name, from_at=from_at, to_at=tomorrow)


def moment_from_text(text: str, *, is_end: bool) -> datetime:
    """A date (as an end it counts whole) or a moment such as 2026-11-03T12:00Z; without a zone it is UTC."""
    try:
        if len(text) == len("2026-11-03"):
            day = date.fromisoformat(text)
            return _midnight(day + timedelta(days=1) if is_end else day)
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise PeriodError(f"{text!r} is not a date: write it as 2026-11-03 or 2026-11-03T12:00Z") from error


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)
