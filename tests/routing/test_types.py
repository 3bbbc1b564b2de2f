"""Routing's values: buckets add up, and nothing can be changed."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given

from routing import types
from routing.types import Candidate, Decision, Exclusion, Rate, Usage
from tests.routing.values import LIGHT, deployment, usages

BUCKETS = [name for name in Usage.__struct_fields__ if name.endswith("_tokens")]


@LIGHT
@given(usages)
def test_usage_totals_are_the_sum_of_all_buckets(usage):
    total = sum(getattr(usage, name) for name in BUCKETS)

    assert usage.input_tokens + usage.output_tokens == total


@pytest.mark.parametrize("bucket", BUCKETS)
def test_usage_counts_each_bucket_in_one_total(bucket):
    counts: dict[str, Any] = {bucket: 7}
    usage = Usage(**counts)

    assert sorted((usage.input_tokens, usage.output_tokens)) == [0, 7]


def test_rate_flat_prices_caching_as_input_and_reasoning_as_output():
    assert Rate.flat(input_microusd_per_mtok=3, output_microusd_per_mtok=5, source="x") == Rate(
        input_microusd_per_mtok=3,
        output_microusd_per_mtok=5,
        cache_read_microusd_per_mtok=3,
        cache_write_5m_microusd_per_mtok=3,
        cache_write_1h_microusd_per_mtok=3,
        reasoning_microusd_per_mtok=5,
        audio_input_microusd_per_mtok=3,
        audio_output_microusd_per_mtok=5,
        image_input_microusd_per_mtok=3,
        source="x",
    )


@pytest.mark.parametrize("name", ["Deployment", "Fleet", "Rate", "RoutePlan"])
def test_values_are_frozen_slotted_and_by_keyword(name):
    kind = getattr(types, name)

    assert "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in fields(kind))


def test_decision_and_its_parts_cannot_be_changed():
    place = deployment("a")
    candidate = Candidate(deployment=place, score=1.0, cost_nanousd=2)
    excluded = Exclusion(deployment=place, reason="unhealthy")
    decision = Decision(model="m", policy="cost", reason="cost", ranked=(candidate,))

    for value, name in ((candidate, "score"), (excluded, "reason"), (decision, "ranked")):
        with pytest.raises(AttributeError):
            setattr(value, name, 0)
    assert candidate.as_fallback() == Candidate(deployment=place, score=1.0, cost_nanousd=2, is_fallback=True)
    assert decision.also_excluding((excluded,)) == Decision(
        model="m", policy="cost", reason="cost", ranked=(candidate,), exclusions=(excluded,)
    )


def test_usage_cannot_be_changed():
    usage = Usage()

    with pytest.raises(AttributeError):
        usage.audio_tokens = 1  # type: ignore[misc] # what must fail
