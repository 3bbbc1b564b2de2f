"""Importing list prices: what is written, what stays because it was entered by hand, what ends."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import prices
from billing.models import Price
from billing.price_book import PriceEntry
from billing.price_conditions import PriceCondition
from billing.price_import import PriceImport, find_prices, import_prices
from billing.price_library import LibraryPrice, PriceLibraryError
from tests.changes import replace

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
FLEX = PriceCondition(service_tier="flex")


def entry(model="m", per_input=10, **changes):
    values = {"source": "genai-prices", "source_version": "1", "effective_at": NOW, **changes}
    return PriceEntry(model=model, input_microusd_per_mtok=per_input, output_microusd_per_mtok=20, **values)


def found(*entries, note=""):
    return LibraryPrice(provider="p", model=entries[0].model, entries=entries, note=note)


def run(*prices_found, now=NOW, cluster_name="", is_manual_replaced=False):
    return import_prices(
        found=[
            replace(each, entries=tuple(replace(entry, effective_at=now) for entry in each.entries))
            for each in prices_found
        ],
        cluster_name=cluster_name,
        now=now,
        is_manual_replaced=is_manual_replaced,
    )


def done(written, unchanged, **others):
    return PriceImport(
        written_count=written, unchanged_count=unchanged, **{"skipped": (), "notes": (), **others}
    )


def rate_of(model="m", *, now=LATER):
    return prices.load_rates(now=now).rate_of(model=model, cluster_name="")


def test_import_keeps_source_and_version_and_twice_changes_nothing():
    library = found(entry(), entry(condition=FLEX, per_input=5), note="n")

    results = [run(library), run(library, now=LATER)]

    assert results == [done(2, 0, notes=(("m", "n"),)), done(0, 2, notes=(("m", "n"),))]
    assert set(prices.list_entries()) == set(library.entries)


def test_newer_version_of_the_library_replaces_its_prices():
    run(found(entry()))

    result = run(found(entry(per_input=11, source_version="2")), now=LATER)

    assert result == done(1, 0)
    assert rate_of().source == "genai-prices 2"


def test_model_entered_by_hand_keeps_all_its_prices_unless_they_shall_be_replaced():
    prices.put_prices([entry(per_input=7, source="manual", source_version="")])
    library = found(entry(), entry(condition=FLEX, per_input=5))

    skipped = run(library, found(entry("other")), now=LATER)
    kept = rate_of().input_microusd_per_mtok
    replaced = run(library, now=LATER, is_manual_replaced=True)

    assert skipped == done(1, 0, skipped=("m",))
    assert kept == 7
    assert replaced == done(2, 0)
    assert rate_of().input_microusd_per_mtok == 10


def test_tier_entered_by_hand_keeps_its_model_too_and_ends_when_it_is_replaced():
    run(found(entry()))
    prices.put_prices([entry(condition=FLEX, source="manual", source_version="", per_input=1)])

    skipped = run(found(entry(per_input=11)), now=LATER)
    replaced = run(found(entry(per_input=11)), now=LATER, is_manual_replaced=True)

    assert (skipped, replaced) == (done(0, 0, skipped=("m",)), done(2, 0))
    assert (rate_of().input_microusd_per_mtok, rate_of().service_tiers) == (11, ())


def test_price_by_hand_on_one_cluster_does_not_keep_the_price_anywhere():
    prices.put_prices([entry(cluster_name="azure", source="manual")])

    results = [run(found(entry(per_input=11))), run(found(entry(per_input=11)), cluster_name="azure")]

    assert results == [done(1, 0), done(0, 0, skipped=("m",))]


def test_tier_that_the_library_dropped_ends():
    run(found(entry(), entry(condition=FLEX, per_input=5)))
    prices.put_prices([entry("mine", source="file"), entry("mine", source="file", condition=FLEX)])

    results = [run(found(entry()), found(entry("mine")), now=LATER) for _ in range(2)]

    assert results == [done(1, 2), done(0, 2)]
    assert (rate_of().service_tiers, len(rate_of("mine").service_tiers)) == ((), 1)
    assert Price.objects.count() == 5


def test_one_bad_price_writes_none():
    with pytest.raises(prices.PriceRecordError, match="needs a base price"):
        run(found(entry("a")), found(entry(condition=FLEX)))

    assert Price.objects.count() == 0


def test_provider_named_first_sets_the_price_of_a_model_that_two_sell():
    both = find_prices(providers=["azure", "openai"], models=["gpt-4o-mini"], now=NOW)
    first = find_prices(providers=["openai"], models=None, now=NOW)

    assert [price.provider for price in both] == ["azure"]
    assert len(first) > 100
    assert find_prices(providers=["openai"], models=["nope"], now=NOW) == ()


def test_unknown_provider_is_refused():
    with pytest.raises(PriceLibraryError, match="no provider 'nobody'"):
        find_prices(providers=["nobody"], models=None, now=NOW)


def test_whole_library_of_the_default_providers_is_taken():
    library = find_prices(providers=["openai", "claude", "gemini"], models=None, now=NOW)

    first, second = (
        import_prices(found=library, cluster_name="", now=NOW, is_manual_replaced=False) for _ in range(2)
    )

    assert first.written_count == Price.objects.count() > 800
    assert (first.unchanged_count, second.written_count, second.unchanged_count) == (
        0,
        0,
        first.written_count,
    )
