"""Holds at a hard budget's limit: lowered where it is clamped, else refused with what stands in the way."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.entries import Batch, BudgetExceededError, Clamp
from billing.models import BudgetWindow, Reservation
from billing.reconciliation import reconcile
from tests.billing.holds import RATE, new_claim, new_hold, new_settlement
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")

# At RATE a token of the prompt costs 1,000 nano-USD, one of the answer 2,000.
CLAMP = Clamp(input_tokens_max=10, output_tokens_max=100, output_tokens_min=16, choice_count=1, rate=RATE)
WHOLE = 10_000 + 100 * 2_000
LEAST = 10_000 + 16 * 2_000


def clamped(*, limit_nanousd, budget=1):
    return replace(new_claim(limit_nanousd=limit_nanousd, budget=budget), is_clamped=True)


def clampable(*claims, clamp=CLAMP, **names):
    held = clamp.held_nanousd(output_tokens=clamp.output_tokens_max)
    return replace(new_hold(held_nanousd=held, claims=claims, **names), clamp=clamp)


def verdicts(*holds):
    """What became of each: None (as asked), (held, tokens) or the refusal's numbers."""
    found = ledger.commit(Batch(holds=list(holds)))
    return [told(found.get(hold.attempt_id)) for hold in holds]


def told(verdict):
    if verdict is None:
        return None
    if isinstance(verdict, BudgetExceededError):
        sums = (verdict.needed_nanousd, verdict.spent_nanousd, verdict.held_nanousd)
        return ("refused", verdict.claim.limit_nanousd, *sums, verdict.is_temporary)
    return verdict.held_nanousd, verdict.clamped_output_tokens


def windows():
    return list(BudgetWindow.objects.order_by("id").values_list("spent_nanousd", "held_nanousd"))


@pytest.mark.parametrize(
    ("limit_nanousd", "verdict"),
    [
        (WHOLE, None),
        (WHOLE - 1, (WHOLE - 2_000, 99)),
        (WHOLE - 2_000, (WHOLE - 2_000, 99)),
        (LEAST + 1_999, (LEAST, 16)),
        (LEAST, (LEAST, 16)),
        (LEAST - 1, ("refused", LEAST - 1, LEAST, 0, 0, False)),
        (0, ("refused", 0, LEAST, 0, 0, False)),
    ],
)
def test_clamped_budget_lowers_a_hold_to_what_is_left(limit_nanousd, verdict):
    hold = clampable(clamped(limit_nanousd=limit_nanousd))

    assert verdicts(hold) == [verdict]
    held = {None: WHOLE, "refused": 0}.get(verdict and verdict[0], verdict and verdict[0])
    assert windows() == [(0, held)]
    assert list(Reservation.objects.values_list("held_nanousd", flat=True)) == ([held] if held else [])


def test_lowered_hold_settles_as_any_other():
    hold = clampable(clamped(limit_nanousd=LEAST))
    (lowered,) = ledger.commit(Batch(holds=[hold])).values()

    ledger.commit(Batch(settlements=[new_settlement(lowered, input_tokens=10, output_tokens=16)]))

    assert windows() == [(LEAST, 0)]
    assert reconcile().drift == ()


def test_batch_gives_what_is_left_to_the_first_that_lacks_it():
    claim = clamped(limit_nanousd=2 * WHOLE + LEAST + 3_000)
    holds = [clampable(claim) for _ in range(4)]

    assert verdicts(*holds) == [
        None,
        None,
        (LEAST + 2_000, 17),
        ("refused", claim.limit_nanousd, LEAST, 0, 2 * WHOLE + LEAST + 2_000, True),
    ]


def test_choices_share_what_is_left_evenly():
    clamp = replace(CLAMP, choice_count=3)
    room = 10_000 + 3 * 16 * 2_000

    holds = [
        clampable(clamped(limit_nanousd=room + spare, budget=number), clamp=clamp)
        for number, spare in enumerate([-1, 0, 5_999, 6_000], 1)
    ]

    assert verdicts(*holds) == [
        ("refused", room - 1, room, 0, 0, False),
        (room, 16),
        (room, 16),
        (room + 6_000, 17),
    ]


def test_short_answer_that_was_asked_for_is_not_lengthened_to_the_least():
    clamp = replace(CLAMP, output_tokens_max=5, output_tokens_min=5)

    assert verdicts(clampable(clamped(limit_nanousd=20_000), clamp=clamp)) == [None]
    assert verdicts(clampable(clamped(limit_nanousd=19_999, budget=2), clamp=clamp)) == [
        ("refused", 19_999, 20_000, 0, 0, False)
    ]


