"""The bill in the columns of FOCUS: its sum is the bill of the usage report, to the nano-USD."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from billing import reports
from billing.amounts import nanousd_from_usd
from billing.focus import COLUMNS, focus_lines
from billing.rollups import fold_days
from tests.billing.rows import KEY_ID, make_capacity, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

FROM = datetime(2026, 11, 19, tzinfo=UTC)
TO = datetime(2026, 11, 22, tzinfo=UTC)
NINE = datetime(2026, 11, 20, 9, tzinfo=UTC)
# What FOCUS 1.2 says must be there, whatever the provider.
MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
}


def charges(*, from_at=FROM, to_at=TO, is_hourly=False):
    header, *lines = focus_lines(from_at=from_at, to_at=to_at, is_hourly=is_hourly)
    assert header == list(COLUMNS)
    return [dict(zip(header, line, strict=True)) for line in lines]


def make_bill():
    """A provider's usage and an own cluster's, over two days; parts of nano-USD that do not divide."""
    make_rollup(cluster="openai", cluster_kind="provider", provider="openai", cost_nanousd=1_000_000_007)
    make_rollup(
        cluster="openai",
        cluster_kind="provider",
        provider="openai",
        cost_nanousd=3,
        starts_at=NINE + timedelta(days=1),
    )
    make_rollup(cluster="gpu-a", provider="aws", cost_nanousd=77, amortised_nanousd=200)
    make_rollup(cluster="gpu-a", provider="aws", model="other", amortised_nanousd=0, cost_nanousd=5)
    make_capacity(cluster="gpu-a")
    make_capacity(cluster="gpu-a", starts_at=NINE + timedelta(hours=1), used_nanousd=0, idle_nanousd=1_000)
    make_capacity(cluster="gpu-b", used_nanousd=0, idle_nanousd=1_000, used_tokens=0)


def test_columns_hold_all_that_is_mandatory():
    assert set(COLUMNS) >= MANDATORY
    assert list(COLUMNS) == sorted(COLUMNS)


@pytest.mark.parametrize("is_hourly", [True, False])
@pytest.mark.parametrize("is_folded", [True, False])
def test_sum_of_billed_cost_is_the_bill(is_hourly, is_folded):
    make_bill()
    if is_folded:
        fold_days(now=TO + timedelta(days=30))

    found = charges(is_hourly=is_hourly)

    report = reports.spend_report(group="day", from_at=FROM, to_at=TO)
    for column in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert sum(nanousd_from_usd(charge[column]) for charge in found) == report.totals.bill_nanousd
    assert report.totals.bill_nanousd == 1_000_000_007 + 3 + 200 + 800 + 1_000 + 1_000


def test_bill_of_a_part_of_a_day_is_that_of_its_hours():
    make_bill()
    span = {"from_at": NINE + timedelta(minutes=30), "to_at": NINE + timedelta(hours=1)}

    found = charges(**span)

    report = reports.spend_report(group="hour", **span)
    assert sum(nanousd_from_usd(charge["BilledCost"]) for charge in found) == report.totals.bill_nanousd
    assert {(charge["ChargePeriodStart"], charge["ChargePeriodEnd"]) for charge in found} == {
        ("2026-11-20T09:00:00Z", "2026-11-20T10:00:00Z")
    }


def test_day_whose_hours_were_pruned_has_lines_of_the_day():
    day = NINE.replace(hour=0)
    make_rollup(period="day", starts_at=day, cluster="openai", cluster_kind="provider", cost_nanousd=42)

    (charge,) = charges(is_hourly=True)

    assert (charge["BilledCost"], charge["ChargePeriodStart"], charge["ChargePeriodEnd"]) == (
        "0.000000042",
        "2026-11-20T00:00:00Z",
        "2026-11-21T00:00:00Z",
    )


def test_charge_of_a_provider():
    make_rollup(cluster="openai", cluster_kind="provider", provider="openai", cost_nanousd=1_500_000_000)

    (charge,) = charges()

    assert {name: value for name, value in charge.items() if value} == {
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), "1.5"),
        "BillingAccountId": "tollgate",
        "BillingAccountName": "Tollgate",
        "BillingAccountType": "Installation",
        "BillingCurrency": "USD",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "llama on openai",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": "2026-11-20T00:00:00Z",
        "ChargePeriodEnd": "2026-11-21T00:00:00Z",
        "ConsumedQuantity": "15",
        "ConsumedUnit": "Tokens",
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), "openai"),
        "PricingCurrency": "USD",
        "PricingQuantity": "15",
        "PricingUnit": "Tokens",
        "ResourceId": "openai",
        "ResourceName": "openai",
        "ResourceType": "Provider",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Large language models",
        "ServiceSubcategory": "Generative AI",
        "SkuId": "openai/llama",
        "SkuMeter": "Tokens",
        "SubAccountId": "acme/search",
        "SubAccountName": "search",
        "SubAccountType": "Team",
        "Tags": charge["Tags"],
        "x_CacheReadTokens": "4",
        "x_ChargedCost": "1.5",
        "x_EstimatedRequestCount": "0",
        "x_FailedRequestCount": "0",
        "x_InputTokens": "10",
        "x_OutputTokens": "5",
        "x_RequestCount": "1",
    }
    assert json.loads(charge["Tags"]) == {
        "organisation": "acme",
        "team": "search",
        "key_id": str(KEY_ID),
        "key_name": "ci",
        "model": "llama",
        "cluster": "openai",
        "cluster_kind": "provider",
    }


def test_own_cluster_has_a_used_and_an_unused_part():
    make_rollup(provider="aws", cost_nanousd=77, amortised_nanousd=200)
    make_capacity()

    found = charges(is_hourly=True)

    columns = (
        "BilledCost",
        "CapacityReservationId",
        "CapacityReservationStatus",
        "ChargeCategory",
        "ChargeFrequency",
        "ConsumedQuantity",
        "PricingQuantity",
        "ProviderName",
        "SubAccountName",
        "x_ChargedCost",
    )
    assert [tuple(charge[name] for name in columns) for charge in found] == [
        ("0.0000002", "gpu-a", "Used", "Usage", "Usage-Based", "15", "15", "aws", "search", "0.000000077"),
        ("0.0000008", "gpu-a", "Unused", "Usage", "Recurring", "", "28800", "aws", "", "0"),
    ]


def test_open_hour_has_no_idle_charge():
    make_capacity(is_closed=False)

    assert charges() == []


def test_names_are_no_formulas():
    make_rollup(cluster_kind="provider", cluster="=c", team="+t", organisation="@o", model="-m")

    (charge,) = charges()

    cells = (charge["ResourceId"], charge["SubAccountName"], charge["SubAccountId"], charge["SkuId"])
    assert cells == ("'=c", "'+t", "'@o/+t", "'=c/-m")


def test_month_of_december_ends_in_january():
    at = datetime(2026, 12, 31, 23, tzinfo=UTC)
    make_rollup(cluster_kind="provider", starts_at=at)

    (charge,) = charges(from_at=at, to_at=at + timedelta(hours=1), is_hourly=True)

    assert (charge["BillingPeriodStart"], charge["BillingPeriodEnd"]) == (
        "2026-12-01T00:00:00Z",
        "2027-01-01T00:00:00Z",
    )
