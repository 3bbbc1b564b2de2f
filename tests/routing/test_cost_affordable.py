"""How long an answer a room pays: the hold of that length fits, and of one token more it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost import affordable_output_tokens, hold_nanousd
from routing.types import Rate
from tests.changes import replace
from tests.routing.values import LIGHT, all_rates, flat

TIERED = replace(
    flat(1_000_000, 2_000_000),
    tiers=((100, flat(2_000_000, 5_000_000)), (200, flat(1, 1))),
    service_tiers=(("batch", flat(500_000, 1_000_000)), ("priority", flat(2_000_000, 4_000_000))),
)
some_tiers = st.lists(st.tuples(st.integers(0, 10**5), all_rates), max_size=2, unique_by=lambda tier: tier[0])
some_rates = st.builds(
    lambda rate, tiers, service_tiers: replace(
        rate, tiers=tuple(sorted(tiers, key=lambda tier: tier[0])), service_tiers=tuple(service_tiers)
    ),
    all_rates,
    some_tiers,
    st.lists(st.tuples(st.sampled_from(["batch", "flex"]), all_rates), max_size=2),
)


@LIGHT
@given(
    rate=some_rates,
    service_tier=st.sampled_from([None, "", "batch", "flex"]),
    input_tokens=st.integers(0, 10**5),
    output_tokens_max=st.integers(0, 10**6),
    room_permille=st.integers(0, 1_500),
)
def test_affordable_tokens_are_the_most_that_the_room_pays(
    rate, service_tier, input_tokens, output_tokens_max, room_permille
):
    def held(output_tokens: int) -> int:
        return hold_nanousd(
            input_tokens_max=input_tokens,
            output_tokens_max=output_tokens,
            rate=rate,
            service_tier=service_tier,
        )

    room = held(output_tokens_max) * room_permille // 1_000
    tokens = affordable_output_tokens(
        room_nanousd=room,
        input_tokens_max=input_tokens,
        output_tokens_max=output_tokens_max,
        rate=rate,
        service_tier=service_tier,
    )

    if tokens is None:
        assert held(0) > room
    else:
        assert held(tokens) <= room
        assert tokens == output_tokens_max or held(tokens + 1) > room


@pytest.mark.parametrize(
    ("room", "tokens"), [(9, None), (10, 0), (11, 0), (12, 1), (29, 9), (30, 10), (10**9, 10)]
)
def test_affordable_tokens_by_hand(room, tokens):
    # 10 tokens of prompt at 1,000 pico-USD, then 2,000 pico-USD each.
    rate = Rate.flat(input_microusd_per_mtok=1_000, output_microusd_per_mtok=2_000, source="test")

    found = affordable_output_tokens(room_nanousd=room, input_tokens_max=10, output_tokens_max=10, rate=rate)

    assert found == tokens


@pytest.mark.parametrize(
    ("input_tokens", "service_tier", "tokens"),
    [
        # 1,000 micro-USD less 99 x 1 or 99 x 2 for the prompt, at 2 or 4 for each token of the answer.
        (99, "", 450),
        (99, "batch", 450),
        (99, "priority", 200),
        (99, None, 200),
        # A longer prompt may be charged at the dearest tier that it reaches.
        (100, "", 160),
        (200, "", 120),
    ],
)
def test_affordable_tokens_are_at_the_dearest_tier_that_may_apply(input_tokens, service_tier, tokens):
    found = affordable_output_tokens(
        room_nanousd=1_000_000,
        input_tokens_max=input_tokens,
        output_tokens_max=10_000,
        rate=TIERED,
        service_tier=service_tier,
    )

    assert found == tokens


def test_affordable_tokens_without_a_price_of_output_are_all():
    found = affordable_output_tokens(
        room_nanousd=1_000, input_tokens_max=1, output_tokens_max=10_000, rate=flat(1_000_000, 0)
    )

    assert found == 10_000
