"""The price library: real list prices from the installed data."""

from datetime import UTC, datetime
from importlib.metadata import version

import pytest

from billing.price_library import LibraryPrice, PriceLibraryError, find_price, list_prices

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def price(provider, model, rates, *, note=""):
    names = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning")
    columns = {f"{name}_microusd_per_mtok": rate for name, rate in zip(names, rates, strict=True)}
    source = f"genai-prices {version('genai-prices')}"
    return LibraryPrice(provider=provider, model=model, source=source, note=note, **columns)


@pytest.mark.parametrize(
    "expected",
    [
        price("openai", "gpt-4o-mini", (150_000, 600_000, 75_000, None, None, None)),
        price("openai", "gpt-3.5-turbo", (500_000, 1_500_000, None, None, None, None)),
        price("claude", "claude-3-haiku-20240307", (250_000, 1_250_000, 30_000, 300_000, 500_000, None)),
        price(
            "gemini",
            "gemini-1.5-flash",
            (75_000, 300_000, 18_750, None, None, None),
            note="base tier: prompts beyond 128,000 tokens cost more at the provider",
        ),
        price("openai", "text-embedding-3-small", (20_000, 0, None, None, None, None)),
    ],
    ids=lambda expected: expected.model,
)
def test_find_price_of_a_known_model(expected):
    assert find_price(provider=expected.provider, model=expected.model, now=NOW) == expected


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "no-such-model"), ("nobody", "gpt-4o"), ("openai", "")]
)
def test_find_price_of_an_unknown_model_is_none(provider, model):
    assert find_price(provider=provider, model=model, now=NOW) is None


def test_list_prices_has_every_exact_name_once():
    prices = list_prices(provider="openai", now=NOW)

    names = [price.model for price in prices]
    assert {"gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-3.5-turbo"} <= set(names)
    assert len(names) == len(set(names))


def test_list_prices_names_the_providers_it_knows():
    with pytest.raises(PriceLibraryError, match="no provider 'nobody'; it knows anthropic,"):
        list_prices(provider="nobody", now=NOW)
