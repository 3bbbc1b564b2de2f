"""The admin's page of prices: tiers and times of the day, how the list shows them, how they end."""

from datetime import UTC, datetime

import pytest

from billing.models import Price
from billing.price_conditions import PriceCondition
from billing.prices import entry_of, put_price

pytestmark = pytest.mark.django_db(databases="__all__")

ADD = "/admin/billing/price/add/"
LIST = "/admin/billing/price/"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def text_of(answer) -> str:
    return answer.content.decode()


def form(**changes):
    values = {
        "model": "gpt",
        "cluster_name": "",
        "source": "manual",
        "effective_at_0": "2026-01-01",
        "effective_at_1": "00:00:00",
        "input_microusd_per_mtok": "0.15",
        "output_microusd_per_mtok": "0.6",
    }
    return {**values, **changes}


def put(**given):
    rates = {"input_microusd_per_mtok": 150_000, "output_microusd_per_mtok": 600_000}
    put_price(**{"model": "gpt", "effective_at": LONG_AGO, **rates, **given})


def test_form_left_alone_is_a_price_for_all_requests(admin_client):
    page = text_of(admin_client.get(ADD))

    answer = admin_client.post(ADD, form())

    assert answer.status_code == 302
    assert entry_of(Price.objects.get()).condition == PriceCondition()
    for text in ('value="00:00"', 'value="24:00"', "Only for some requests", "Audio in the prompt"):
        assert text in page


def test_tier_with_a_time_of_day_and_media_is_entered(admin_client):
    put()
    put(service_tier="flex")
    values = {
        "service_tier": "flex",
        "context_tokens_min": "200001",
        "daily_from_minute": "16:30",
        "daily_to_minute": "00:30",
        "audio_input_microusd_per_mtok": "0.5",
        "audio_output_microusd_per_mtok": "0.75",
        "image_input_microusd_per_mtok": "0",
    }

    answer = admin_client.post(ADD, form(**values))

    price = Price.objects.get(context_tokens_min=200_001)
    assert answer.status_code == 302
    assert entry_of(price).condition == PriceCondition(
        service_tier="flex", context_tokens_min=200_001, daily_from_minute=990, daily_to_minute=30
    )
    assert (
        price.audio_input_microusd_per_mtok,
        price.audio_output_microusd_per_mtok,
        price.image_input_microusd_per_mtok,
    ) == (500_000, 750_000, 0)


def test_window_from_midnight_is_entered(admin_client):
    put()

    answer = admin_client.post(ADD, form(daily_to_minute="08:00"))

    assert answer.status_code == 302
    assert Price.objects.filter(daily_from_minute=1440, daily_to_minute=480).count() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"daily_from_minute": "4pm"}, "4pm is no time of the day"),
        ({"daily_from_minute": "08:00", "daily_to_minute": "08:00"}, "is no part of the day"),
        ({"service_tier": "default"}, "is the standard one"),
        ({"context_tokens_min": "-1"}, "greater than or equal to 0"),
        ({"audio_input_microusd_per_mtok": "much"}, "much is not an amount"),
    ],
)
def test_form_refuses(admin_client, changes, message):
    answer = admin_client.post(ADD, form(**changes))

    assert answer.status_code == 200
    assert message in text_of(answer)
    assert Price.objects.count() == 0


def test_tier_without_a_base_price_is_refused_with_what_to_do(admin_client):
    answer = admin_client.post(ADD, form(service_tier="flex"), follow=True)

    assert "needs a base price before it" in text_of(answer)
    assert Price.objects.count() == 0


def test_list_shows_when_each_price_holds_and_where_it_came_from(admin_client):
    put(source="genai-prices", source_version="0.2.3")
    put(service_tier="flex", context_tokens_min=0)
    put(daily_from_minute=990, daily_to_minute=30)

    page = text_of(admin_client.get(LIST))

    for text in ("all requests", ">flex<", "16:30-00:30 UTC", "genai-prices 0.2.3"):
        assert text in page
    # Prices under different conditions do not replace each other.
    assert (page.count('badge-ok">in force<'), page.count("replaced")) == (3, 0)


def test_tier_is_ended_and_a_base_price_is_not(admin_client):
    put()
    put(service_tier="flex")
    chosen = {"action": "end_prices", "_selected_action": [str(price.id) for price in Price.objects.all()]}

    page = text_of(admin_client.post(LIST, chosen, follow=True))
    again = text_of(admin_client.post(LIST, chosen, follow=True))

    assert "1 ended." in page
    assert "1 ended." not in again
    assert "cannot end: add a new price to follow it" in page
    for text in ("flex, ended", 'badge-muted">ended<', 'badge-muted">replaced<', 'badge-ok">in force<'):
        assert text in page
    assert Price.objects.count() == 3


@pytest.mark.parametrize("row_count", [1, 3])
def test_list_asks_as_many_queries_for_3_rows_as_for_1(admin_client, row_count, django_assert_num_queries):
    for number in range(row_count):
        put(model=f"m{number}")

    with django_assert_num_queries(4):
        admin_client.get(LIST)
