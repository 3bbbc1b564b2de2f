"""Rerating: what a period would have cost, row by row, with nothing written and nothing kept in memory."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from billing import settled_rows
from billing.models import PrunedPeriod, UsageRecord
from billing.price_book import PriceBook, PriceEntry
from billing.price_conditions import PriceCondition
from billing.rerating import RerateRow, rerate
from tests.billing.rows import KEY_ID, make_usage
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")

FROM = datetime(2026, 11, 20, tzinfo=UTC)
TO = datetime(2026, 11, 22, tzinfo=UTC)
# 1 nano-USD a token of the prompt, 2 of the answer.
PRICE = PriceEntry(
    model="llama-3-8b", effective_at=FROM, input_microusd_per_mtok=1000, output_microusd_per_mtok=2000
)


def usage(**given):
    """Ten tokens of the prompt and one of the answer."""
    values = {"input_fresh_tokens": 10, "cache_read_tokens": 0, "output_text_tokens": 1, "cost_nanousd": 5}
    return make_usage(**{**values, **given})


def run(*entries, group="model", from_at=FROM, to_at=TO):
    return rerate(book=PriceBook.latest_of(entries), from_at=from_at, to_at=to_at, group=group)


def priced(**changes):
    return replace(PRICE, **changes)


def row(name, *, row_id=None, requests=1, was, would_be, **others):
    return RerateRow(
        id=name if row_id is None else row_id,
        name=name,
        requests=requests,
        was_nanousd=was,
        would_be_nanousd=would_be,
        **others,
    )


def test_rerate_charges_each_bucket_at_the_other_price():
    usage(
        input_fresh_tokens=1,
        cache_read_tokens=10,
        cache_write_5m_tokens=100,
        cache_write_1h_tokens=1_000,
        input_audio_tokens=10_000,
        input_image_tokens=100_000,
        output_text_tokens=1,
        reasoning_tokens=10,
        audio_tokens=100,
    )
    price = priced(
        cache_read_microusd_per_mtok=2000,
        cache_write_5m_microusd_per_mtok=3000,
        cache_write_1h_microusd_per_mtok=4000,
        audio_input_microusd_per_mtok=5000,
        image_input_microusd_per_mtok=6000,
        reasoning_microusd_per_mtok=7000,
        audio_output_microusd_per_mtok=8000,
    )

    found = run(price)

    assert found.totals.would_be_nanousd == 1 + 20 + 300 + 4_000 + 50_000 + 600_000 + 2 + 70 + 800


def test_rerate_at_the_prices_of_the_time_differs_by_nothing():
    usage(cost_nanousd=12)
    usage(cost_nanousd=9, variance_nanousd=3)

    found = run(PRICE)

    assert found.totals == row("Total", row_id="", requests=2, was=24, would_be=24, surplus_nanousd=3)
    assert found.totals.difference_nanousd == 0


def test_rerate_goes_by_the_tier_that_served_and_by_the_prompts_size():
    usage(service_tier="flex", started_at=FROM)
    usage(input_fresh_tokens=5, cache_read_tokens=95, started_at=FROM)
    tier = priced(condition=PriceCondition(context_tokens_min=100), input_microusd_per_mtok=10_000)
    flex = priced(condition=PriceCondition(service_tier="flex"), input_microusd_per_mtok=500)

    found = run(PRICE, tier, flex)

    assert found.totals.would_be_nanousd == (5 + 2) + (1000 + 2)


def test_rerate_goes_by_the_time_of_the_day_at_which_the_attempt_began():
    night = priced(
        condition=PriceCondition(daily_from_minute=1320, daily_to_minute=360), input_microusd_per_mtok=0
    )
    for hour in (5, 6, 21, 22):
        usage(started_at=FROM + timedelta(hours=hour), settled_at=FROM + timedelta(hours=hour, minutes=59))

    found = run(PRICE, night)

    assert found.totals.would_be_nanousd == 2 * 2 + 2 * 12


def test_rerate_takes_the_price_of_the_cluster_first_and_the_model_that_served():
    usage(model="alias", cluster="gpu-b")
    usage(model="alias", cluster="gpu-c")

    found = run(PRICE, priced(cluster_name="gpu-b", input_microusd_per_mtok=2000))

    assert found.rows == (row("alias", requests=2, was=10, would_be=22 + 12),)


def test_attempt_without_a_price_keeps_its_cost_and_is_counted():
    usage(served_model="other", model="b", cost_nanousd=7)
    usage(model="a")

    found = run(PRICE)

    assert found.rows == (
        row("b", was=7, would_be=7, kept_count=1),
        row("a", was=5, would_be=12),
    )
    assert found.totals == row("Total", row_id="", requests=2, was=12, would_be=19, kept_count=1)


OTHER_KEY = UUID(int=7)


@pytest.mark.parametrize(
    ("group", "rows"),
    [
        ("model", [("llama", "llama", 2), ("l2", "l2", 1)]),
        ("cluster", [("gpu-a", "gpu-a", 2), ("gpu-b", "gpu-b", 1)]),
        ("team", [("ads", "ads", 1), ("search", "search", 2)]),
        ("key", [(str(OTHER_KEY), "ci", 1), (str(KEY_ID), "ci", 2)]),
        ("day", [("2026-11-20", "2026-11-20", 2), ("2026-11-21", "2026-11-21", 1)]),
    ],
)
def test_rerate_groups(group, rows):
    usage(cost_nanousd=1)
    usage(cost_nanousd=100, team="ads", key_id=OTHER_KEY)
    usage(cost_nanousd=2, model="l2", cluster="gpu-b", settled_at=FROM + timedelta(days=1))

    found = run(PRICE, group=group)

    assert [(each.id, each.name, each.requests) for each in found.rows] == rows
    assert sum(each.was_nanousd for each in found.rows) == found.totals.was_nanousd == 103


def test_rerate_takes_the_period_by_the_settling_and_each_row_once(monkeypatch):
    monkeypatch.setattr(settled_rows, "ROWS_AT_ONCE", 2)
    for settled_at in (FROM - timedelta(microseconds=1), TO):
        usage(settled_at=settled_at)
    for number in range(7):
        # Four at the same moment: pages end in the middle of them.
        usage(settled_at=FROM + timedelta(hours=number // 4))

    assert run(PRICE).totals.requests == 7


@pytest.mark.parametrize("row_count", [1, 3])
def test_rerate_asks_as_many_queries_for_3_rows_as_for_1(row_count, django_assert_num_queries):
    for _ in range(row_count):
        usage()

    with django_assert_num_queries(3, using=UsageRecord.objects.db):
        run(PRICE)


def test_rerate_of_nothing_is_nothing():
    assert run(PRICE).rows == ()
    assert run(PRICE).totals == row("Total", row_id="", requests=0, was=0, would_be=0)


@pytest.mark.parametrize(("hours", "is_told"), [(-1, False), (1, True)])
def test_rerate_tells_of_pruned_attempts(hours, is_told):
    at = FROM + timedelta(hours=hours)
    PrunedPeriod.objects.create(begun_before=at, attempts=1, cost_nanousd=1, pruned_at=TO)

    assert run(PRICE).pruned_before == (at if is_told else None)
