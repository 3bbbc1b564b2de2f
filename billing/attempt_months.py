"""Which calendar month an attempt was begun in, told from its id: UUIDs of version 7 begin with the time."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

ID_TIME_SHIFT = 80


def month_of(moment: datetime) -> datetime:
    """The start of the moment's month, in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    return month_of(month + timedelta(days=31))


def first_attempt_id(*, month: datetime) -> UUID:
    """The least id that an attempt of the month can have."""
    assert month == month_of(month)
    return UUID(int=round(month.timestamp()) * 1000 << ID_TIME_SHIFT)


def begun_at(attempt_id: UUID) -> datetime | None:
    """When the attempt was begun; None: its id is not one of ours and says nothing of time."""
    moment_ms = attempt_id.int >> ID_TIME_SHIFT
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)
    except OverflowError:
        return None
