"""Calendar arithmetic of budgets: which day, week or month a moment belongs to, in a named time zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpan:
    """From `starts_at` up to, not including, `ends_at` (None: never), both in UTC."""

    key: str
    starts_at: datetime
    ends_at: datetime | None


def window_of(*, window: str, timezone: str, now: datetime) -> WindowSpan:
    """The calendar window that holds `now`: it starts at local midnight, a week on Monday.

    A day of a clock change has 23 or 25 hours. Where midnight itself is skipped (clocks that spring
    forward at 00:00) the day starts at the first moment that exists; where it comes twice, at the first.
    """
    assert now.tzinfo is not None
    if window == "total":
        return WindowSpan(key=_key(window, EPOCH), starts_at=EPOCH, ends_at=None)
    zone = ZoneInfo(timezone)
    first = _first_date(window=window, day=now.astimezone(zone).date())
    # Clocks that are set back just after midnight show yesterday's date again, ones that jump over
    # midnight never show it: there the neighbour is the window that holds the moment.
    if now < _midnight(day=first, zone=zone):
        first = _first_date(window=window, day=first - timedelta(days=1))
    elif now >= _midnight(day=_next_first_date(window=window, first=first), zone=zone):
        first = _next_first_date(window=window, first=first)
    starts_at = _midnight(day=first, zone=zone)
    ends_at = _midnight(day=_next_first_date(window=window, first=first), zone=zone)
    assert starts_at <= now
    assert now < ends_at
    return WindowSpan(key=_key(window, starts_at), starts_at=starts_at, ends_at=ends_at)


def is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _first_date(*, window: str, day: date) -> date:
    if window == "day":
        return day
    if window == "week":
        return day - timedelta(days=day.weekday())
    if window == "month":
        return day.replace(day=1)
    raise ValueError(f"unknown window {window!r}: it is day, week, month or total")


def _next_first_date(*, window: str, first: date) -> date:
    if window == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days={"day": 1, "week": 7}[window])


def _midnight(*, day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


def _key(window: str, starts_at: datetime) -> str:
    return f"{window}:{starts_at:%Y-%m-%dT%H:%MZ}"
