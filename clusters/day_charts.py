"""The last day of a cluster's probes as small charts: plain numbers for SVG, from one query."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Avg, Count, F, Func, IntegerField, Max, Q

from clusters.models import HealthCheck

BUCKETS = 96
BUCKET_S = 900
WIDTH = 480
HEIGHT = 72
STRIP_HEIGHT = 20
MARGIN = 4
SLOT = WIDTH / BUCKETS
# What is seen from afar is the share: one failed look of ninety is amber, none that succeeded is red.
STANDING = {"up": "healthy", "partly": "partly unhealthy", "down": "unhealthy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A piece of the strip: at `x`, and what it says."""

    x: float
    width: float
    css: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    width: int
    height: int
    slots: tuple[Slot, ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Pieces of a line: where nothing is known there is none. What stands alone is a dot, (x, y)."""

    name: str
    width: int
    height: int
    baseline: int
    pieces: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCharts:
    strip: Strip
    lines: tuple[Line, ...]
    since: str
    noon: str  # the middle of what is shown


class _BucketNumber(Func):
    """Which quarter of an hour since 1970 a moment lies in."""

    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"CAST(strftime('%%%%s', %(expressions)s) AS INTEGER) / {BUCKET_S}"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"CAST(FLOOR(EXTRACT(EPOCH FROM %(expressions)s) / {BUCKET_S}) AS bigint)"
        return self.as_sql(compiler, connection, template=template, **context)


def load_day_charts(*, cluster_id: UUID, now: datetime) -> DayCharts:
    """The 24 hours up to `now` in quarters of an hour; one query over the cluster's checks of them."""
    latest = int(now.timestamp()) // BUCKET_S
    since = now - timedelta(seconds=int(now.timestamp()) % BUCKET_S + (BUCKETS - 1) * BUCKET_S)
    rows = (
        HealthCheck.objects.filter(cluster_id=cluster_id, checked_at__gte=since.replace(microsecond=0))
        .annotate(bucket=_BucketNumber(F("checked_at")))
        .values("bucket")
        .annotate(
            check_count=Count("id"),
            healthy_count=Count("id", filter=Q(is_healthy=True)),
            queue_depth=Max("queue_depth"),
            running_count=Avg("running_count"),
            tokens_per_s=Avg("tokens_per_s"),
            ttft_ms=Avg("ttft_ms"),
        )
    )
    by_number: dict[int, Any] = {row["bucket"]: row for row in rows}
    buckets = [by_number.get(latest - BUCKETS + 1 + index) for index in range(BUCKETS)]
    moments = [since + timedelta(seconds=index * BUCKET_S) for index in range(BUCKETS)]
    return DayCharts(
        strip=_strip(buckets, moments=moments),
        lines=(
            _line("Queue depth (largest)", _column(buckets, "queue_depth")),
            _line("Running (mean)", _column(buckets, "running_count")),
            _line("Tokens/s while busy (mean)", _column(buckets, "tokens_per_s")),
            _line("Time to first token (mean)", _column(buckets, "ttft_ms"), unit=" ms"),
        ),
        since=f"{moments[0]:%a %H:%M}",
        noon=f"{moments[BUCKETS // 2]:%a %H:%M}",
    )


def _column(buckets: Sequence[dict[str, Any] | None], name: str) -> list[float | None]:
    return [None if row is None or row[name] is None else float(row[name]) for row in buckets]


def _strip(buckets: Sequence[dict[str, Any] | None], *, moments: Sequence[datetime]) -> Strip:
    slots, checks, healthy = [], 0, 0
    for index, (row, at) in enumerate(zip(buckets, moments, strict=True)):
        if row is None:
            continue
        checks += row["check_count"]
        healthy += row["healthy_count"]
        standing = _standing(row)
        title = f"{at:%H:%M} UTC: {STANDING[standing]}, {row['healthy_count']} of {row['check_count']} probes"
        slots.append(Slot(x=_pixel(index * SLOT), width=SLOT, css=f"strip-{standing}", title=title))
    summary = f"{_percent(healthy, checks)} of {checks} probes were healthy" if checks else "not probed"
    if checks and len(slots) < BUCKETS:
        summary += f", unknown for {_hours(BUCKETS - len(slots))}"
    return Strip(width=WIDTH, height=STRIP_HEIGHT, slots=tuple(slots), summary=summary)


def _standing(row: dict[str, Any]) -> str:
    if row["healthy_count"] == row["check_count"]:
        return "up"
    return "partly" if row["healthy_count"] else "down"


def _line(name: str, values: Sequence[float | None], *, unit: str = "") -> Line:
    known = [value for value in values if value is not None]
    scale = (HEIGHT - 2 * MARGIN) / max([1.0, *known])
    pieces: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((_pixel((index + 0.5) * SLOT), _pixel(HEIGHT - MARGIN - value * scale)))
    return Line(
        name=name,
        width=WIDTH,
        height=HEIGHT,
        baseline=HEIGHT - MARGIN,
        pieces=tuple(" ".join(f"{x},{y}" for x, y in piece) for piece in pieces if len(piece) > 1),
        dots=tuple(piece[0] for piece in pieces if len(piece) == 1),
        summary=_summary(known, values[-1], unit=unit),
    )


def _summary(known: Sequence[float], latest: float | None, *, unit: str) -> str:
    """What the line says in words: the latest, the largest, and for how long nothing was known."""
    if not known:
        return "not known"
    words = [
        "now unknown" if latest is None else f"now {_number(latest)}{unit}",
        f"at most {_number(max(known))}{unit}",
    ]
    if len(known) < BUCKETS:
        words.append(f"unknown for {_hours(BUCKETS - len(known))}")
    return ", ".join(words)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _percent(part: int, whole: int) -> str:
    """Never 100 % where one failed."""
    return f"{1000 * part // whole / 10:g} %"


def _hours(bucket_count: int) -> str:
    minutes = bucket_count * BUCKET_S // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _pixel(value: float) -> float:
    return round(value, 2)
