"""Rates in rows: what is written is read back, and rows of older versions are understood."""

import json

from hypothesis import given

from routing.cost import charge_of, cost_nanousd
from routing.rate_record import rate_from_record, rate_record
from routing.types import Rate
from tests.routing.values import LIGHT, flat, price_lists, usages


@LIGHT
@given(price_lists)
def test_rate_record_is_read_back_as_it_was(rate):
    record = json.loads(json.dumps(rate_record(rate=rate)))

    assert rate_from_record(record) == rate


@LIGHT
@given(price_lists, usages)
def test_record_without_tiers_out_of_reach_charges_the_same(rate, usage):
    record = json.loads(json.dumps(rate_record(rate=rate, input_tokens_max=usage.input_tokens)))

    for service_tier in ("", "flex"):
        assert cost_nanousd(
            usage=usage, rate=rate_from_record(record), service_tier=service_tier
        ) == cost_nanousd(usage=usage, rate=rate, service_tier=service_tier)


@LIGHT
@given(price_lists, usages)
def test_record_of_the_rate_applied_recomputes_the_charge(rate, usage):
    charge = charge_of(usage=usage, rate=rate, said="flex")

    record = rate_record(rate=charge.rate)

    assert set(record) == {name for name in Rate.__slots__ if name not in ("tiers", "service_tiers")}
    assert (
        cost_nanousd(usage=usage, rate=rate_from_record(record), service_tier="flex") == charge.cost_nanousd
    )


def test_record_of_an_older_version_costs_media_as_input_and_output():
    record = {
        "input_microusd_per_mtok": 1000,
        "output_microusd_per_mtok": 2000,
        "cache_read_microusd_per_mtok": 1000,
        "cache_write_5m_microusd_per_mtok": 1000,
        "cache_write_1h_microusd_per_mtok": 1000,
        "reasoning_microusd_per_mtok": 2000,
        "source": "test",
    }

    assert rate_from_record(record) == flat()


def test_record_names_only_the_tiers_in_reach():
    rate = Rate(**{**rate_record(rate=flat()), "tiers": ((10, flat(3000, 4000)), (20, flat(5000, 6000)))})

    record = rate_record(rate=rate, input_tokens_max=19)

    assert record == {
        **rate_record(rate=flat()),
        "tiers": [[10, {"input_microusd_per_mtok": 3000, "output_microusd_per_mtok": 4000}]],
    }