def test_hold_that_cannot_be_lowered_is_refused_by_a_clamped_budget_too():
    hold = new_hold(held_nanousd=1_001, claims=[clamped(limit_nanousd=1_000)])

    assert verdicts(hold) == [("refused", 1_000, 1_001, 0, 0, False)]


def test_budget_that_is_not_clamped_refuses_beside_one_that_is():
    narrow, wide = new_claim(limit_nanousd=WHOLE - 1, budget=1), clamped(limit_nanousd=LEAST, budget=2)

    assert verdicts(clampable(narrow, wide)) == [("refused", WHOLE - 1, WHOLE, 0, 0, False)]
    assert windows() == [(0, 0), (0, 0)]


def test_narrowest_of_several_clamped_budgets_decides():
    claims = [
        clamped(limit_nanousd=LEAST + 8_000, budget=1),
        clamped(limit_nanousd=LEAST + 4_000, budget=2),
        new_claim(limit_nanousd=WHOLE, budget=3),
        new_claim(limit_nanousd=1, budget=4, is_hard=False),
    ]

    assert verdicts(clampable(*claims)) == [(LEAST + 4_000, 18)]
    assert windows() == [(0, LEAST + 4_000)] * 4


def test_lowered_hold_repeated_is_told_again_and_counted_once():
    hold = clampable(clamped(limit_nanousd=LEAST))
    other = clampable(clamped(limit_nanousd=WHOLE, budget=2))

    told_twice = [verdicts(hold, other) for _ in range(2)]
    # Nothing is left that it could be lowered to now; it is there already.
    alone = verdicts(hold)

    assert told_twice == [[(LEAST, 16), None]] * 2
    assert alone == [(LEAST, 16)]
    assert windows() == [(0, LEAST), (0, WHOLE)]


def test_holds_repeated_beside_one_that_does_not_fit_keep_what_they_have():
    claim = clamped(limit_nanousd=WHOLE + LEAST)
    whole, lowered = clampable(claim), clampable(claim)
    verdicts(whole, lowered)

    told = verdicts(whole, lowered, clampable(claim))

    refusal = ("refused", WHOLE + LEAST, LEAST, 0, WHOLE + LEAST, True)
    assert told == [None, (LEAST, 16), refusal]
    assert windows() == [(0, WHOLE + LEAST)]


def test_hold_that_was_released_meanwhile_is_not_granted():
    hold = clampable(clamped(limit_nanousd=WHOLE))
    ledger.release(lost=[hold], now=hold.at)

    assert verdicts(hold) == [("refused", WHOLE, WHOLE, 0, 0, True)]


def test_refusal_says_what_is_spent_and_what_is_held():
    claim = new_claim(limit_nanousd=100_000)
    spent = new_hold(held_nanousd=20_000, claims=[claim])
    ledger.commit(Batch(holds=[spent, new_hold(held_nanousd=70_000, claims=[claim])]))
    ledger.commit(Batch(settlements=[new_settlement(spent, input_tokens=15)]))

    assert verdicts(new_hold(held_nanousd=15_001, claims=[claim])) == [
        ("refused", 100_000, 15_001, 15_000, 70_000, True)
    ]
    assert verdicts(new_hold(held_nanousd=85_000, claims=[claim])) == [
        ("refused", 100_000, 85_000, 15_000, 70_000, True)
    ]
    assert verdicts(new_hold(held_nanousd=85_001, claims=[claim])) == [
        ("refused", 100_000, 85_001, 15_000, 70_000, False)
    ]


def test_refusal_names_the_budget_that_is_spent_before_one_that_is_only_held():
    held, spent = new_claim(limit_nanousd=10_000, budget=1), new_claim(limit_nanousd=5_000, budget=2)
    first = new_hold(held_nanousd=5_000, claims=[spent])
    ledger.commit(Batch(holds=[first, new_hold(held_nanousd=10_000, claims=[held])]))
    ledger.commit(Batch(settlements=[new_settlement(first, input_tokens=5)]))

    assert verdicts(new_hold(held_nanousd=1_000, claims=[held, spent])) == [
        ("refused", 5_000, 1_000, 5_000, 0, False)
    ]


