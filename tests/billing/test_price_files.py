"""Prices as CSV: written and read back, and every line that is refused."""

from datetime import UTC, datetime

import pytest

from billing.cells import csv_texts
from billing.price_book import PriceEntry
from billing.price_conditions import PriceCondition
from billing.price_files import PriceFileError, price_lines, read_prices
from tests.changes import replace

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BASE = PriceEntry(
    model="m", effective_at=NOW, input_microusd_per_mtok=150_000, output_microusd_per_mtok=600_000
)
ENTRIES = [
    BASE,
    replace(
        BASE,
        model="=m+1",
        cluster_name="azure",
        cache_read_microusd_per_mtok=0,
        cache_write_5m_microusd_per_mtok=1,
        cache_write_1h_microusd_per_mtok=2,
        reasoning_microusd_per_mtok=3,
        audio_input_microusd_per_mtok=4,
        audio_output_microusd_per_mtok=5,
        image_input_microusd_per_mtok=10**12,
        source="genai-prices",
        source_version="0.2.3",
    ),
    replace(BASE, condition=PriceCondition(service_tier="flex", context_tokens_min=200_001)),
    replace(BASE, condition=PriceCondition(daily_from_minute=990, daily_to_minute=30)),
    replace(BASE, condition=PriceCondition(daily_from_minute=1440, daily_to_minute=480)),
    replace(BASE, condition=PriceCondition(service_tier="flex", daily_to_minute=0)),
    replace(BASE, condition=PriceCondition(daily_from_minute=1440, daily_to_minute=1440)),
    replace(BASE, condition=PriceCondition(daily_from_minute=990, daily_to_minute=990)),
]


def read(*lines, now=NOW):
    return read_prices(lines=lines, now=now)


def test_prices_are_read_back_as_they_were_written():
    text = "".join(csv_texts(price_lines(ENTRIES)))

    assert read_prices(lines=text.splitlines(keepends=True), now=datetime(2030, 1, 1, tzinfo=UTC)) == ENTRIES


def test_lines_are_usd_per_million_tokens():
    assert list(price_lines(ENTRIES[1:2])) == [
        [
            *("model", "cluster", "service_tier", "context_tokens_min", "daily_from", "daily_to"),
            *("effective_at", "input", "output", "cache_read", "cache_write_5m", "cache_write_1h"),
            *("reasoning", "audio_input", "audio_output", "image_input", "source", "source_version"),
        ],
        [
            *("'=m+1", "azure", "", "0", "00:00", "24:00", "2026-11-20T12:00:00Z", "0.15", "0.6"),
            *("0", "0.000001", "0.000002", "0.000003", "0.000004", "0.000005", "1000000"),
            *("genai-prices", "0.2.3"),
        ],
    ]


def test_three_columns_are_enough():
    assert read("output,model,input", "0.6,m,0.15") == [BASE]


def test_moment_without_a_zone_is_in_utc():
    (entry,) = read("model,input,output,effective_at", "m,1,2,2026-12-01")

    assert entry.effective_at == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "the first line has no column model, input, output"),
        (("model,input", "m,1"), "no column output: the columns are model, cluster,"),
        (("model,input,output,price", "m,1,2,3"), "an unknown column price"),
        (("model,input,output", "m,1"), "line 2 has not as many cells"),
        (("model,input,output", "m,1,2,3"), "line 2 has not as many cells"),
        (("model,input,output", "m,1,2", ",1,2"), "line 3: a price needs the name of a model"),
        (("model,input,output", "m,,2"), "line 2: the input price is empty; write 0"),
        (("model,input,output", "m,1,"), "line 2: the output price is empty"),
        (("model,input,output", "m,1,free"), "line 2: free is not an amount"),
        (("model,input,output", "m,-1,1"), "line 2: -1 is not between 0"),
        (("model,input,output", "m,0.0000001,1"), "more than 6 decimals"),
        (("model,input,output,service_tier", "m,1,2,auto"), "line 2: the service tier 'auto'"),
        (("model,input,output,context_tokens_min", "m,1,2,200k"), "200k is no number of prompt tokens"),
        (("model,input,output,context_tokens_min", "m,1,2,3000000000"), "not between 0 and"),
        (("model,input,output,daily_from", "m,1,2,noon"), "noon is no time of the day"),
        (("model,input,output,daily_from,daily_to", "m,1,2,01:00,01:00"), "no part of the day"),
        (("model,input,output,effective_at", "m,1,2,soon"), "line 2: soon is no moment"),
    ],
)
def test_read_prices_refuses(lines, message):
    with pytest.raises(PriceFileError, match=message):
        read(*lines)


def test_read_prices_refuses_what_is_no_text(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_bytes(b"model,input,output\n\xff,1,2\n")

    with path.open(encoding="utf-8") as lines, pytest.raises(PriceFileError, match="no CSV file in UTF-8"):
        read_prices(lines=lines, now=NOW)
