"""The ledger's protocol on the database: once, whole, and never above a hard budget."""

import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.entries import Batch, BudgetExceededError, Checkpoint
from billing.models import BudgetWindow, Reservation, SpendRollup, UsageRecord
from billing.ownership import Owner
from tests.billing.holds import KEY_ID, NOW, new_claim, new_hold, new_settlement
from tests.billing.rows import make_usage
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")


def windows():
    return list(BudgetWindow.objects.order_by("id").values_list("spent_nanousd", "held_nanousd"))


def states():
    return sorted(Reservation.objects.values_list("state", flat=True))


def test_hold_is_kept_with_its_amount_and_window():
    claim = new_claim(limit_nanousd=5_000)
    hold = new_hold(held_nanousd=3_000, claims=[claim])

    refused = ledger.commit(Batch(holds=[hold]))

    reservation = Reservation.objects.get(attempt_id=hold.attempt_id)
    assert refused == {}
    assert (reservation.state, reservation.held_nanousd, reservation.windows) == (
        "held",
        3_000,
        [claim.window_id],
    )
    assert reservation.attribution == hold.attribution
    assert windows() == [(0, 3_000)]


def test_hold_repeated_counts_once():
    hold = new_hold(held_nanousd=3_000, claims=[new_claim(limit_nanousd=5_000)])

    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(holds=[hold, hold]))

    assert states() == ["held"]
    assert windows() == [(0, 3_000)]


def test_hold_twice_in_one_batch_counts_once():
    hold = new_hold(held_nanousd=3_000, claims=[new_claim(limit_nanousd=9_000)])

    ledger.commit(Batch(holds=[hold, hold]))

    assert (states(), windows()) == (["held"], [(0, 3_000)])


def test_hold_above_a_hard_budget_is_refused_and_leaves_nothing():
    claim = new_claim(limit_nanousd=5_000)
    hold = new_hold(held_nanousd=5_001, claims=[claim])

    refused = ledger.commit(Batch(holds=[hold]))

    assert list(refused) == [hold.attempt_id]
    assert isinstance(refused[hold.attempt_id], BudgetExceededError)
    assert (refused[hold.attempt_id].claim, refused[hold.attempt_id].needed_nanousd) == (claim, 5_001)
    assert states() == []
    assert windows() == [(0, 0)]


def test_hold_that_meets_the_limit_exactly_is_taken():
    ledger.commit(Batch(holds=[new_hold(held_nanousd=5_000, claims=[new_claim(limit_nanousd=5_000)])]))

    assert windows() == [(0, 5_000)]


def test_batch_takes_each_hold_that_still_fits():
    claim = new_claim(limit_nanousd=5_000)
    holds = [new_hold(held_nanousd=2_000, claims=[claim]) for _ in range(4)]

    refused = ledger.commit(Batch(holds=holds))

    assert list(refused) == [holds[2].attempt_id, holds[3].attempt_id]
    assert windows() == [(0, 4_000)]


def test_one_hard_window_without_room_refuses_the_hold_in_all_windows():
    wide, narrow = new_claim(limit_nanousd=9_000, budget=1), new_claim(limit_nanousd=1_000, budget=2)
    hold = new_hold(held_nanousd=2_000, claims=[wide, narrow])

    refused = ledger.commit(Batch(holds=[hold]))

    assert refused[hold.attempt_id].claim == narrow
    assert windows() == [(0, 0), (0, 0)]


def test_soft_budget_counts_and_never_refuses():
    hold = new_hold(held_nanousd=9_000, claims=[new_claim(limit_nanousd=5_000, is_hard=False)])

    refused = ledger.commit(Batch(holds=[hold]))

    assert refused == {}
    assert windows() == [(0, 9_000)]


def test_settle_writes_one_row_and_moves_held_to_spent():
    hold = new_hold(held_nanousd=30_000, claims=[new_claim(limit_nanousd=50_000)])
    ledger.commit(Batch(holds=[hold]))

    settlement = new_settlement(hold, input_tokens=10, output_tokens=5)
    ledger.commit(Batch(settlements=[settlement]))

    record = UsageRecord.objects.get(attempt_id=hold.attempt_id)
    assert (record.input_fresh_tokens, record.output_text_tokens) == (10, 5)
    assert (record.cost_nanousd, record.variance_nanousd, record.held_nanousd) == (20_000, 0, 30_000)
    assert (record.cluster, record.served_model, record.key_id, record.is_estimate) == (
        "aws",
        "llama",
        KEY_ID,
        False,
    )
    assert windows() == [(20_000, 0)]
    assert states() == ["settled"]


