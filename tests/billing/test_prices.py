"""Prices: what is written once, what is in force when, what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db import connections, transaction

from billing import prices
from billing.models import Price
from billing.price_conditions import PriceCondition
from billing.revision import get_revision
from routing.types import Rate
from tests.changes import replace

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
# A midnight after both.
DAY = datetime(2026, 11, 22, tzinfo=UTC)


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
        ({"audio_input_microusd_per_mtok": -1}, "not between 0 and"),
        ({"image_input_microusd_per_mtok": -1}, "not between 0 and"),
        ({"service_tier": "default"}, "'gpt-4o-mini': the service tier 'default' is the standard one"),
        ({"daily_from_minute": 5, "daily_to_minute": 5}, "no part of the day"),
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


def flat(per_input, per_output=600_000):
    return Rate.flat(input_microusd_per_mtok=per_input, output_microusd_per_mtok=per_output, source="manual")


def test_rate_has_its_context_tiers_and_service_tiers():
    put()
    put(context_tokens_min=200_001, input_microusd_per_mtok=300_000)
    put(context_tokens_min=128_001, input_microusd_per_mtok=200_000)
    put(service_tier="flex", input_microusd_per_mtok=75_000)
    put(service_tier="flex", context_tokens_min=200_001, input_microusd_per_mtok=150_001)
    put(service_tier="batch", input_microusd_per_mtok=70_000)

    assert rate_of() == replace(
        flat(150_000),
        tiers=((128_001, flat(200_000)), (200_001, flat(300_000))),
        service_tiers=(
            ("batch", flat(70_000)),
            ("flex", replace(flat(75_000), tiers=((200_001, flat(150_001)),))),
        ),
    )


def test_media_have_rates_of_their_own():
    put(
        audio_input_microusd_per_mtok=1,
        audio_output_microusd_per_mtok=2,
        image_input_microusd_per_mtok=3,
    )

    rate = rate_of()

    assert rate == replace(
        flat(150_000),
        audio_input_microusd_per_mtok=1,
        audio_output_microusd_per_mtok=2,
        image_input_microusd_per_mtok=3,
    )


def test_each_tier_has_its_own_history():
    put()
    put(service_tier="flex", input_microusd_per_mtok=75_000)
    put(input_microusd_per_mtok=160_000, effective_at=LATER)

    assert rate_of(now=LATER) == replace(flat(160_000), service_tiers=(("flex", flat(75_000)),))


def test_price_for_a_part_of_the_day_goes_before_the_one_for_all_day():
    put()
    put(input_microusd_per_mtok=50_000, daily_from_minute=990, daily_to_minute=30)
    # A later price for all day is still only for the rest of the day.
    put(input_microusd_per_mtok=160_000, effective_at=LATER)

    found = {
        minute: rate_of(now=DAY + timedelta(minutes=minute)).input_microusd_per_mtok
        for minute in (0, 29, 30, 989, 990, 1439)
    }

    assert found == {0: 50_000, 29: 50_000, 30: 160_000, 989: 160_000, 990: 50_000, 1439: 50_000}


def test_part_of_the_day_may_begin_at_midnight_and_at_the_moment_of_the_base_price():
    put()
    put(input_microusd_per_mtok=50_000, daily_from_minute=0, daily_to_minute=480)

    assert rate_of(now=DAY).input_microusd_per_mtok == 50_000
    assert rate_of(now=DAY + timedelta(minutes=480)).input_microusd_per_mtok == 150_000


def test_next_change_is_the_next_time_of_day_or_the_next_price():
    put()
    put(input_microusd_per_mtok=1, daily_from_minute=990, daily_to_minute=30)
    put(model="other", effective_at=DAY + timedelta(minutes=995))

    moments = [0, 29, 30, 990, 995]
    changes = [prices.load_rates(now=DAY + timedelta(minutes=at)).next_change_at for at in moments]

    assert changes == [DAY + timedelta(minutes=at) for at in (30, 30, 990, 995, 1440 + 30)]


def test_ended_tier_costs_as_the_rest_and_may_return():
    put()
    put(service_tier="flex", input_microusd_per_mtok=75_000)
    put(service_tier="flex", context_tokens_min=1000, input_microusd_per_mtok=76_000)
    put(input_microusd_per_mtok=1, daily_from_minute=0, daily_to_minute=1439)
    flex = Price.objects.get(service_tier="flex", context_tokens_min=0)
    night = Price.objects.get(daily_from_minute=1440)

    ended = [prices.end_price(price_id=record.id, now=LATER) for record in (flex, night, flex)]
    rate = rate_of(now=LATER)
    put(service_tier="flex", input_microusd_per_mtok=75_000, effective_at=LATER + timedelta(days=1))

    assert ended == [True, True, False]
    assert rate == flat(150_000)
    assert rate_of(now=LATER + timedelta(days=1)).service_tiers == (
        ("flex", replace(flat(75_000), tiers=((1000, flat(76_000)),))),
    )


def test_base_price_cannot_end():
    put()

    with pytest.raises(prices.PriceRecordError, match="add a new price to follow it"):
        prices.end_price(price_id=Price.objects.get().id, now=LATER)
    with pytest.raises(prices.PriceRecordError, match="this price is gone"):
        prices.end_price(price_id=UUID(int=1), now=LATER)

    assert Price.objects.count() == 1


@pytest.mark.parametrize(
    "condition",
    [
        {"service_tier": "flex"},
        {"context_tokens_min": 1000},
        {"daily_from_minute": 60, "daily_to_minute": 120},
    ],
)
def test_tier_needs_the_base_price_of_its_model_before_it(condition):
    put(model="other")
    put(cluster_name="azure")
    put(effective_at=LATER)

    with pytest.raises(prices.PriceRecordError, match=r"'gpt-4o-mini' \(.*\) needs a base price before it"):
        put(**condition)

    assert Price.objects.count() == 3


def test_tier_of_a_service_tier_needs_that_service_tiers_price():
    put()

    with pytest.raises(prices.PriceRecordError, match="of that service tier too"):
        put(service_tier="flex", context_tokens_min=1000)


def test_base_price_that_tiers_stand_on_is_not_withdrawn():
    put(effective_at=LATER)
    put(service_tier="flex", effective_at=LATER)
    base, tier = Price.objects.order_by("service_tier")

    with pytest.raises(prices.PriceRecordError, match="tiers stand on this price"):
        prices.withdraw_price(price_id=base.id, now=NOW)
    for record in (tier, base):
        prices.withdraw_price(price_id=record.id, now=NOW)

    assert Price.objects.count() == 0


def test_many_prices_are_written_at_once_in_whatever_order(django_assert_max_num_queries):
    base = prices.PriceEntry(
        model="m0", effective_at=NOW, input_microusd_per_mtok=1, output_microusd_per_mtok=2
    )
    entries = [
        replace(base, model=f"m{number}", condition=condition)
        for condition in (PriceCondition(service_tier="flex"), PriceCondition())
        for number in range(30)
    ]

    with django_assert_max_num_queries(13):
        written = [prices.put_prices(entries), prices.put_prices(entries)]

    assert written == [60, 0]
    assert get_revision() == 1
    # A row of the standard tier's price says nothing new, but is there: it would end with it.
    assert set(prices.list_entries()) == set(entries)


def test_one_bad_price_among_many_writes_none():
    base = prices.PriceEntry(
        model="m", effective_at=NOW, input_microusd_per_mtok=1, output_microusd_per_mtok=2
    )

    with pytest.raises(prices.PriceRecordError, match="needs a base price"):
        prices.put_prices([base, replace(base, model="n", condition=PriceCondition(service_tier="flex"))])

    assert (Price.objects.count(), get_revision()) == (0, 0)


@pytest.mark.parametrize("price_count", [1, 3])
def test_load_rates_asks_two_queries(price_count, django_assert_num_queries):
    for number in range(price_count):
        put(model=f"model-{number}")
        put(model=f"model-{number}", service_tier="flex", input_microusd_per_mtok=1)
        put(model=f"model-{number}", daily_to_minute=60, input_microusd_per_mtok=1)

    with django_assert_num_queries(2):
        table = prices.load_rates(now=NOW)

    assert len(table.rates) == price_count


@pytest.mark.django_db(transaction=True)
def test_two_writers_of_one_moment_are_told_apart():
    """Each reads what is there before it writes: the second one has to see the first one's price."""
    is_written = threading.Event()

    def first():
        with transaction.atomic():
            put(input_microusd_per_mtok=1)
            is_written.set()
            # Long enough for the other one to read, if it may.
            threading.Event().wait(0.3)

    def second():
        is_written.wait(10)
        with pytest.raises(prices.PriceRecordError, match="exists already and differs"):
            put(input_microusd_per_mtok=2)

    def closing(work):
        try:
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(closing, (first, second)))

    assert Price.objects.get().input_microusd_per_mtok == 1
