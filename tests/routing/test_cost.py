"""The cost function, the hold above it and the seed's formula, against exact fractions."""

from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost import (
    TOKENS_PER_S_ASSUMED,
    charge_of,
    cost_nanousd,
    hold_nanousd,
    measured_tokens_per_s,
    nameplate_tokens_per_s,
    rate_applied,
    seed_rate_microusd_per_mtok,
)
from routing.types import Rate, Usage
from tests.changes import replace
from tests.routing.values import LIGHT, all_rates, deployment, price_lists, usages

# Nine different prices: a token in the wrong bucket shows.
RATE = Rate(
    input_microusd_per_mtok=1_000,
    output_microusd_per_mtok=20_000,
    cache_read_microusd_per_mtok=300_000,
    cache_write_5m_microusd_per_mtok=4_000_000,
    cache_write_1h_microusd_per_mtok=50_000_000,
    reasoning_microusd_per_mtok=600_000_000,
    audio_input_microusd_per_mtok=7_000_000_000,
    audio_output_microusd_per_mtok=80_000_000_000,
    image_input_microusd_per_mtok=900_000_000_000,
    source="test",
)


@pytest.mark.parametrize(
    ("bucket", "nanousd"),
    [
        ("input_fresh_tokens", 1),
        ("output_text_tokens", 20),
        ("audio_tokens", 80_000_000),
        ("input_audio_tokens", 7_000_000),
        ("input_image_tokens", 900_000_000),
        ("cache_read_tokens", 300),
        ("cache_write_5m_tokens", 4_000),
        ("cache_write_1h_tokens", 50_000),
        ("reasoning_tokens", 600_000),
    ],
)
def test_cost_prices_each_bucket_at_its_own_rate(bucket, nanousd):
    counts: dict[str, Any] = {bucket: 1}

    assert cost_nanousd(usage=Usage(**counts), rate=RATE) == nanousd


def test_cost_is_rounded_once_over_all_buckets():
    rate = Rate.flat(input_microusd_per_mtok=1, output_microusd_per_mtok=1, source="test")

    assert cost_nanousd(usage=Usage(input_fresh_tokens=1, output_text_tokens=1), rate=rate) == 1


def test_cost_by_hand_of_a_real_price():
    # gpt-4o-mini: USD 0.15 and 0.60 per million tokens; 1000 in, 500 out = USD 0.00045.
    rate = Rate.flat(input_microusd_per_mtok=150_000, output_microusd_per_mtok=600_000, source="test")

    assert cost_nanousd(usage=Usage(input_fresh_tokens=1000, output_text_tokens=500), rate=rate) == 450_000


@LIGHT
@given(usages, all_rates)
def test_cost_is_exact_and_rounded_up_once(usage, rate):
    exact = Fraction(
        usage.input_fresh_tokens * rate.input_microusd_per_mtok
        + usage.cache_read_tokens * rate.cache_read_microusd_per_mtok
        + usage.cache_write_5m_tokens * rate.cache_write_5m_microusd_per_mtok
        + usage.cache_write_1h_tokens * rate.cache_write_1h_microusd_per_mtok
        + usage.output_text_tokens * rate.output_microusd_per_mtok
        + usage.audio_tokens * rate.audio_output_microusd_per_mtok
        + usage.input_audio_tokens * rate.audio_input_microusd_per_mtok
        + usage.input_image_tokens * rate.image_input_microusd_per_mtok
        + usage.reasoning_tokens * rate.reasoning_microusd_per_mtok,
        1000,
    )

    cost = cost_nanousd(usage=usage, rate=rate)

    assert type(cost) is int
    assert cost - 1 < exact <= cost


@LIGHT
@given(usages, all_rates, st.integers(0, 10**6), st.integers(0, 10**6))
def test_hold_is_above_the_cost_of_any_usage_within_its_bounds(usage, rate, spare_input, spare_output):
    held = hold_nanousd(
        input_tokens_max=usage.input_tokens + spare_input,
        output_tokens_max=usage.output_tokens + spare_output,
        rate=rate,
    )

    assert type(held) is int
    assert held >= cost_nanousd(usage=usage, rate=rate)


@pytest.mark.parametrize("name", [f.name for f in fields(Rate) if f.name.endswith("_mtok")])
def test_hold_covers_the_dearest_bucket_whichever_it_is(name):
    rates = {field.name: 1 for field in fields(Rate) if field.name.endswith("_mtok")}
    rate = Rate(**{**rates, name: 1_000_000}, source="test")

    held = hold_nanousd(input_tokens_max=10, output_tokens_max=10, rate=rate)

    assert held == 10_001  # 10 tokens at 1,000 nano-USD and 10 at a thousandth, rounded up


def priced(per_token_nanousd, **changed):
    """A rate of so many nano-USD for any token."""
    microusd = per_token_nanousd * 1000
    flat = Rate.flat(input_microusd_per_mtok=microusd, output_microusd_per_mtok=microusd, source="test")
    return replace(flat, **changed)


# 1 nano-USD a token, 2 from 100 prompt tokens, 3 from 200; flex 4 and from 100 tokens 5, priority 9.
PRICE_LIST = priced(
    1,
    tiers=((100, priced(2)), (200, priced(3))),
    service_tiers=(("flex", priced(4, tiers=((100, priced(5)),))), ("priority", priced(9))),
)


