"""Amounts of money as people read and write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import amounts
from routing.money import NANOUSD_MAX


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (12_000, "$0.000012"),
        (1_500_000_000, "$1.50"),
        (1_234_500_000_000, "$1,234.50"),
        (-1_000_000_001, "-$1.000000001"),
    ],
)
def test_usd_text_is_exact(nanousd, text):
    assert amounts.usd_text(nanousd) == text


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (12_345, "$0.000012"),
        (4_567_891, "$0.0046"),
        (99_400_000, "$0.099"),
        (123_456_789, "$0.12"),
        (1_999_999_999, "$2.00"),
        (-123_456_789, "-$0.12"),
    ],
)
def test_rounded_usd_text_keeps_two_digits_that_count(nanousd, text):
    assert amounts.rounded_usd_text(nanousd) == text


@given(st.integers(0, NANOUSD_MAX))
def test_amounts_survive_being_written_and_read(nanousd):
    assert amounts.nanousd_from_usd(amounts.plain_usd_text(nanousd)) == nanousd


@given(st.integers(0, amounts.RATE_MICROUSD_PER_MTOK_MAX))
def test_rates_survive_being_written_and_read(microusd_per_mtok):
    assert amounts.rate_from_usd(amounts.plain_rate_text(microusd_per_mtok)) == microusd_per_mtok


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten", "not an amount"),
        ("1,5", "not an amount"),
        ("", "not an amount"),
        ("nan", "not between"),
        ("inf", "not between"),
        ("-1", "not between"),
        ("1e30", "not between"),
        ("1e999999999", "not an amount"),
        ("0.0000000001", "more than 9 decimals"),
        ("1." + "0" * 60 + "1", "not an amount"),
    ],
)
def test_nanousd_from_usd_refuses(text, message):
    with pytest.raises(amounts.AmountError, match=message):
        amounts.nanousd_from_usd(text)


def test_rate_from_usd_refuses_what_is_finer_than_its_unit():
    with pytest.raises(amounts.AmountError, match="more than 6 decimals"):
        amounts.rate_from_usd("0.0000001")


def test_rate_rounded_up_never_loses_money():
    assert [amounts.rate_rounded_up(Decimal(text)) for text in ("0.15", "0.0000001", "0")] == [150_000, 1, 0]


def test_rate_text_is_exact():
    assert [amounts.rate_text(rate) for rate in (150_000, 18_750, 30_000_000)] == [
        "$0.15",
        "$0.01875",
        "$30.00",
    ]
