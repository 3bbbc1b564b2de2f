"""Paid capacity: parts that add up exactly, whatever they are parts of."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from routing.capacity import (
    minutes_nanousd,
    nanousd_per_mtok,
    seed_nanousd_per_1k,
    shares,
    split_cost,
)
from routing.cost import seed_rate_microusd_per_mtok

AMOUNTS = st.integers(0, 10**15)
WEIGHTS = st.lists(st.integers(0, 10**12), min_size=1, max_size=20)


@given(total=AMOUNTS, weights=WEIGHTS)
def test_shares_add_up_and_are_less_than_one_from_exact(total, weights):
    parts = shares(total=total, weights=weights)

    whole = sum(weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    if whole > 0:
        exact = [total * weight for weight in weights]
        assert all(abs(part * whole - one) < whole for part, one in zip(parts, exact, strict=True))
        assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0)


def test_shares_give_what_is_left_to_the_largest_remainders():
    assert shares(total=10, weights=[1, 1, 1]) == [4, 3, 3]
    assert shares(total=10, weights=[5, 2, 2]) == [6, 2, 2]
    assert shares(total=1, weights=[1, 2]) == [0, 1]
    assert shares(total=5, weights=[0, 0]) == [3, 2]
    assert shares(total=7, weights=[3]) == [7]


@given(cost=AMOUNTS, tokens=st.lists(st.integers(0, 10**9), max_size=20), capacity=st.integers(0, 10**10))
def test_split_cost_is_the_cost_and_idle_what_the_formula_says(cost, tokens, capacity):
    parts, idle = split_cost(cost_nanousd=cost, tokens=tokens, capacity_tokens=capacity)

    used = sum(tokens)
    assert sum(parts) + idle == cost
    if used == 0:
        assert idle == cost
    elif used >= capacity:
        assert idle == 0
    else:
        # Used is cost x used / capacity, but for the one rounding of each part.
        assert abs((cost - idle) * capacity - cost * used) < capacity


@given(cost=AMOUNTS, edges=st.lists(st.integers(0, 60)))
def test_minutes_of_an_hour_cost_the_hour(cost, edges):
    minutes = [
        minutes_nanousd(cost_per_hour_nanousd=cost, from_minute=minute, to_minute=minute + 1)
        for minute in range(60)
    ]

    assert sum(minutes) == cost
    assert max(minutes) - min(minutes) <= 1
    for first, after in pairwise(sorted(edges)):
        some = minutes_nanousd(cost_per_hour_nanousd=cost, from_minute=first, to_minute=after)
        assert some == sum(minutes[first:after])


@given(cost=AMOUNTS, speed=st.integers(1, 10**6), overhead=st.integers(1, 5000))
def test_seed_formula_of_an_hour_is_the_one_of_the_rate(cost, speed, overhead):
    of_hour = seed_nanousd_per_1k(cost_nanousd=cost, capacity_tokens=speed * 3600, overhead_permille=overhead)

    rate = seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=cost, tokens_per_s=speed, overhead_permille=overhead
    )
    # Pico-USD per token are nano-USD per 1,000 tokens.
    assert of_hour == rate


def test_nanousd_per_mtok_rounds_up():
    assert nanousd_per_mtok(cost_nanousd=10, tokens=3) == 3_333_334
