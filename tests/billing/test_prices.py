"""Prices: what is written once, what is in force when, what is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import prices
from billing.models import Price
from billing.revision import get_revision
from routing.types import Rate

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def put(**given):
    values = {
        "model": "gpt-4o-mini",
        "input_microusd_per_mtok": 150_000,
        "output_microusd_per_mtok": 600_000,
        "effective_at": NOW,
    }
    return prices.put_price(**{**values, **given})


def rate_of(*, model="gpt-4o-mini", cluster_name="openai", now=NOW):
    return prices.load_rates(now=now).rate_of(model=model, cluster_name=cluster_name)


def test_empty_rates_cost_as_input_and_output_do():
    put()

    assert rate_of() == Rate.flat(
        input_microusd_per_mtok=150_000, output_microusd_per_mtok=600_000, source="manual"
    )


def test_zero_is_a_rate_of_its_own():
    put(cache_read_microusd_per_mtok=0, cache_write_1h_microusd_per_mtok=7, reasoning_microusd_per_mtok=9)

    assert rate_of() == Rate(
        input_microusd_per_mtok=150_000,
        output_microusd_per_mtok=600_000,
        cache_read_microusd_per_mtok=0,
        cache_write_5m_microusd_per_mtok=150_000,
        cache_write_1h_microusd_per_mtok=7,
        reasoning_microusd_per_mtok=9,
        audio_input_microusd_per_mtok=150_000,
        audio_output_microusd_per_mtok=600_000,
        image_input_microusd_per_mtok=150_000,
        source="manual",
    )


def test_price_of_the_cluster_goes_before_the_price_anywhere():
    put()
    put(cluster_name="azure", input_microusd_per_mtok=1)

    found = {name: rate_of(cluster_name=name).input_microusd_per_mtok for name in ("azure", "openai", "")}

    assert found == {"azure": 1, "openai": 150_000, "": 150_000}
    assert rate_of(model="unknown") is None


def test_price_is_in_force_from_its_moment_until_the_next():
    put(effective_at=NOW)
    put(effective_at=NOW + timedelta(days=1), input_microusd_per_mtok=2)

    def in_force(now):
        rate = rate_of(now=now)
        return None if rate is None else rate.input_microusd_per_mtok

    tick = timedelta(microseconds=1)
    assert [in_force(NOW - tick), in_force(NOW), in_force(NOW + timedelta(days=1) - tick)] == [
        None,
        150_000,
        150_000,
    ]
    assert in_force(NOW + timedelta(days=1)) == 2


def test_rate_table_knows_the_next_change():
    put(effective_at=NOW)
    put(model="other", effective_at=NOW + timedelta(days=3))
    put(effective_at=NOW + timedelta(days=2), input_microusd_per_mtok=2)

    changes = [prices.load_rates(now=NOW + timedelta(days=days)).next_change_at for days in (-1, 0, 2, 3)]

    assert changes == [NOW, NOW + timedelta(days=2), NOW + timedelta(days=3), None]


def test_putting_the_price_in_force_again_writes_nothing():
    written = [put(), put(), put(effective_at=NOW + timedelta(days=1), source="genai-prices 9")]

    assert written == [True, False, False]
    assert (Price.objects.count(), get_revision()) == (1, 1)


def test_a_price_may_return():
    written = [
        put(),
        put(effective_at=NOW + timedelta(days=1), input_microusd_per_mtok=2),
        put(effective_at=NOW + timedelta(days=2)),
    ]

    assert written == [True, True, True]
    assert rate_of(now=NOW + timedelta(days=2)).input_microusd_per_mtok == 150_000


def test_put_price_refuses_what_cannot_be():
    put()
    for change, message in [
        ({"input_microusd_per_mtok": 1}, "exists already and differs"),
        ({"model": ""}, "needs the name of a model"),
        ({"effective_at": datetime(2026, 1, 1)}, "needs a time zone"),  # noqa: DTZ001
        ({"output_microusd_per_mtok": -1}, "not between 0 and"),
        ({"cache_read_microusd_per_mtok": 10**13}, "not between 0 and"),
    ]:
        with pytest.raises(prices.PriceRecordError, match=message):
            put(**change)

    assert Price.objects.count() == 1


def test_withdraw_price_takes_back_only_what_is_not_effective_yet():
    put()
    put(effective_at=NOW + timedelta(days=1), input_microusd_per_mtok=2)
    effective, scheduled = Price.objects.order_by("effective_at")

    prices.withdraw_price(price_id=scheduled.id, now=NOW)
    with pytest.raises(prices.PriceRecordError, match="it stays"):
        prices.withdraw_price(price_id=effective.id, now=NOW)

    assert list(Price.objects.all()) == [effective]
    assert get_revision() == 3


@pytest.mark.parametrize("price_count", [1, 3])
def test_load_rates_asks_two_queries(price_count, django_assert_num_queries):
    for number in range(price_count):
        put(model=f"model-{number}")

    with django_assert_num_queries(2):
        table = prices.load_rates(now=NOW)

    assert len(table.rates) == price_count
