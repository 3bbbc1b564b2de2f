"""What is held and what is booked: the bound of an answer, the windows it counts against, the record."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.budgets import BudgetView
from billing.entries import Clamp, Settlement, WindowClaim
from billing.principals import Principal
from gateway.accounting import (
    NOTHING_USED,
    UNPRICED,
    OutputBound,
    WindowCalendar,
    clamped_hold,
    new_hold,
    output_bound,
    settlement_of,
)
from gateway.completion import CompletionRequest
from gateway.metering import estimated_usage
from routing.cost import cost_nanousd
from routing.money import NANOUSD_MAX
from routing.rate_record import rate_record
from routing.types import Candidate, Decision, Deployment, Rate, RequestProfile, Usage
from tests.changes import replace

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
ATTEMPT = UUID(int=1)
OWNER = UUID(int=2)
KEY_ID = str(UUID(int=3))
RATE_NUMBERS = [name for name in Rate.__slots__ if name.endswith("_mtok")]
RATE = Rate.flat(input_microusd_per_mtok=1_000_000, output_microusd_per_mtok=3_000_000, source="test")


def deployment_of(**values):
    return Deployment(
        **{
            "id": "d1",
            "cluster": "metal",
            "cluster_kind": "own",
            "provider": "metal",
            "region": "r1",
            "model": "llama-8b",
            "billing": "committed",
            "state": "active",
            "health": "healthy",
            "health_reason": "",
            "context_window": 8192,
            "output_tokens_max": None,
            "capabilities": frozenset(),
            "rate": RATE,
            "cost_per_hour_nanousd": 0,
            "rated_tokens_per_s": None,
            "measured_tokens_per_s": None,
            "queue_depth": None,
            "latency_ms": None,
            "in_flight_max": 8,
            **values,
        }
    )


def profile_of(**values):
    return RequestProfile(
        **{
            "model": "llama",
            "surface": "chat",
            "body_bytes": 1200,
            "prompt_tokens_estimate": 300,
            "prompt_tokens_max": 1456,
            "output_tokens_max": None,
            "choice_count": 1,
            "needs": frozenset(),
            "is_priced_only": True,
            **values,
        }
    )


def decision_of(*, ranked, exclusions=()):
    return Decision(
        model="llama", policy="cost", reason="cost", ranked=tuple(ranked), exclusions=tuple(exclusions)
    )


@pytest.mark.parametrize(
    ("asked", "allowed", "bound"),
    [
        (None, None, OutputBound(tokens_max=4096, is_injected=True)),
        (None, 1000, OutputBound(tokens_max=1000, is_injected=True)),
        (None, 6000, OutputBound(tokens_max=6000, is_injected=True)),
        (None, 9000, OutputBound(tokens_max=8192 - 400, is_injected=True)),
        (None, 8, OutputBound(tokens_max=8, is_injected=True)),
        (100, None, OutputBound(tokens_max=100, is_injected=False)),
        (100, 100, OutputBound(tokens_max=100, is_injected=False)),
        (100, 1000, OutputBound(tokens_max=100, is_injected=False)),
        (1000, 100, OutputBound(tokens_max=100, is_injected=True)),
        (1, None, OutputBound(tokens_max=1, is_injected=False)),
    ],
)
def test_output_bound_is_the_least_of_what_is_asked_allowed_and_left(asked, allowed, bound):
    profile, deployment = profile_of(output_tokens_max=asked), deployment_of(output_tokens_max=allowed)

    assert output_bound(profile=profile, deployment=deployment) == bound


@pytest.mark.parametrize(
    ("prompt_tokens_estimate", "tokens_max"), [(0, 4096), (3072, 4096), (3075, 4092), (6132, 16), (9000, 16)]
)
def test_output_bound_leaves_room_for_the_prompt(prompt_tokens_estimate, tokens_max):
    profile = profile_of(prompt_tokens_estimate=prompt_tokens_estimate)

    bound = output_bound(profile=profile, deployment=deployment_of())

    assert bound == OutputBound(tokens_max=tokens_max, is_injected=True)


def test_output_bound_without_a_hard_budget_is_the_window_and_changes_nothing():
    profile = profile_of(is_priced_only=False)

    assert output_bound(profile=profile, deployment=deployment_of()) == OutputBound(
        tokens_max=8192, is_injected=False
    )


def test_output_bound_without_a_hard_budget_obeys_the_deployment():
    profile, deployment = profile_of(is_priced_only=False), deployment_of(output_tokens_max=100)

    assert output_bound(profile=profile, deployment=deployment) == OutputBound(
        tokens_max=100, is_injected=True
    )


def test_output_bound_of_embeddings_is_nothing():
    profile = profile_of(surface="embeddings", output_tokens_max=0)

    assert output_bound(profile=profile, deployment=deployment_of()) == OutputBound(
        tokens_max=0, is_injected=False
    )


def budget_of(**values):
    return BudgetView(
        **{
            "id": str(UUID(int=9)),
            "owner": "team red",
            "limit_nanousd": 5,
            "window": "day",
            "timezone": "UTC",
            "is_hard": True,
            **values,
        }
    )


def principal_of(*budgets, organisation="acme"):
    return Principal(
        key_id=KEY_ID,
        key_name="ci",
        prefix="tg_abcdefgh",
        team="red",
        organisation=organisation,
        allowed_models=None,
        expires_at=None,
        revoked_at=None,
        limits=(),
        model_limits={},
        budgets=budgets,
    )


def test_claim_says_all_that_the_ledger_needs():
    claims = WindowCalendar().claims_of(principal_of(budget_of()), now=NOW)

    assert claims == (
        WindowClaim(
            window_id=f"{UUID(int=9)}:day:2030-01-02T00:00Z",
            budget_id=UUID(int=9),
            owner="team red",
            limit_nanousd=5,
            is_hard=True,
            starts_at=datetime(2030, 1, 2, tzinfo=UTC),
            ends_at=datetime(2030, 1, 3, tzinfo=UTC),
            window="day",
        ),
    )


def test_claim_has_the_override_s_limit_up_to_its_end():
    until = NOW + timedelta(hours=1)
    principal = principal_of(budget_of(override_limit_nanousd=7, override_until=until))
    calendar = WindowCalendar()
    moments = [NOW, until - timedelta(microseconds=1), until, until + timedelta(days=1)]

    claims = [calendar.claims_of(principal, now=at)[0] for at in moments]

    assert [(claim.limit_nanousd, claim.override_until) for claim in claims] == [
        (7, until),
        (7, until),
        (5, None),
        (5, None),
    ]


@pytest.mark.parametrize(
    ("is_hard", "is_clamped", "is_crossed", "found"),
    [
        (True, True, False, (True, False)),
        (True, False, False, (False, False)),
        (False, True, False, (False, False)),
        (True, False, True, (False, True)),
    ],
)
def test_claim_has_the_budget_s_rule(is_hard, is_clamped, is_crossed, found):
    budget = budget_of(is_hard=is_hard, is_clamped=is_clamped, is_crossed=is_crossed)

    (claim,) = WindowCalendar().claims_of(principal_of(budget), now=NOW)

    assert (claim.is_clamped, claim.is_crossed) == found


def test_claims_at_the_edge_of_a_window_belong_to_the_one_that_begins():
    calendar, principal = WindowCalendar(), principal_of(budget_of())
    midnight = datetime(2030, 1, 3, tzinfo=UTC)
    moments = [midnight - timedelta(microseconds=1), midnight, midnight + timedelta(microseconds=1)]

    days = [calendar.claims_of(principal, now=at)[0].starts_at.day for at in moments]
    # A clock that is set back finds the earlier window again, not the one that was kept.
    again = calendar.claims_of(principal, now=moments[0])[0].starts_at.day

    assert (days, again) == ([2, 3, 3], 2)


def test_claims_of_each_time_zone_and_window_are_kept_apart():
    principal = principal_of(
        budget_of(),
        budget_of(timezone="Pacific/Auckland"),
        budget_of(window="month"),
        budget_of(window="total"),
    )

    claims = WindowCalendar().claims_of(principal, now=NOW)

    assert [(claim.starts_at, claim.ends_at) for claim in claims] == [
        (datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 1, 3, tzinfo=UTC)),
        (datetime(2030, 1, 2, 11, tzinfo=UTC), datetime(2030, 1, 3, 11, tzinfo=UTC)),
        (datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 2, 1, tzinfo=UTC)),
        (datetime(1970, 1, 1, tzinfo=UTC), None),
    ]
    assert len({claim.window_id for claim in claims}) == 4


def hold_of(*, profile=None, deployment=None, bound=None, claims=()):
    profile, deployment = profile or profile_of(), deployment or deployment_of()
    candidate = Candidate(deployment=deployment, score=1.0, cost_nanousd=7)
    request = CompletionRequest(
        surface=profile.surface,
        model="llama",
        is_stream=True,
        wants_usage=False,
        body=b"{}",
        document={},
        profile=profile,
    )
    return new_hold(
        attempt_id=ATTEMPT,
        attempt_number=1,
        request_id="req_1",
        owner=OWNER,
        principal=principal_of(),
        request=request,
        decision=decision_of(ranked=[candidate]),
        candidate=candidate,
        bound=bound or output_bound(profile=profile, deployment=deployment),
        claims=claims,
        now=NOW,
    )


def test_hold_says_who_asked_and_where_it_goes():
    hold = hold_of()

    assert (hold.attempt_id, hold.request_id, hold.owner, hold.claims, hold.at) == (
        ATTEMPT,
        "req_1",
        OWNER,
        (),
        NOW,
    )
    assert hold.held_nanousd == (1456 * 1_000_000 + 4096 * 3_000_000) // 1000
    assert hold.attribution == {
        "attempt_number": 1,
        "organisation": "acme",
        "team": "red",
        "key_id": KEY_ID,
        "key_name": "ci",
        "model": "llama",
        "served_model": "llama-8b",
        "cluster": "metal",
        "cluster_kind": "own",
        "provider": "metal",
        "surface": "chat",
        "is_stream": True,
        "rate": rate_record(rate=RATE),
        "service_tier": None,
        "decision": {
            "policy": "cost",
            "reason": "cost",
            "chosen": "metal/llama-8b",
            "cost": 7,
            "ranked": [["metal/llama-8b", 7, 1.0]],
            "excluded": [],
            "others": 0,
        },
        "prompt_tokens_estimate": 300,
    }


@pytest.mark.parametrize(
    ("asked", "choice_count", "clamp"),
    [
        (None, 1, {"output_tokens_max": 4096, "output_tokens_min": 16, "choice_count": 1}),
        (300, 4, {"output_tokens_max": 300, "output_tokens_min": 16, "choice_count": 4}),
        (5, 1, {"output_tokens_max": 5, "output_tokens_min": 5, "choice_count": 1}),
    ],
)
def test_hold_says_how_far_a_clamped_budget_may_lower_it(asked, choice_count, clamp):
    profile = profile_of(output_tokens_max=asked, choice_count=choice_count)
    claims = WindowCalendar().claims_of(principal_of(budget_of(is_clamped=True)), now=NOW)

    hold = hold_of(profile=profile, claims=claims)

    assert hold.clamp == Clamp(input_tokens_max=1456, rate=RATE, **clamp)
    assert hold.held_nanousd == hold.clamp.held_nanousd(output_tokens=clamp["output_tokens_max"])


def test_hold_is_lowered_by_no_other_budget_and_embeddings_by_none():
    claims = [
        WindowCalendar().claims_of(principal_of(budget_of(is_clamped=is_clamped)), now=NOW)
        for is_clamped in (False, True)
    ]
    embeddings = profile_of(surface="embeddings", output_tokens_max=0)

    holds = [hold_of(claims=claims[0]), hold_of(), hold_of(profile=embeddings, claims=claims[1])]

    assert [hold.clamp for hold in holds] == [None, None, None]


def test_clamped_hold_keeps_what_was_granted_with_its_decision():
    hold = replace(hold_of(), clamped_output_tokens=77)

    assert clamped_hold(hold).attribution == {
        **hold.attribution,
        "decision": {**hold.attribution["decision"], "output_tokens_max": 77},
    }


def test_hold_of_an_unpriced_deployment_is_nothing():
    assert hold_of(deployment=deployment_of(rate=None)).held_nanousd == 0


def test_hold_is_never_more_than_the_ledger_can_count():
    profile = profile_of(output_tokens_max=10_000_000, choice_count=128 * 2_000_000)

    assert hold_of(profile=profile).held_nanousd == NANOUSD_MAX


@given(data=st.data())
def test_hold_is_an_upper_bound_of_any_charge_within_it(data):
    rate = Rate(**{name: data.draw(st.integers(0, 10**9)) for name in RATE_NUMBERS}, source="t")
    profile = profile_of(
        prompt_tokens_max=data.draw(st.integers(0, 10**5)),
        output_tokens_max=data.draw(st.none() | st.integers(1, 10**5)),
        choice_count=data.draw(st.integers(1, 4)),
    )
    deployment = deployment_of(rate=rate, output_tokens_max=data.draw(st.none() | st.integers(1, 10**5)))
    bound = output_bound(profile=profile, deployment=deployment)
    inputs = sorted(data.draw(st.lists(st.integers(0, profile.prompt_tokens_max), min_size=3, max_size=3)))
    most = bound.tokens_max * profile.choice_count
    outputs = sorted(data.draw(st.lists(st.integers(0, most), min_size=2, max_size=2)))
    usage = Usage(
        input_fresh_tokens=inputs[0],
        cache_read_tokens=inputs[1] - inputs[0],
        cache_write_5m_tokens=inputs[2] - inputs[1],
        cache_write_1h_tokens=profile.prompt_tokens_max - inputs[2],
        output_text_tokens=outputs[0],
        reasoning_tokens=outputs[1] - outputs[0],
        audio_tokens=most - outputs[1],
    )

    hold = hold_of(profile=profile, deployment=deployment, bound=bound)

    assert hold.held_nanousd >= cost_nanousd(usage=usage, rate=rate)


@pytest.mark.parametrize(
    ("usage", "rate", "cost", "is_void"),
    [
        (Usage(input_fresh_tokens=10, output_text_tokens=2), RATE, 16_000, False),
        (Usage(input_fresh_tokens=10, output_text_tokens=2), None, 0, False),
        (NOTHING_USED, RATE, 0, True),
        (estimated_usage(prompt_tokens_estimate=0, output_tokens=0), RATE, 0, False),
    ],
)
def test_settlement_costs_what_was_used_at_the_rate_of_the_hold(usage, rate, cost, is_void):
    hold = hold_of()

    settlement = settlement_of(
        hold=hold,
        rate=rate,
        usage=usage,
        outcome="ok",
        error_code="x",
        ttft_ms=3,
        duration_ms=4,
        now=NOW,
    )

    assert settlement == Settlement(
        hold=hold,
        usage=usage,
        cost_nanousd=cost,
        outcome="ok",
        error_code="x",
        ttft_ms=3,
        duration_ms=4,
        at=NOW,
        is_void=is_void,
    )


def test_unpriced_rate_is_zero_in_every_bucket():
    assert rate_record(rate=UNPRICED) == {
        **dict.fromkeys((name for name in RATE_NUMBERS), 0),
        "source": "unpriced",
    }
