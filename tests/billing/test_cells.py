"""Cells of CSV files."""

import csv
import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.cells import csv_texts, moment_text, neutral_text, plain_text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("gpu-a", "gpu-a"),
        ("", ""),
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-5", "'-5"),
        ("'=1", "''=1"),
    ],
)
def test_text_that_could_be_a_formula_gets_a_quote(text, cell):
    assert neutral_text(text) == cell


@given(st.text())
def test_every_text_comes_back(text):
    assert plain_text(neutral_text(text)) == text


def test_moments_are_in_utc():
    noon_in_berlin = datetime(2026, 11, 3, 12, tzinfo=timezone(timedelta(hours=1)))

    assert moment_text(noon_in_berlin) == "2026-11-03T11:00:00Z"
    assert moment_text(datetime(2026, 11, 3, 0, 0, 0, 5, tzinfo=UTC)) == "2026-11-03T00:00:00.000005Z"


@given(st.lists(st.lists(st.text(alphabet=st.characters(exclude_characters="\x00\r")), min_size=2)))
def test_csv_texts_are_read_back(lines):
    text = "".join(csv_texts(lines))

    assert list(csv.reader(io.StringIO(text, newline=""))) == lines
