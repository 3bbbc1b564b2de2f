"""Usage as upstreams report it: disjoint buckets, or nothing where it is impossible."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering import (
    REPORTED_COST_USD_MAX,
    TOKENS_MAX,
    cost_from_openai,
    estimated_usage,
    exact_number,
    service_tier_asked,
    service_tier_said,
    tokens_of_bytes,
    usage_from_openai,
)
from routing.types import Usage

LIGHT = settings(max_examples=80, deadline=None, database=None)


def reported(prompt=100, completion=50, *, cached=None, reasoning=None, audio=None):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": audio},
    }


@pytest.mark.parametrize(
    ("given_usage", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(input_fresh_tokens=5, output_text_tokens=7)),
        ({"prompt_tokens": 5, "total_tokens": 5}, Usage(input_fresh_tokens=5)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input_fresh_tokens=5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 5, "prompt_tokens_details": None}, Usage(input_fresh_tokens=5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": []}, Usage(input_fresh_tokens=5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {}}, Usage(input_fresh_tokens=5)),
        ({"prompt_tokens": 5, "completion_tokens_details": "none"}, Usage(input_fresh_tokens=5)),
        (reported(), Usage(input_fresh_tokens=100, output_text_tokens=50)),
        (
            reported(100, 50, cached=40, reasoning=30, audio=5),
            Usage(
                input_fresh_tokens=60,
                cache_read_tokens=40,
                output_text_tokens=15,
                reasoning_tokens=30,
                audio_tokens=5,
            ),
        ),
        (
            reported(100, 50, cached=100, reasoning=50),
            Usage(cache_read_tokens=100, reasoning_tokens=50),
        ),
        (reported(TOKENS_MAX, 0), Usage(input_fresh_tokens=TOKENS_MAX)),
    ],
)
def test_usage_from_openai_fills_disjoint_buckets(given_usage, usage):
    assert usage_from_openai(given_usage) == usage


IMPOSSIBLE = [-1, True, False, "5", 5.0, float("nan"), float("inf"), TOKENS_MAX + 1, 2**80, [], {}]


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
@pytest.mark.parametrize("name", ["prompt", "completion", "cached", "reasoning", "audio"])
def test_usage_from_openai_refuses_impossible_counts(name, value):
    assert usage_from_openai(reported(**{name: value})) is None


@pytest.mark.parametrize(
    "given_usage",
    [
        None,
        [],
        "usage",
        7,
        {},
        {"completion_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 5},
        reported(10, 10, cached=11),
        reported(10, 10, reasoning=11),
        reported(10, 10, reasoning=6, audio=5),
    ],
    ids=repr,
)
def test_usage_from_openai_gives_nothing_where_it_is_absent_or_contradicts_itself(given_usage):
    assert usage_from_openai(given_usage) is None


@pytest.mark.parametrize(
    ("prompt", "completion", "is_possible"),
    [(100, 50, True), (101, 50, False), (100, 51, False), (0, 0, True)],
)
def test_usage_from_openai_refuses_what_is_above_the_bounds(prompt, completion, is_possible):
    usage = usage_from_openai(reported(prompt, completion), input_tokens_max=100, output_tokens_max=50)

    assert (usage is not None) is is_possible


counts = st.integers(0, 2**40)


@LIGHT
@given(counts, counts, counts, counts, counts)
def test_usage_from_openai_adds_up_to_what_was_reported(prompt, completion, cached, reasoning, audio):
    usage = usage_from_openai(reported(prompt, completion, cached=cached, reasoning=reasoning, audio=audio))

    if cached > prompt or reasoning + audio > completion:
        assert usage is None
    else:
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (prompt, completion)
        assert min(getattr(usage, name) for name in Usage.__slots__ if name.endswith("tokens")) >= 0


def media(prompt, **details):
    return {"prompt_tokens": prompt, "completion_tokens": 0, "prompt_tokens_details": details}


@pytest.mark.parametrize(
    ("given_usage", "usage"),
    [
        (
            media(100, cached_tokens=40, audio_tokens=30, image_tokens=20),
            Usage(input_fresh_tokens=10, cache_read_tokens=40, input_audio_tokens=30, input_image_tokens=20),
        ),
        # 110 of 100 tokens: 10 are both, so cached audio.
        (
            media(100, cached_tokens=60, audio_tokens=50),
            Usage(cache_read_tokens=60, input_audio_tokens=40),
        ),
        # All the audio was cached, and of the images what fits in no other way.
        (
            media(100, cached_tokens=100, audio_tokens=30, image_tokens=70),
            Usage(cache_read_tokens=100),
        ),
        # The upstream says what of the cached is audio.
        (
            media(100, cached_tokens=60, audio_tokens=30, cached_tokens_details={"audio_tokens": 25}),
            Usage(input_fresh_tokens=35, cache_read_tokens=60, input_audio_tokens=5),
        ),
        (
            media(100, cached_tokens=10, cache_write_tokens=60),
            Usage(input_fresh_tokens=30, cache_read_tokens=10, cache_write_5m_tokens=60),
        ),
        (
            media(
                100,
                cache_creation_tokens=60,
                cache_creation_token_details={"ephemeral_1h_input_tokens": 45},
            ),
            Usage(input_fresh_tokens=40, cache_write_5m_tokens=15, cache_write_1h_tokens=45),
        ),
        (media(100, text_tokens=100), Usage(input_fresh_tokens=100)),
    ],
)
def test_usage_from_openai_counts_media_and_caching_of_the_prompt_once(given_usage, usage):
    assert usage_from_openai(given_usage) == usage
    assert usage.input_tokens == 100


@pytest.mark.parametrize(
    "details",
    [
        {"audio_tokens": 101},
        {"image_tokens": 101},
        {"audio_tokens": 60, "image_tokens": 50},
        {"audio_tokens": -1},
        {"image_tokens": 1.0},
        {"cache_write_tokens": 101},
        {"cache_write_tokens": 60, "cached_tokens": 50},
        {"cache_write_tokens": 5, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 6}},
        {"cached_tokens": 10, "audio_tokens": 20, "cached_tokens_details": {"audio_tokens": 11}},
        {"cached_tokens": 30, "audio_tokens": 20, "cached_tokens_details": {"audio_tokens": 21}},
        {"cached_tokens": 30, "cached_tokens_details": {"image_tokens": "1"}},
    ],
    ids=repr,
)
def test_usage_from_openai_refuses_impossible_details_of_the_prompt(details):
    assert usage_from_openai(media(100, **details)) is None


parts = st.none() | st.integers(0, 60)


@LIGHT
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens"), parts)
        | {"cached_tokens_details": st.none() | st.fixed_dictionaries({"audio_tokens": parts})}
    )
)
def test_buckets_of_the_prompt_are_disjoint_and_add_up(details):
    usage = usage_from_openai(media(100, **details))

    counts = {name: value or 0 for name, value in details.items() if name.endswith("_tokens")}
    if usage is None:
        assert max(sum(counts.values()) - counts["cached_tokens"], sum(counts.values()) - 100) > 0 or (
            details["cached_tokens_details"] is not None
        )
    else:
        assert usage.input_tokens == 100
        assert min(getattr(usage, name) for name in Usage.__slots__ if name.endswith("tokens")) >= 0
        assert usage.cache_read_tokens == counts["cached_tokens"]


def decoded(text):
    return msgspec.json.Decoder(float_hook=exact_number).decode(text)


@pytest.mark.parametrize(
    ("text", "nanousd"),
    [
        (b'{"cost": 0.00014735}', 147_350),
        (b'{"cost": 0.1}', 100_000_000),
        # What no float holds: 0.30000000000000004 would be rounded up to one more.
        (b'{"cost": 0.300000000}', 300_000_000),
        (b'{"cost": 123.123456789}', 123_123_456_789),
        (b'{"cost": 1e-9}', 1),
        (b'{"cost": 1.5e-9}', 2),
        (b'{"cost": 1e-12}', 1),
        (b'{"cost": 0}', 0),
        (b'{"cost": 3}', 3_000_000_000),
        (b'{"cost": 10000}', 10_000_000_000_000),
        (b'{"total_cost": 0.25}', 250_000_000),
        (b'{"cost": {"request_cost": 0.1, "total_cost": 0.5}}', 500_000_000),
        (b'{"cost": 0.5, "total_cost": 0.25, "cost_details": {"upstream_inference_cost": 9}}', 500_000_000),
        (b'{"cost_details": {"upstream_inference_cost": 0.5}}', None),
        (b"{}", None),
        (b'{"cost": null}', None),
    ],
)
def test_cost_from_openai_is_exact(text, nanousd):
    assert cost_from_openai(decoded(text)) == nanousd


@pytest.mark.parametrize(
    "cost",
    [
        -1,
        Decimal("-0.1"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("10000.000000001"),
        REPORTED_COST_USD_MAX + 1,
        10**400,
        Decimal("1E+400"),
        Decimal("1E-999999"),
        Decimal("0." + "1" * 100),
        True,
        "0.5",
        0.5,
        [],
        {},
    ],
    ids=lambda cost: repr(cost)[:20],
)
def test_cost_from_openai_refuses_what_is_no_amount(cost):
    assert cost_from_openai({"cost": cost}) is None


@pytest.mark.parametrize("usage", [None, [], "usage", 7])
def test_cost_from_openai_of_no_usage_is_none(usage):
    assert cost_from_openai(usage) is None


@pytest.mark.parametrize(
    ("header", "nanousd"),
    [("0.00014", 140_000), ("2e-05", 20_000), ("", None), ("None", None), ("nan", None), ("-1", None)],
)
def test_cost_from_openai_takes_the_header_where_the_usage_says_nothing(header, nanousd):
    assert cost_from_openai({"prompt_tokens": 1}, header=header) == nanousd
    assert cost_from_openai({"cost": 1}, header=header) == 10**9


@LIGHT
@given(st.decimals(0, REPORTED_COST_USD_MAX, places=12))
def test_cost_from_openai_is_rounded_up_once(cost):
    nanousd = cost_from_openai(decoded(f'{{"cost": {cost:f}}}'.encode()))

    assert nanousd is not None
    assert nanousd - 1 < Fraction(cost) * 10**9 <= nanousd


@pytest.mark.parametrize(
    ("value", "said", "asked"),
    [
        ("flex", "flex", "flex"),
        ("PRIORITY", "priority", "priority"),
        ("default", "", ""),
        ("standard", "", ""),
        ("auto", "", None),
        (None, None, None),
        ("", None, None),
        (7, None, None),
        ("a" * 17, None, None),
        ("fl\x00ex", None, None),
        ({"tier": "flex"}, None, None),
    ],
)
def test_service_tier_of_a_response_and_of_a_request(value, said, asked):
    assert (service_tier_said(value), service_tier_asked(value)) == (said, asked)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "audio_tokens",
    "cached_tokens_details",
    "cost",
]


@LIGHT
@given(json | st.dictionaries(st.sampled_from(NAMES), json | st.dictionaries(st.sampled_from(NAMES), json)))
def test_usage_from_openai_never_raises(given_usage):
    usage = usage_from_openai(given_usage)

    assert usage is None or (usage.input_tokens >= 0 and usage.output_tokens >= 0)
    assert cost_from_openai(given_usage) is None or isinstance(given_usage, dict)


def test_estimated_usage_is_flagged():
    assert estimated_usage(prompt_tokens_estimate=3, output_tokens=4) == Usage(
        input_fresh_tokens=3, output_text_tokens=4, is_estimate=True
    )


@pytest.mark.parametrize(("byte_count", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_tokens_of_bytes_rounds_up(byte_count, tokens):
    assert tokens_of_bytes(byte_count) == tokens
