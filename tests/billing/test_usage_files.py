"""The export of attempts: every one once, in order, exact."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.conf import settings

from billing import settled_rows
from billing.usage_files import COLUMNS, CellError, usage_lines
from tests.billing.rows import KEY_ID, NOW, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

HOUR = timedelta(hours=1)


def exported(*, from_at=NOW - HOUR, to_at=NOW + HOUR):
    header, *lines = usage_lines(from_at=from_at, to_at=to_at)
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_one_attempt_is_one_line():
    attempt_id = UUID("0192e000-0000-7000-8000-000000000001")
    make_usage(
        attempt_id=attempt_id,
        variance_nanousd=1,
        cost_nanousd=2_000_000,
        reported_cost_nanousd=7,
        team="=team",
        ttft_ms=12,
    )

    assert exported() == [
        {
            "attempt_id": str(attempt_id),
            "request_id": "req-1",
            "attempt_number": "1",
            "started_at": "2026-11-20T12:30:00Z",
            "settled_at": "2026-11-20T12:30:00Z",
            "organisation": "acme",
            "team": "'=team",
            "key_id": str(KEY_ID),
            "key_name": "ci",
            "model": "llama",
            "served_model": "llama-3-8b",
            "cluster": "gpu-a",
            "cluster_kind": "own",
            "provider": "aws",
            "surface": "chat",
            "is_stream": "false",
            "outcome": "ok",
            "error_code": "",
            "input_fresh_tokens": "1000",
            "cache_read_tokens": "200",
            "cache_write_5m_tokens": "0",
            "cache_write_1h_tokens": "0",
            "output_text_tokens": "30",
            "reasoning_tokens": "0",
            "audio_tokens": "0",
            "input_audio_tokens": "0",
            "input_image_tokens": "0",
            "is_estimate": "false",
            "held_usd": "0.002",
            "cost_usd": "0.002",
            "variance_usd": "0.000000001",
            "reported_cost_usd": "0.000000007",
            "service_tier": "",
            "ttft_ms": "12",
            "duration_ms": "300",
            "experiment": "",
            "arm": "",
            "rate": '{"input_microusd_per_mtok": 150000, "source": "manual"}',
        }
    ]


def test_pages_meet_without_gap_or_repetition(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(settled_rows, "ROWS_AT_ONCE", 2)
    # Several of one moment: only the id tells them apart at the seam of two pages.
    made = [make_usage(settled_at=NOW + timedelta(seconds=n // 3)) for n in range(7)]

    with django_assert_num_queries(5, using=settings.LEDGER_DATABASE):
        found = [line["attempt_id"] for line in exported()]

    expected = sorted(made, key=lambda row: (row.settled_at, row.attempt_id))
    assert found == [str(row.attempt_id) for row in expected]


def test_span_ends_before_its_end():
    make_usage(request_id="before", settled_at=NOW - timedelta(microseconds=1))
    make_usage(request_id="first", settled_at=NOW)
    make_usage(request_id="after", settled_at=NOW + HOUR)

    assert [line["request_id"] for line in exported(from_at=NOW)] == ["first"]


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("attempt_id", "7", "'7' is not a UUID"),
        ("settled_at", "soon", "'soon' is no moment: write it as 2026-11-03T12:00:00Z"),
        ("cost_usd", "-1", "-1 is not between 0 and 4,611,686,018 USD (USD, at most nine decimals)"),
        ("cost_usd", "0.0000000001", "0.0000000001 has more than 9 decimals (USD, at most nine decimals)"),
        ("cost_usd", "NaN", "NaN is not between 0 and 4,611,686,018 USD (USD, at most nine decimals)"),
        ("output_text_tokens", "-1", "'-1' is not a whole number from 0 on"),
        ("output_text_tokens", "1.5", "'1.5' is not a whole number from 0 on"),
        ("output_text_tokens", "9" * 30, f"'{'9' * 30}' is not a whole number from 0 on"),
        ("output_text_tokens", "٣", "'٣' is not a whole number from 0 on"),
        ("duration_ms", "2147483648", "'2147483648' is beyond 2147483647"),
        ("attempt_number", "0", "'0' is no number of an attempt: the first is 1"),
        ("is_stream", "maybe", "'maybe' is not true or false"),
        ("outcome", "fine", "'fine' is none of ok, cancelled, truncated, failed, in_doubt"),
        ("cluster_kind", "rented", "'rented' is none of own, provider"),
        ("model", "a" * 201, f"'{'a' * 40}' is longer than 200 characters, or no text"),
        ("model", "a\x00b", r"'a\x00b' is longer than 200 characters, or no text"),
        ("rate", "[1]", "'[1]' is not a JSON object"),
        ("rate", "{", "'{' is not JSON"),
    ],
)
def test_bad_cell_is_refused(name, cell, message):
    (column,) = (column for column in COLUMNS if column.name == name)

    with pytest.raises(CellError) as refusal:
        column.read(cell)

    assert str(refusal.value) == message
