"""Draws charts as plain numbers for SVG templates: geometry and labels, no markup, no style, no script."""

from collections.abc import Sequence
from dataclasses import dataclass

from billing.amounts import rounded_usd_text, usd_text

WIDTH = 960
HEIGHT = 280
LEFT_MIN = 76
CHARACTER_WIDTH = 9  # of a label, generously
RIGHT = 12
TOP = 12
BOTTOM = 28
GRID_LINES_MAX = 4
LABELS_MAX = 12
SERIES_CLASSES = 9
BAR_SHARE = 0.72  # of the room that each moment has
ROW_HEIGHT = 30
SPARK_WIDTH = 120
SPARK_HEIGHT = 32
SPARK_MARGIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    css: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A label at a place on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedBars:
    width: int
    height: int
    left: int
    right: int
    baseline: int
    title: str
    bars: tuple[Bar, ...]
    grid: tuple[Tick, ...]
    labels: tuple[Tick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarListRow:
    name: str
    amount: str
    percent: str
    bar: Bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparkline:
    width: int
    height: int
    points: str
    title: str


def stacked_bars(
    *, labels: Sequence[str], names: Sequence[str], values_nanousd: Sequence[Sequence[int]], title: str
) -> StackedBars:
    """A bar for each label, stacked from `values_nanousd[series][label]`, first series at the bottom."""
    assert len(names) == len(values_nanousd)
    totals = [sum(series[index] for series in values_nanousd) for index in range(len(labels))]
    step = _grid_step(max(totals, default=0))
    line_count = max(1, -(-max(totals, default=0) // step))
    baseline = HEIGHT - BOTTOM
    scale = (baseline - TOP) / (step * line_count)
    amounts = [rounded_usd_text(step * number) for number in range(line_count + 1)]
    # Room for the longest amount: tiny sums have many digits.
    left = max(LEFT_MIN, 16 + CHARACTER_WIDTH * max(map(len, amounts)))
    room = (WIDTH - left - RIGHT) / max(1, len(labels))
    bars = []
    for index, label in enumerate(labels):
        floor = 0
        for number, (name, series) in enumerate(zip(names, values_nanousd, strict=True)):
            if series[index] > 0:
                bars.append(
                    Bar(
                        x=_pixel(left + room * (index + (1 - BAR_SHARE) / 2)),
                        y=_pixel(baseline - (floor + series[index]) * scale),
                        width=_pixel(room * BAR_SHARE),
                        height=_pixel(series[index] * scale),
                        css=_series_css(number),
                        title=f"{label} · {name}: {usd_text(series[index])}",
                    )
                )
                floor += series[index]
    return StackedBars(
        width=WIDTH,
        height=HEIGHT,
        left=left,
        right=WIDTH - RIGHT,
        baseline=baseline,
        title=title,
        bars=tuple(bars),
        grid=tuple(
            Tick(at=_pixel(baseline - step * number * scale), text=amount)
            for number, amount in enumerate(amounts)
        ),
        labels=_label_ticks(labels=labels, left=left, room=room),
    )


def bar_list(*, names: Sequence[str], values_nanousd: Sequence[int]) -> tuple[BarListRow, ...]:
    """A horizontal bar for each name, on a scale of 100 for the largest; percent is of the sum."""
    largest, total = max(values_nanousd, default=0), sum(values_nanousd)
    return tuple(
        BarListRow(
            name=name,
            amount=rounded_usd_text(value),
            percent=percent_text(part=value, whole=total),
            bar=Bar(
                x=0,
                y=0,
                width=share(part=value, whole=largest),
                height=ROW_HEIGHT,
                css=_series_css(number),
                title=f"{name}: {usd_text(value)}",
            ),
        )
        for number, (name, value) in enumerate(zip(names, values_nanousd, strict=True))
    )


def sparkline(values: Sequence[int]) -> Sparkline | None:
    """A line through the values from left to right; None where there is nothing to connect."""
    if len(values) < 2:
        return None
    largest = max(1, *values)
    run = (SPARK_WIDTH - 2 * SPARK_MARGIN) / (len(values) - 1)
    rise = (SPARK_HEIGHT - 2 * SPARK_MARGIN) / largest
    points = (
        f"{_pixel(SPARK_MARGIN + run * index)},{_pixel(SPARK_HEIGHT - SPARK_MARGIN - value * rise)}"
        for index, value in enumerate(values)
    )
    return Sparkline(
        width=SPARK_WIDTH,
        height=SPARK_HEIGHT,
        points=" ".join(points),
        title=f"from {usd_text(values[0])} to {usd_text(values[-1])}, at most {usd_text(max(values))}",
    )


def share(*, part: int, whole: int) -> float:
    """Percent for a bar's width."""
    return _pixel(100 * part / whole) if whole > 0 else 0.0


def percent_text(*, part: int, whole: int) -> str:
    """For people: 12.3%; a share too small to show is not shown as none."""
    if whole <= 0 or part <= 0:
        return "0%"
    permille = (1000 * part + whole // 2) // whole
    return f"{permille // 10}.{permille % 10}%" if permille else "<0.1%"


def _grid_step(largest: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 ... that covers the largest value with few lines."""
    unit = 1
    while True:
        for factor in (1, 2, 5):
            if factor * unit * GRID_LINES_MAX >= largest:
                return factor * unit
        unit *= 10


def _label_ticks(*, labels: Sequence[str], left: int, room: float) -> tuple[Tick, ...]:
    every = max(1, -(-len(labels) // LABELS_MAX))
    return tuple(
        Tick(at=_pixel(left + room * (index + 0.5)), text=label)
        for index, label in enumerate(labels)
        if index % every == 0
    )


def _series_css(number: int) -> str:
    return f"chart-bar series-{number % SERIES_CLASSES + 1}"


def _pixel(value: float) -> float:
    return round(value, 2)
