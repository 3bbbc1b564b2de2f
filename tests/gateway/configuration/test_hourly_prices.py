"""`spotPrices` of a cluster: what they become, once however often imported, and what is refused."""

from datetime import UTC, datetime

import pytest

from clusters.models import HourlyCost
from gateway.configuration.exporting import export_text
from tests.gateway.configuration.conftest import NOW, revisions

pytestmark = pytest.mark.django_db

CLUSTER = "clusters:\n  - name: spot\n    endpoint: https://spot.example.com\n    billing: autoscaled\n"
PRICES = (
    "    spotPrices:\n"
    "      - {from: 2029-01-01T00:00Z, costPerHour: 9}\n"
    "      - {from: 2029-12-31T10:00+01:00, costPerHour: 1.000000001}\n"
    "      - {from: 2030-06-01T00:00Z, costPerHour: 0}\n"
)
MOMENT = "write a moment with its zone, such as 2026-11-20T09:00Z"
AMOUNT = "write an amount in USD from 0 to 1000000 with at most 9 digits after the point"
DIFFERS = "exists already and differs: costs are never changed, choose a later moment"


def stored():
    rows = HourlyCost.objects.order_by("effective_at")
    return list(rows.values_list("cluster__name", "effective_at", "cost_per_hour_nanousd", "source"))


def test_spot_prices_become_hourly_costs_once(import_text):
    first = import_text(CLUSTER + PRICES)
    before = revisions()
    again = import_text(CLUSTER + PRICES)

    assert stored() == [
        ("spot", datetime(2029, 1, 1, tzinfo=UTC), 9 * 10**9, "configuration file"),
        ("spot", datetime(2029, 12, 31, 9, tzinfo=UTC), 1_000_000_001, "configuration file"),
        ("spot", datetime(2030, 6, 1, tzinfo=UTC), 0, "configuration file"),
    ]
    assert first.changes[-1] == "+ hourly costs of spot: 3 new"
    assert (again.changes, revisions()) == ((), before)


def test_dry_run_writes_no_prices(import_text):
    report = import_text(CLUSTER + PRICES, is_dry_run=True)

    assert report.changes[-1] == "+ hourly costs of spot: 3 new"
    assert stored() == []


def test_export_has_the_price_in_force_and_those_to_come(import_text):
    import_text(CLUSTER + PRICES)

    text = export_text(now=NOW)

    assert text.partition("    spotPrices:\n")[2] == (
        '      - {from: "2029-12-31T09:00:00Z", costPerHour: 1.000000001}\n'
        '      - {from: "2030-06-01T00:00:00Z", costPerHour: 0}\n'
    )
    before = revisions()
    import_text(text)
    assert revisions() == before


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "[{from: 2030-01-01, costPerHour: 1}]",
            f'5:25: clusters[0].spotPrices[0].from: found "2030-01-01"; {MOMENT}',
        ),
        (
            "[{from: yesterday, costPerHour: 1}]",
            f'5:25: clusters[0].spotPrices[0].from: found "yesterday"; {MOMENT}',
        ),
        ("[{from: 2030-01-01T00:00Z}]", "5:18: clusters[0].spotPrices[0]: costPerHour is missing; write it"),
        (
            "[{from: 2030-01-01T00:00Z, costPerHour: 1}, {from: 2030-01-01T01:00+01:00, costPerHour: 2}]",
            "5:68: clusters[0].spotPrices[1].from: this moment stands on line 5 already; write each once",
        ),
        (
            "[{from: 2030-01-01T00:00Z, costPerHour: -1}]",
            f'5:57: clusters[0].spotPrices[0].costPerHour: found "-1"; {AMOUNT}',
        ),
        ("1", '5:17: clusters[0].spotPrices: found "1"; write a list, each entry after a hyphen'),
    ],
)
def test_spot_prices_that_are_none_are_refused(refusals, entries, message):
    assert refusals(f"{CLUSTER}    spotPrices: {entries}\n") == [message]
    assert stored() == []


def test_price_that_differs_from_the_one_in_the_books_is_refused(import_text, refusals):
    import_text(CLUSTER + PRICES)

    assert refusals(CLUSTER + PRICES.replace("costPerHour: 9", "costPerHour: 8")) == [
        f"6:7: clusters[0].spotPrices: an hourly cost of 'spot' from 2029-01-01T00:00:00+00:00 {DIFFERS}"
    ]


def test_provider_has_no_spot_prices(refusals):
    text = "externalProviders:\n  - {name: o, type: openai, apiKey: k, spotPrices: []}\n"

    assert 'found the unknown key "spotPrices"' in refusals(text)[0]
