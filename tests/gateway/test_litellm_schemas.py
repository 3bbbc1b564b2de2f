"""LiteLLM's words into ours."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gateway.litellm_schemas import (
    UnsupportedFieldError,
    expiry_of_duration,
    limit_nanousd,
    usd,
    window_of_duration,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        (None, "total"),
        ("1d", "day"),
        ("24h", "day"),
        ("1440m", "day"),
        ("86400s", "day"),
        ("7d", "week"),
        ("1w", "week"),
        ("30d", "month"),
        ("1mo", "month"),
    ],
)
def test_duration_of_a_budget_is_a_calendar_window(text, window):
    assert window_of_duration(text) == window


@pytest.mark.parametrize("text", ["5s", "2d", "28d", "31d", "2w", "12h"])
def test_duration_without_a_calendar_window_is_refused(text):
    with pytest.raises(UnsupportedFieldError) as refusal:
        window_of_duration(text)

    assert str(refusal.value) == (
        f"budget_duration '{text}' is no calendar window: use 1d, 7d or 30d (or 1mo), or leave it out for a "
        f"budget that is never reset"
    )


@pytest.mark.parametrize(
    "text", ["", "d", "30", "0d", "-3d", "30days", "1.5h", "9999999d", "٣d", "3mo", "1mo "]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UnsupportedFieldError, match="write it as 30m, 24h, 30d or 1mo"):
        window_of_duration(text)


@pytest.mark.parametrize(
    ("text", "expiry"),
    [
        (None, None),
        ("-1", None),
        ("30s", datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("36h", datetime(2026, 2, 2, 0, tzinfo=UTC)),
        ("2w", datetime(2026, 2, 14, 12, tzinfo=UTC)),
        ("1mo", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        ("11mo", datetime(2026, 12, 31, 12, tzinfo=UTC)),
        ("12mo", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("25mo", datetime(2028, 2, 29, 12, tzinfo=UTC)),
    ],
)
def test_duration_of_a_key_ends_at(text, expiry):
    assert expiry_of_duration(text, now=NOW) == expiry


@pytest.mark.parametrize("text", ["0s", "forever", "999999w", "999999mo"])
def test_life_that_cannot_be_is_refused(text):
    with pytest.raises(UnsupportedFieldError, match="is no duration"):
        expiry_of_duration(text, now=NOW)


@pytest.mark.parametrize(
    ("amount", "nanousd"),
    [("0", 0), ("0.0000000005", 1), ("0.000000001", 1), ("0.0000000011", 2), ("10", 10**10)],
)
def test_limit_is_rounded_up_to_a_nanousd(amount, nanousd):
    assert limit_nanousd(Decimal(amount), param="max_budget") == nanousd


@pytest.mark.parametrize("amount", ["-0.01", "1e30", "NaN", "Infinity"])
def test_limit_that_cannot_be_counted_is_refused(amount):
    with pytest.raises(UnsupportedFieldError, match="max_budget is not between 0 and"):
        limit_nanousd(Decimal(amount), param="max_budget")


def test_usd_are_numbers():
    assert usd(1_500_000_000) == 1.5
