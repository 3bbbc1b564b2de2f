"""A provider's limits, mirrored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import quota
from routing.quota import FULL, UNLIMITED, Quota
from tests.routing.values import LIGHT

LIMITS = {"requests_per_min": 60.0, "tokens_per_min": 1000.0}


def has_room(given, *, tokens=10.0, now_s):
    return quota.has_room(given, **LIMITS, tokens=tokens, now_s=now_s)


def test_quota_is_used_up_and_refills_evenly():
    used = FULL
    for _ in range(60):
        assert has_room(used, now_s=0.0)
        used = quota.on_dispatch(used, **LIMITS, tokens=10.0, now_s=0.0)

    assert used == Quota(requests_missing=60.0, tokens_missing=600.0, at_s=0.0)
    assert [has_room(used, now_s=at_s) for at_s in (0.0, 0.99, 1.0)] == [False, False, True]


def test_quota_counts_tokens_too():
    used = quota.on_dispatch(FULL, **LIMITS, tokens=950.0, now_s=0.0)

    assert [has_room(used, tokens=60.0, now_s=at_s) for at_s in (0.0, 0.5, 0.7)] == [False, False, True]


def test_refusal_empties_the_mirror():
    refused = quota.on_refusal(FULL, **LIMITS, now_s=5.0)

    assert refused == Quota(requests_missing=60.0, tokens_missing=1000.0, at_s=5.0)
    assert not has_room(refused, now_s=5.0)
    assert has_room(refused, now_s=6.0)


@pytest.mark.parametrize("now_s", [0.0, 1e6])
def test_quota_without_limits_always_has_room(now_s):
    used = quota.on_dispatch(
        FULL, requests_per_min=UNLIMITED, tokens_per_min=UNLIMITED, tokens=1e9, now_s=0.0
    )

    assert quota.has_room(used, requests_per_min=UNLIMITED, tokens_per_min=UNLIMITED, tokens=1e9, now_s=now_s)


@LIGHT
@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(1.0, 400.0)), max_size=200))
def test_quota_never_lets_more_pass_than_a_full_minute_and_the_refill(steps):
    used, now_s, requests, tokens = FULL, 0.0, 0, 0.0
    for wait_s, amount in steps:
        now_s += wait_s
        if has_room(used, tokens=amount, now_s=now_s):
            used = quota.on_dispatch(used, **LIMITS, tokens=amount, now_s=now_s)
            requests, tokens = requests + 1, tokens + amount
        assert requests <= 60 + now_s + 1e-6
        assert tokens <= 1000 + now_s * 1000 / 60 + 1e-6
