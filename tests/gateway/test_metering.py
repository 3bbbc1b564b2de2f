"""Usage as upstreams report it: disjoint buckets, or nothing where it is impossible."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering import TOKENS_MAX, estimated_usage, tokens_of_bytes, usage_from_openai
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
]


@LIGHT
@given(json | st.dictionaries(st.sampled_from(NAMES), json | st.dictionaries(st.sampled_from(NAMES), json)))
def test_usage_from_openai_never_raises(given_usage):
    usage = usage_from_openai(given_usage)

    assert usage is None or (usage.input_tokens >= 0 and usage.output_tokens >= 0)


def test_estimated_usage_is_flagged():
    assert estimated_usage(prompt_tokens_estimate=3, output_tokens=4) == Usage(
        input_fresh_tokens=3, output_text_tokens=4, is_estimate=True
    )


@pytest.mark.parametrize(("byte_count", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_tokens_of_bytes_rounds_up(byte_count, tokens):
    assert tokens_of_bytes(byte_count) == tokens