@pytest.mark.parametrize(
    ("input_tokens", "service_tier", "per_token"),
    [
        (99, "", 1),
        (100, "", 2),
        (199, "", 2),
        (200, "", 3),
        (99, "flex", 4),
        (100, "flex", 5),
        (500, "flex", 5),
        (500, "priority", 9),
        (99, "scale", 1),
        (200, "scale", 3),
    ],
)
def test_tier_prices_the_whole_request(input_tokens, service_tier, per_token):
    usage = Usage(cache_read_tokens=input_tokens - 1, input_image_tokens=1, output_text_tokens=7)

    cost = cost_nanousd(usage=usage, rate=PRICE_LIST, service_tier=service_tier)

    assert cost == (input_tokens + 7) * per_token
    assert rate_applied(rate=PRICE_LIST, input_tokens=input_tokens, service_tier=service_tier) == priced(
        per_token
    )


@pytest.mark.parametrize(
    ("input_tokens_max", "service_tier", "per_token"),
    [
        (99, "", 1),
        (100, "", 2),
        (1000, "", 3),
        (99, "flex", 4),
        (1000, "flex", 5),
        (99, "batch", 1),
        (99, None, 9),
    ],
)
def test_hold_is_at_the_dearest_tier_that_may_apply(input_tokens_max, service_tier, per_token):
    held = hold_nanousd(
        input_tokens_max=input_tokens_max, output_tokens_max=5, rate=PRICE_LIST, service_tier=service_tier
    )

    assert held == (input_tokens_max + 5) * per_token


def test_hold_is_at_the_standard_tier_where_the_one_asked_for_is_cheaper():
    rate = priced(4, service_tiers=(("flex", priced(2)),))

    assert hold_nanousd(input_tokens_max=10, output_tokens_max=5, rate=rate, service_tier="flex") == 60


@LIGHT
@given(usages, price_lists, st.integers(0, 10**6), st.data())
def test_hold_is_above_the_cost_at_whatever_tier_served(usage, rate, spare, data):
    names = ["", *(name for name, _ in rate.service_tiers)]
    asked = data.draw(st.sampled_from([None, *names]))
    # Who asks for a tier may be served at the standard one; who asks for none, at any.
    said = data.draw(st.sampled_from(names if asked is None else sorted({"", asked})))

    held = hold_nanousd(
        input_tokens_max=usage.input_tokens + spare,
        output_tokens_max=usage.output_tokens,
        rate=rate,
        service_tier=asked,
    )

    assert 0 <= cost_nanousd(usage=usage, rate=rate, service_tier=said) <= held
    charge = charge_of(
        usage=usage, rate=rate, asked=asked or "", said=data.draw(st.sampled_from([None, said]))
    )
    assert 0 <= charge.cost_nanousd <= held


@LIGHT
@given(usages, price_lists, st.sampled_from(["", "batch", "flex", "priority"]))
def test_charge_at_exact_usage_is_the_estimate_at_that_usage(usage, rate, service_tier):
    charge = charge_of(usage=usage, rate=rate, said=service_tier)

    assert charge.cost_nanousd == cost_nanousd(usage=usage, rate=rate, service_tier=service_tier)
    assert charge.cost_nanousd == cost_nanousd(usage=usage, rate=charge.rate)
    assert (charge.service_tier, charge.rate.tiers, charge.rate.service_tiers) == (service_tier, (), ())


@pytest.mark.parametrize(
    ("asked", "said", "charged", "cost"),
    [
        ("", None, "", 10),
        ("flex", "flex", "flex", 5),
        ("flex", "", "", 10),
        ("", "flex", "flex", 5),
        # Nothing said: a discount is not taken on the caller's word, a surcharge is.
        ("flex", None, "", 10),
        ("priority", None, "priority", 20),
        ("scale", None, "scale", 10),
        ("", "scale", "scale", 10),
    ],
)
def test_charge_is_at_the_service_tier_that_the_upstream_says(asked, said, charged, cost):
    rate = priced(2, service_tiers=(("flex", priced(1)), ("priority", priced(4))))

    charge = charge_of(usage=Usage(input_fresh_tokens=5), rate=rate, asked=asked, said=said)

    assert (charge.service_tier, charge.cost_nanousd) == (charged, cost)


def test_seed_rate_by_hand():
    # 0.0928 / (900 * 3600) * 1.1 = 3.15061...e-8 USD a token = 31506.1728... pico-USD.
    exact = Fraction(928, 10_000) / (900 * 3600) * Fraction(11, 10) * 10**12

    rate = seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=92_800_000, tokens_per_s=900, overhead_permille=1100
    )

    assert rate == 31_507
    assert rate - 1 < exact < rate


@LIGHT
@given(
    st.integers(min_value=0, max_value=10**13),
    st.integers(min_value=1, max_value=10**6),
    st.integers(min_value=1000, max_value=5000),
)
def test_seed_rate_is_exact_and_rounded_up(cost_per_hour, speed, overhead):
    exact = Fraction(cost_per_hour * 1000 * overhead, speed * 3600 * 1000)

    rate = seed_rate_microusd_per_mtok(
        cost_per_hour_nanousd=cost_per_hour, tokens_per_s=speed, overhead_permille=overhead
    )

    assert type(rate) is int
    assert rate - 1 < exact <= rate


@pytest.mark.parametrize(
    ("rated", "measured", "nameplate", "actual"),
    [
        (900, 300, 900, 300),
        (900, None, 900, 900),
        (None, 300, 300, 300),
        (None, None, TOKENS_PER_S_ASSUMED, TOKENS_PER_S_ASSUMED),
        (900, 0, 900, 900),
        (0, 0, TOKENS_PER_S_ASSUMED, TOKENS_PER_S_ASSUMED),
    ],
)
def test_speeds_take_the_other_where_one_is_unknown(rated, measured, nameplate, actual):
    given_speed = deployment(rated_tokens_per_s=rated, measured_tokens_per_s=measured)

    assert nameplate_tokens_per_s(given_speed) == nameplate
    assert measured_tokens_per_s(given_speed) == actual