def test_settle_repeated_changes_nothing():
    hold = new_hold(held_nanousd=30_000, claims=[new_claim(limit_nanousd=50_000)])
    ledger.commit(Batch(holds=[hold]))
    settlement = new_settlement(hold, input_tokens=10)

    for _ in range(3):
        ledger.commit(Batch(settlements=[settlement]))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=99)]))

    assert UsageRecord.objects.count() == 1
    assert windows() == [(10_000, 0)]
    assert SpendRollup.objects.get().cost_nanousd == 10_000


def test_settle_without_a_hold_writes_nothing():
    ledger.commit(Batch(settlements=[new_settlement(new_hold(), input_tokens=10)]))

    assert (UsageRecord.objects.count(), SpendRollup.objects.count()) == (0, 0)


def test_row_that_cannot_be_there_stops_its_settlement():
    hold = new_hold(held_nanousd=30_000, claims=[new_claim(limit_nanousd=50_000)])
    ledger.commit(Batch(holds=[hold]))
    make_usage(attempt_id=hold.attempt_id, cost_nanousd=1)

    with pytest.raises(IntegrityError):
        ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10)]))

    assert (states(), windows()) == (["held"], [(0, 30_000)])


def test_settle_charges_at_most_what_was_held_and_books_the_rest_as_variance():
    hold = new_hold(held_nanousd=4_000, claims=[new_claim(limit_nanousd=4_000)])
    ledger.commit(Batch(holds=[hold]))

    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10)]))

    record = UsageRecord.objects.get()
    assert (record.cost_nanousd, record.variance_nanousd) == (4_000, 6_000)
    assert windows() == [(4_000, 0)]


def test_void_frees_the_hold_and_keeps_a_row_of_the_failure():
    hold = new_hold(held_nanousd=4_000, claims=[new_claim(limit_nanousd=4_000)])
    ledger.commit(Batch(holds=[hold]))

    ledger.commit(Batch(settlements=[new_settlement(hold, outcome="failed", is_void=True)]))

    record = UsageRecord.objects.get()
    assert (record.outcome, record.cost_nanousd, record.variance_nanousd) == ("failed", 0, 0)
    assert (states(), windows()) == (["void"], [(0, 0)])
    assert SpendRollup.objects.get().failures == 1


def test_failover_frees_the_first_hold_for_the_second_in_one_batch():
    claim = new_claim(limit_nanousd=4_000)
    first, second = (new_hold(held_nanousd=4_000, claims=[claim]) for _ in range(2))
    ledger.commit(Batch(holds=[first]))

    refused = ledger.commit(
        Batch(settlements=[new_settlement(first, outcome="failed", is_void=True)], holds=[second])
    )

    assert refused == {}
    assert (states(), windows()) == (["held", "void"], [(0, 4_000)])


def test_rollup_row_adds_up_the_hours_attempts():
    holds = [new_hold(held_nanousd=90_000) for _ in range(3)]
    ledger.commit(Batch(holds=holds))

    ledger.commit(Batch(settlements=[new_settlement(holds[0], input_tokens=1, output_tokens=2)]))
    ledger.commit(
        Batch(
            settlements=[
                new_settlement(holds[1], input_tokens=3, output_tokens=4, is_estimate=True),
                new_settlement(holds[2], outcome="failed", is_void=True),
            ]
        )
    )

    row = SpendRollup.objects.get()
    assert row.starts_at == NOW.replace(minute=0)
    sums = (row.requests, row.failures, row.estimates, row.input_tokens, row.output_tokens, row.cost_nanousd)
    assert sums == (3, 1, 1, 4, 6, 16_000)


def test_checkpoint_notes_progress_of_a_held_attempt_only():
    running, ended = new_hold(), new_hold()
    ledger.commit(Batch(holds=[running, ended]))
    ledger.commit(Batch(settlements=[new_settlement(ended)]))

    notes = [Checkpoint(attempt_id=hold.attempt_id, output_tokens=9, at=NOW) for hold in (running, ended)]
    ledger.commit(Batch(checkpoints=notes))

    checkpoints = dict(Reservation.objects.values_list("attempt_id", "output_tokens_checkpoint"))
    assert checkpoints == {running.attempt_id: 9, ended.attempt_id: 0}


