"""The book of prices: which price of several holds at a time of the day."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.price_book import PriceBook, PriceEntry, flat_rate_of, rate_in
from billing.price_conditions import PriceCondition
from routing.types import Rate
from tests.changes import replace

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
BASE = PriceEntry(model="m", effective_at=NOW, input_microusd_per_mtok=1, output_microusd_per_mtok=2)
LIGHT = settings(max_examples=60, deadline=None, database=None)

conditions = st.builds(
    PriceCondition,
    service_tier=st.sampled_from(["", "batch", "flex"]),
    context_tokens_min=st.sampled_from([0, 100, 200]),
    daily_from_minute=st.sampled_from([0, 60, 990, 1440]),
    daily_to_minute=st.sampled_from([30, 480, 1440]),
)


def window(start, end, **changes):
    condition = PriceCondition(daily_from_minute=start, daily_to_minute=end)
    return replace(BASE, condition=condition, **changes)


def input_rate(*entries, minute):
    rate = rate_in(rates=PriceBook.latest_of(entries).rates_at(minute=minute), model="m", cluster_name="")
    return None if rate is None else rate.input_microusd_per_mtok


def test_latest_of_several_that_follow_each_other_counts():
    later = replace(BASE, effective_at=LATER, input_microusd_per_mtok=5)

    assert input_rate(BASE, later, minute=0) == input_rate(later, BASE, minute=0) == 5


def test_of_windows_that_overlap_the_later_put_counts():
    first, second = window(60, 180, input_microusd_per_mtok=6), window(120, 240, input_microusd_per_mtok=7)
    put_later = replace(first, effective_at=LATER)

    assert [input_rate(BASE, first, second, minute=minute) for minute in (60, 130, 200, 240)] == [6, 7, 7, 1]
    assert input_rate(BASE, put_later, second, minute=130) == 6


def test_price_that_holds_only_at_times_is_none_at_others():
    assert (input_rate(window(60, 120), minute=60), input_rate(window(60, 120), minute=0)) == (1, None)


def test_service_tier_without_a_price_of_its_own_is_left_out():
    tier = replace(BASE, condition=PriceCondition(service_tier="flex", context_tokens_min=100))

    rates = PriceBook.latest_of([BASE, tier]).rates_at(minute=0)

    assert rates == {
        ("m", ""): Rate.flat(input_microusd_per_mtok=1, output_microusd_per_mtok=2, source="manual")
    }


def test_boundaries_are_the_ends_of_the_windows_that_hold():
    book = PriceBook.latest_of([BASE, window(60, 120), window(1440, 30), window(990, 990)])

    assert book.boundaries == {60, 120, 1440, 30}


def test_source_of_the_rate_names_the_version():
    assert flat_rate_of(replace(BASE, source="genai-prices", source_version="2")).source == "genai-prices 2"


@LIGHT
@given(st.lists(st.tuples(conditions, st.integers(0, 3)), max_size=8), st.integers(0, 1439))
def test_rates_change_only_at_boundaries(chosen, minute):
    entries = [
        replace(
            BASE,
            condition=condition,
            effective_at=NOW + timedelta(days=days),
            input_microusd_per_mtok=number,
        )
        for number, (condition, days) in enumerate(chosen)
    ]
    book = PriceBook.latest_of([BASE, *entries])

    starts = [0, *(boundary % 1440 for boundary in book.boundaries)]
    segment = max(start for start in starts if start <= minute)

    assert book.rates_at(minute=minute) == book.rates_at(minute=segment)
    for rate in book.rates_at(minute=minute).values():
        assert list(rate.tiers) == sorted(rate.tiers, key=lambda tier: tier[0])
        assert all(not tier.tiers and not tier.service_tiers for _, tier in rate.tiers)
