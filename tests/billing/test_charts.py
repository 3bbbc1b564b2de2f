"""Geometry of charts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import charts

CENT = 10_000_000


def chart(values, *, labels=None):
    labels = labels or [f"day {index}" for index in range(len(values[0]))]
    names = [f"series {index}" for index in range(len(values))]
    return charts.stacked_bars(labels=labels, names=names, values_nanousd=values, title="Spend")


def test_stacked_bars_stand_on_each_other():
    drawn = chart([[100 * CENT, 0], [100 * CENT, 400 * CENT]])

    assert [(bar.x, bar.y, bar.width, bar.height, bar.css, bar.title) for bar in drawn.bars] == [
        (137.04, 192.0, 313.92, 60.0, "chart-bar series-1", "day 0 · series 0: $1.00"),
        (137.04, 132.0, 313.92, 60.0, "chart-bar series-2", "day 0 · series 1: $1.00"),
        (573.04, 12.0, 313.92, 240.0, "chart-bar series-2", "day 1 · series 1: $4.00"),
    ]
    assert drawn.grid == tuple(
        charts.Tick(at=252.0 - 60 * dollars, text=f"${dollars}.00") for dollars in range(5)
    )
    assert drawn.labels == (charts.Tick(at=294.0, text="day 0"), charts.Tick(at=730.0, text="day 1"))


@given(st.lists(st.lists(st.integers(0, 10**15), min_size=5, max_size=5), min_size=1, max_size=9))
def test_stacked_bars_stay_inside_and_keep_proportion(values):
    drawn = chart(values)

    assert all(bar.y >= charts.TOP - 0.1 for bar in drawn.bars)
    assert all(bar.y + bar.height <= drawn.baseline + 0.1 for bar in drawn.bars)
    assert all(drawn.left <= bar.x and bar.x + bar.width <= drawn.right for bar in drawn.bars)
    assert 2 <= len(drawn.grid) <= charts.GRID_LINES_MAX + 1
    assert len(drawn.bars) == sum(value > 0 for series in values for value in series)


def test_stacked_bars_label_few_of_many_moments():
    drawn = chart([[1] * 90])

    assert [label.text for label in drawn.labels] == [f"day {index}" for index in range(0, 90, 8)]


def test_stacked_bars_without_values_draw_the_axis_only():
    drawn = charts.stacked_bars(labels=[], names=[], values_nanousd=[], title="Spend")

    assert (drawn.bars, drawn.labels, len(drawn.grid)) == ((), (), 2)


def test_bar_list_scales_to_the_largest_and_shares_the_sum():
    rows = charts.bar_list(names=["a", "b"], values_nanousd=[300 * CENT, 100 * CENT])

    assert [(row.name, row.amount, row.percent, row.bar.width, row.bar.css) for row in rows] == [
        ("a", "$3.00", "75.0%", 100.0, "chart-bar series-1"),
        ("b", "$1.00", "25.0%", 33.33, "chart-bar series-2"),
    ]


def test_sparkline_runs_from_edge_to_edge():
    line = charts.sparkline([0, 2, 1])

    assert line == charts.Sparkline(
        width=120,
        height=32,
        points="2.0,30.0 60.0,2.0 118.0,16.0",
        title="from $0.00 to $0.000000001, at most $0.000000002",
    )
    assert (charts.sparkline([5]), charts.sparkline([])) == (None, None)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0%"), (0, 9, "0%"), (1, 3, "33.3%"), (9, 9, "100.0%"), (1, 1_000_000, "<0.1%"), (2, 3, "66.7%")],
)
def test_percent_text(part, whole, text):
    assert charts.percent_text(part=part, whole=whole) == text


def test_stacked_bars_leave_room_for_long_amounts():
    tiny = charts.stacked_bars(labels=["a"], names=["x"], values_nanousd=[[5]], title="t")
    usual = charts.stacked_bars(labels=["a"], names=["x"], values_nanousd=[[5 * 10**9]], title="t")

    longest = max(len(tick.text) for tick in tiny.grid)
    assert (tiny.left, usual.left) == (16 + 9 * longest, 76)