def test_in_doubt_needs_proof_of_death():
    with Owner() as alive:
        dead = Owner()
        dead.claim()
        dead.release()
        ledger.commit(
            Batch(holds=[new_hold(owner=alive.id), new_hold(owner=dead.id), new_hold(owner=uuid.uuid4())])
        )

        count = ledger.mark_in_doubt(now=NOW)

        assert (count, states()) == (2, ["held", "in_doubt", "in_doubt"])


def test_in_doubt_attempt_can_still_be_settled_once():
    hold = new_hold(held_nanousd=30_000, claims=[new_claim(limit_nanousd=30_000)])
    ledger.commit(Batch(holds=[hold]))
    ledger.mark_in_doubt(now=NOW)

    for _ in range(2):
        ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10)]))

    assert (states(), windows()) == (["settled"], [(10_000, 0)])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    amounts=st.lists(st.integers(min_value=0, max_value=400), min_size=1, max_size=12),
    limit=st.integers(min_value=0, max_value=1500),
    sizes=st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=12),
    used=st.lists(st.integers(min_value=0, max_value=600), min_size=12, max_size=12),
)
def test_spent_and_held_never_pass_a_hard_limit(amounts, limit, sizes, used):
    claim = new_claim(limit_nanousd=limit, budget=uuid.uuid4().int)
    holds = [new_hold(held_nanousd=amount, claims=[claim]) for amount in amounts]
    charged = 0
    start = 0
    for size in sizes:
        batch, start = holds[start : start + size], start + size
        refused = ledger.commit(Batch(holds=batch))
        window = BudgetWindow.objects.get(id=claim.window_id) if batch else None
        assert window is None or window.spent_nanousd + window.held_nanousd <= limit
        taken = [hold for hold in batch if hold.attempt_id not in refused]
        ends = [new_settlement(hold, input_tokens=tokens) for hold, tokens in zip(taken, used, strict=False)]
        ledger.commit(Batch(settlements=ends[: len(ends) // 2 + 1]))
        charged += sum(min(end.cost_nanousd, end.hold.held_nanousd) for end in ends[: len(ends) // 2 + 1])

    window = BudgetWindow.objects.get(id=claim.window_id)
    still_held = sum(
        Reservation.objects.filter(state="held", windows=[claim.window_id]).values_list(
            "held_nanousd", flat=True
        )
    )
    assert (window.spent_nanousd, window.held_nanousd) == (charged, still_held)


@pytest.mark.parametrize(
    ("duration_ms", "kept"),
    [(-1, 0), (0, 0), (2**31 - 1, 2**31 - 1), (2**31, 2**31 - 1), (10**12, 2**31 - 1)],
)
def test_attempt_that_ended_weeks_later_or_before_it_began_is_settled(duration_ms, kept):
    hold = new_hold()
    ledger.commit(Batch(holds=[hold]))

    ledger.commit(
        Batch(settlements=[replace(new_settlement(hold), duration_ms=duration_ms, ttft_ms=duration_ms)])
    )

    assert UsageRecord.objects.values_list("duration_ms", "ttft_ms").get() == (kept, kept)


def test_hold_whose_answer_was_lost_is_released_weeks_later():
    hold = new_hold()

    ledger.release(lost=[hold], now=NOW + timedelta(days=60))
    late = ledger.commit(Batch(holds=[hold]))

    assert late == {}
    assert Reservation.objects.values_list("state", "held_nanousd").get() == ("void", 0)
    assert UsageRecord.objects.values_list("outcome", "duration_ms").get() == ("failed", 2**31 - 1)


@pytest.mark.parametrize("is_crossed_first", [True, False])
def test_each_hold_of_a_batch_keeps_to_its_own_rule_while_a_budget_changes(is_crossed_first):
    kept = new_claim(limit_nanousd=1_000)
    crossed = replace(kept, is_crossed=True)
    claims = [crossed, kept] if is_crossed_first else [kept, crossed]
    holds = [new_hold(held_nanousd=600, claims=[claim]) for claim in claims]

    verdicts = ledger.commit(Batch(holds=holds))

    assert set(verdicts) == ({holds[1].attempt_id} if is_crossed_first else set())
    assert BudgetWindow.objects.get().held_nanousd == (600 if is_crossed_first else 1_200)


def test_lowered_limit_binds_the_holds_that_know_it_and_no_others():
    claims = [new_claim(limit_nanousd=limit) for limit in (1_000, 500, 1_000)]
    holds = [new_hold(held_nanousd=300, claims=[claim]) for claim in claims]

    verdicts = ledger.commit(Batch(holds=holds))

    assert set(verdicts) == {holds[1].attempt_id}
    assert BudgetWindow.objects.get().held_nanousd == 600
