"""The price library: real list prices from the installed data, and every kind of price that it has."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from billing.price_book import PriceEntry
from billing.price_conditions import PriceCondition
from billing.price_library import (
    PriceLibraryError,
    _library_price,
    find_context_window,
    find_price,
    list_prices,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
NAMES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning")


def entry(model, *rates, condition=None, effective_at=NOW, **others):
    columns = {f"{name}_microusd_per_mtok": rate for name, rate in zip(NAMES, rates, strict=False)}
    return PriceEntry(
        model=model,
        condition=condition or PriceCondition(),
        effective_at=effective_at,
        **{**columns, **others},
        source="genai-prices",
        source_version=version("genai-prices"),
    )


def prices_of(prices, *, variants=None):
    """What our prices make of a model of the library."""
    found = ModelInfo(id="m", match=ClauseEquals("m"), prices=prices, price_variants=variants)
    return _library_price(provider="p", model="m", found=found, now=NOW)


def usd(**rates):
    return ModelPrice(**{f"{name}_mtok": Decimal(rate) for name, rate in rates.items()})


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("openai", entry("gpt-4o-mini", 150_000, 600_000, 75_000)),
        ("openai", entry("gpt-3.5-turbo", 500_000, 1_500_000)),
        ("claude", entry("claude-3-haiku-20240307", 250_000, 1_250_000, 30_000, 300_000, 500_000)),
        ("gemini", entry("gemini-1.5-flash", 75_000, 300_000, 18_750)),
        ("openai", entry("text-embedding-3-small", 20_000, 0)),
    ],
    ids=lambda each: getattr(each, "model", None),
)
def test_find_price_of_a_known_model(provider, expected):
    found = find_price(provider=provider, model=expected.model, now=NOW)

    assert found is not None
    assert found.base == expected


def test_find_price_has_context_tiers_and_service_tiers():
    found = find_price(provider="openai", model="gpt-5.4", now=NOW)

    assert found is not None
    by_condition = {str(each.condition): each.rates[:3] for each in found.entries}
    assert by_condition == {
        "": (2_500_000, 15_000_000, 250_000),
        "from 272,001 tokens": (5_000_000, 22_500_000, 500_000),
        "flex": (1_250_000, 7_500_000, 130_000),
        "flex, from 272,001 tokens": (2_500_000, 11_250_000, 250_000),
        "priority": (5_000_000, 30_000_000, 500_000),
        "fast": (5_000_000, 30_000_000, 500_000),
        "batch": (1_250_000, 7_500_000, 130_000),
        "batch, from 272,001 tokens": (2_500_000, 11_250_000, 250_000),
    }
    assert found.note == "charged besides, not counted here: storage_searches_kcount, web_searches_kcount"


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "no-such-model"), ("nobody", "gpt-4o"), ("openai", "")]
)
def test_find_price_of_an_unknown_model_is_none(provider, model):
    assert find_price(provider=provider, model=model, now=NOW) is None
    assert find_context_window(provider=provider, model=model) is None


def test_every_rate_of_the_library_has_its_place():
    prices = usd(
        input="1",
        output="2",
        cache_read="3",
        cache_write="4",
        cache_write_1h="5",
        output_reasoning="6",
        input_audio="7",
        output_audio="8",
        input_image="9",
        output_image="10",
    )

    found = prices_of(prices)

    media = {
        "audio_input_microusd_per_mtok": 7_000_000,
        "audio_output_microusd_per_mtok": 8_000_000,
        "image_input_microusd_per_mtok": 9_000_000,
    }
    rates = (1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000)
    assert found is not None
    assert found.entries == (entry("m", *rates, **media),)
    assert found.note == "charged besides, not counted here: output_image_mtok"


def test_write_into_the_cache_for_an_hour_costs_as_for_five_minutes_where_only_that_is_known():
    found = prices_of(usd(input="1", output="2", cache_write="4"))

    assert found is not None
    assert found.entries == (entry("m", 1_000_000, 2_000_000, None, 4_000_000, 4_000_000),)


def test_library_rate_finer_than_ours_is_rounded_up():
    found = prices_of(usd(input="0.0000001", output="0"))

    assert found is not None
    assert found.entries == (entry("m", 1, 0),)


def test_context_tiers_begin_one_token_later_than_in_the_library():
    tiers = [Tier(start=200, price=Decimal(3)), Tier(start=100, price=Decimal(2))]
    prices = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=tiers),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(start=200, price=Decimal(20))]),
        cache_read_mtok=Decimal("0.5"),
    )

    found = prices_of(prices)

    assert found is not None
    assert found.entries == (
        entry("m", 1_000_000, 10_000_000, 500_000),
        entry("m", 2_000_000, 10_000_000, 500_000, condition=PriceCondition(context_tokens_min=101)),
        entry("m", 3_000_000, 20_000_000, 500_000, condition=PriceCondition(context_tokens_min=201)),
    )


def test_windows_of_the_day_are_in_utc_and_the_last_price_for_all_day_is_the_base():
    prices = [
        ConditionalPrice(prices=usd(input="1", output="1")),
        ConditionalPrice(StartDateConstraint(date(2026, 1, 1)), prices=usd(input="2", output="2")),
        ConditionalPrice(
            TimeOfDateConstraint(time(16, 30, tzinfo=UTC), time(0, 30, tzinfo=UTC)),
            prices=usd(input="3", output="3"),
        ),
    ]

    found = prices_of(prices)

    night = PriceCondition(daily_from_minute=990, daily_to_minute=30)
    assert found is not None
    assert found.entries == (
        entry("m", 2_000_000, 2_000_000),
        entry("m", 3_000_000, 3_000_000, condition=night),
    )


def test_prices_announced_for_a_later_day_begin_then_and_what_is_gone_then_ends():
    prices = [
        ConditionalPrice(prices=usd(input="1", output="1")),
        ConditionalPrice(
            TimeOfDateConstraint(time(1, tzinfo=UTC), time(2, tzinfo=UTC)),
            prices=usd(input="3", output="3"),
        ),
        ConditionalPrice(StartDateConstraint(NEW_YEAR.date()), prices=usd(input="2", output="1")),
    ]
    flex = PriceVariant(
        {"service_tier": "flex"}, usd(input="0.5"), constraint=StartDateConstraint(NEW_YEAR.date())
    )

    found = prices_of(prices, variants=[flex])

    assert found is not None
    assert found.entries == (
        entry("m", 1_000_000, 1_000_000),
        entry(
            "m",
            3_000_000,
            3_000_000,
            condition=PriceCondition(daily_from_minute=60, daily_to_minute=120),
        ),
        entry("m", 2_000_000, 1_000_000, effective_at=NEW_YEAR),
        entry("m", 500_000, 1_000_000, effective_at=NEW_YEAR, condition=PriceCondition(service_tier="flex")),
        entry(
            "m",
            3_000_000,
            3_000_000,
            effective_at=NEW_YEAR,
            condition=PriceCondition(daily_from_minute=60, daily_to_minute=60),
        ),
    )


def test_variants_that_are_no_service_tier_are_named_and_left_out():
    variants = [
        PriceVariant({"service_tier": "default"}, ModelPrice()),
        PriceVariant({"processing": "batch"}, usd(output="1")),
        PriceVariant({"speed": "fast"}, usd(output="9")),
    ]

    found = prices_of(usd(input="1", output="2"), variants=variants)

    assert found is not None
    assert found.entries == (
        entry("m", 1_000_000, 2_000_000),
        entry("m", 1_000_000, 1_000_000, condition=PriceCondition(service_tier="batch")),
    )
    assert found.note == "sold at other prices too, not counted here: speed=fast"


def test_model_that_is_not_sold_by_the_token_has_no_price():
    assert prices_of(ModelPrice(audio_hours=Decimal(1))) is None


def test_list_prices_has_every_exact_name_once():
    prices = list_prices(provider="openai", now=NOW)

    names = [price.model for price in prices]
    assert {"gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-3.5-turbo"} <= set(names)
    assert len(names) == len(set(names))
    assert all(price.base.condition.is_base and price.base.model == price.model for price in prices)


def test_list_prices_names_the_providers_it_knows():
    with pytest.raises(PriceLibraryError, match="no provider 'nobody'; it knows anthropic,"):
        list_prices(provider="nobody", now=NOW)
