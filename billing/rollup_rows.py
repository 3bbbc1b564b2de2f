"""Reads the rollups of a span of time, days where they are folded and else hours, each attempt once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import CharField, Func, QuerySet

from billing.models import SpendRollup

SPAN_MAX = timedelta(days=1100)
HOURLY_SPAN_MAX = timedelta(days=35)

# How far the text of a moment goes.
_STEPS: Mapping[str, int] = {"month": 7, "day": 10, "hour": 16}


class ReportError(ValueError):
    """A report that cannot be made as asked; the message says what is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """Keeps the rows that match all that is given."""

    key_id: str | None = None
    team: str | None = None
    organisation: str | None = None
    model: str | None = None
    cluster: str | None = None


def span_pieces(
    *, from_at: datetime, to_at: datetime, only: ReportFilter | None, is_hourly: bool
) -> list[QuerySet[SpendRollup]]:
    """The rows that add up to the span, each attempt in exactly one of them, in up to three pieces.

    A query for each piece is one walk through the index; for their union the databases do far more.
    """
    if from_at.tzinfo is None or to_at.tzinfo is None:
        raise ReportError("the span of a report needs a time zone at both ends")
    if to_at <= from_at:
        raise ReportError("the report ends before it begins: `to` must be later than `from`")
    span_max = HOURLY_SPAN_MAX if is_hourly else SPAN_MAX
    if to_at - from_at > span_max:
        raise ReportError(f"a report of this kind spans at most {span_max.days} days")
    rollups = SpendRollup.objects.filter(**conditions(only))
    hours = rollups.filter(period=SpendRollup.Period.HOUR, starts_at__lt=to_at)
    start = floor(from_at)
    folded_until = None if is_hourly else latest_folded()
    first_day = _ceiling_day(start)
    last_day = None if folded_until is None else min(folded_until, floor(to_at).replace(hour=0))
    if last_day is None or last_day <= first_day:
        return [hours.filter(starts_at__gte=start)]
    days = rollups.filter(period=SpendRollup.Period.DAY, starts_at__gte=first_day, starts_at__lt=last_day)
    pieces = [days, hours.filter(starts_at__gte=last_day)]
    if start < first_day:
        pieces.append(hours.filter(starts_at__gte=start, starts_at__lt=first_day))
    return pieces


def conditions(only: ReportFilter | None) -> dict[str, str]:
    if only is None:
        return {}
    if only.key_id is not None and not _is_uuid(only.key_id):
        raise ReportError(f"{only.key_id!r} is not the id of a key: open the report from the list of keys")
    given = {
        "key_id": only.key_id,
        "team": only.team,
        "organisation": only.organisation,
        "model": only.model,
        "cluster": only.cluster,
    }
    return {column: value for column, value in given.items() if value is not None}


def moments_of(*, from_at: datetime, to_at: datetime, step: str) -> Iterator[datetime]:
    """The beginnings of all steps that the span touches."""
    moment = floor(from_at)
    if step != "hour":
        moment = moment.replace(hour=0)
    if step == "month":
        moment = moment.replace(day=1)
    while moment < to_at:
        yield moment
        if step == "month":
            moment = (moment + timedelta(days=31)).replace(day=1)
        else:
            moment += timedelta(hours=1) if step == "hour" else timedelta(days=1)


def moment_text(moment: datetime, *, step: str) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"[: _STEPS[step]]


def floor(moment: datetime) -> datetime:
    """The hour's beginning, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class MomentText(Func):
    """The month, day or hour in UTC in which a moment lies, as text: SQLite keeps them as such."""

    output_field = CharField()

    def __init__(self, column: str, *, step: str) -> None:
        super().__init__(column, step=step, length=_STEPS[step])

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="substr(%(expressions)s, 1, %(length)s)", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "date_trunc('%(step)s', %(expressions)s, 'UTC')"
        return self.as_sql(compiler, connection, template=template, **context)

    def convert_value(self, value: Any, _expression: Any, _connection: Any) -> str:
        """PostgreSQL's moments become text here: there it would cost more than the sums do."""
        return value if isinstance(value, str) else moment_text(value, step=self.extra["step"])


def latest_folded() -> datetime | None:
    """The moment up to which DAY rows are complete.

    Not the last day that was folded, but two days before it: the hours of those may have grown since.
    """
    days = SpendRollup.objects.filter(period=SpendRollup.Period.DAY).order_by("-starts_at")
    latest = days.values_list("starts_at", flat=True).first()
    return None if latest is None else latest - timedelta(days=2)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _ceiling_day(moment: datetime) -> datetime:
    day = floor(moment).replace(hour=0)
    return day if day == moment else day + timedelta(days=1)
