"""The one rounding of money: up, to whole nano-USD, without floats."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.money import nanousd_from_picousd
from tests.routing.values import LIGHT


@pytest.mark.parametrize(
    ("picousd", "nanousd"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (10**30 + 1, 10**27 + 1)]
)
def test_nanousd_from_picousd_rounds_up(picousd, nanousd):
    assert nanousd_from_picousd(picousd) == nanousd


@LIGHT
@given(st.integers(min_value=0, max_value=2**80))
def test_nanousd_from_picousd_is_the_least_integer_above(picousd):
    rounded = nanousd_from_picousd(picousd)

    assert type(rounded) is int
    assert rounded - 1 < Fraction(picousd, 1000) <= rounded


def test_nanousd_from_picousd_refuses_a_negative_amount():
    with pytest.raises(AssertionError):
        nanousd_from_picousd(-1)