@pytest.mark.parametrize("is_clamped", [False, True])
def test_limit_lowered_below_what_is_used_refuses_and_touches_no_hold(is_clamped):
    wide = new_claim(limit_nanousd=2 * WHOLE)
    first = new_hold(held_nanousd=WHOLE, claims=[wide])
    ledger.commit(Batch(holds=[first]))
    lowered = replace(wide, limit_nanousd=1_000, is_clamped=is_clamped)
    least = LEAST if is_clamped else WHOLE

    assert verdicts(clampable(lowered)) == [("refused", 1_000, least, 0, WHOLE, False)]
    assert windows() == [(0, WHOLE)]
    ledger.commit(Batch(settlements=[new_settlement(first, input_tokens=9)]))
    assert windows() == [(9_000, 0)]


def test_limit_that_changes_within_a_batch_binds_each_hold_by_its_own():
    wide, narrow = new_claim(limit_nanousd=9_000), new_claim(limit_nanousd=4_000)
    holds = [
        new_hold(held_nanousd=3_000, claims=[narrow]),
        new_hold(held_nanousd=3_000, claims=[narrow]),
        new_hold(held_nanousd=3_000, claims=[wide]),
    ]

    assert verdicts(*holds) == [None, ("refused", 4_000, 3_000, 0, 3_000, True), None]


@settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.integers(0, 900_000),
    second_limit=st.integers(0, 900_000),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=8),
    is_second_clamped=st.booleans(),
)
def test_holds_of_any_size_stay_below_every_hard_limit(limit, second_limit, sizes, is_second_clamped):
    # Budgets of each example's own: what one holds stays held.
    first, second = (uuid.uuid4().int for _ in range(2))
    claims = [
        clamped(limit_nanousd=limit, budget=first),
        replace(new_claim(limit_nanousd=second_limit, budget=second), is_clamped=is_second_clamped),
    ]
    clamps = [replace(CLAMP, output_tokens_max=size, output_tokens_min=min(size, 16)) for size in sizes]
    holds = [clampable(*claims, clamp=clamp) for clamp in clamps]

    found = ledger.commit(Batch(holds=holds))

    taken = [found.get(hold.attempt_id, hold) for hold in holds]
    held = sum(hold.held_nanousd for hold in taken if not isinstance(hold, BudgetExceededError))
    for claim in claims:
        assert BudgetWindow.objects.get(id=claim.window_id).held_nanousd == held <= claim.limit_nanousd


@pytest.mark.parametrize(
    ("room_nanousd", "tokens"), [(0, None), (105_999, None), (106_000, 16), (111_999, 16), (10**9, 100)]
)
def test_clamp_affords_whole_tokens_of_each_choice(room_nanousd, tokens):
    clamp = replace(CLAMP, choice_count=3)

    assert clamp.affordable_tokens(room_nanousd=room_nanousd) == tokens


def in_doubt(*holds):
    """As recovery leaves them: their process died."""
    Reservation.objects.filter(attempt_id__in=[hold.attempt_id for hold in holds]).update(state="in_doubt")


def test_refusal_tells_what_attempts_in_doubt_hold_apart():
    claim, other = new_claim(limit_nanousd=1_000), new_claim(limit_nanousd=10**9, budget=2)
    lost, running = (new_hold(held_nanousd=amount, claims=[claim, other]) for amount in (500, 400))
    ledger.commit(Batch(holds=[lost, running]))
    in_doubt(lost)
    asked = [new_hold(held_nanousd=needed, claims=[claim, other]) for needed in (200, 501, 1_001)]

    verdicts = ledger.commit(Batch(holds=asked))

    found = [verdicts[hold.attempt_id] for hold in asked]
    assert [(e.spent_nanousd, e.held_nanousd, e.in_doubt_nanousd) for e in found] == [(0, 900, 500)] * 3
    # Room when what runs ends; when an operator ends what is in doubt; never.
    assert [(e.is_temporary, e.is_in_doubt) for e in found] == [(True, False), (False, True), (False, False)]


def test_refusal_names_the_budget_that_waiting_does_not_help():
    """One is full of running requests, the other of attempts in doubt: that one is told."""
    busy, stuck = (new_claim(limit_nanousd=1_000, budget=number) for number in (1, 2))
    lost = new_hold(held_nanousd=1_000, claims=[stuck])
    ledger.commit(Batch(holds=[lost, new_hold(held_nanousd=1_000, claims=[busy])]))
    in_doubt(lost)
    asked = new_hold(held_nanousd=10, claims=[busy, stuck])

    (error,) = ledger.commit(Batch(holds=[asked])).values()

    assert (error.claim, error.is_in_doubt, error.is_temporary) == (stuck, True, False)
