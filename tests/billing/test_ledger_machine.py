"""The ledger against a small model of it: any order of any operations, alone or in batches, repeated or late.

TOLLGATE_MACHINE=deep looks for long: `TOLLGATE_MACHINE=deep pytest tests/billing/test_ledger_machine.py`.
"""

import os
import uuid
from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from billing import ledger
from billing.entries import Batch, Checkpoint, Clamp, Hold
from billing.models import BudgetWindow, Reservation, SpendRollup, UsageRecord
from billing.ownership import Owner
from billing.pruning import prune
from billing.reconciliation import reconcile, settle_in_doubt
from gateway.identifiers import new_attempt_id
from tests.billing.holds import NOW, RATE, new_claim, new_hold, new_settlement
from tests.billing.ledger_model import LedgerModel
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")

# Hard budgets of which one is narrow, one clamps and one may be crossed, a soft one, and two windows of one.
CLAIMS = (
    new_claim(limit_nanousd=40_000, budget=1),
    replace(new_claim(limit_nanousd=90_000, budget=2), is_clamped=True),
    new_claim(limit_nanousd=10_000, budget=3, is_hard=False),
    new_claim(limit_nanousd=60_000, budget=1, window="day:2026-11-23T00:00Z"),
    replace(new_claim(limit_nanousd=30_000, budget=4), is_crossed=True),
)
CLUSTERS = ("aws", "gcp")
OWNERS = 3
OPERATIONS_MAX = 4
IS_DEEP = os.environ.get("TOLLGATE_MACHINE") == "deep"
# A step asks many questions, which take longer over a socket.
IS_REMOTE = django_settings.DATABASES[django_settings.LEDGER_DATABASE]["ENGINE"].endswith("postgresql")
EXAMPLES = 1_000 if IS_DEEP else 12 if IS_REMOTE else 30
KEPT_DAYS = 30
RATE_RECORD = {name: getattr(RATE, name) for name in RATE.__slots__}

# By their place: which limit and rule counts is the machine's to say.
some_claims = st.lists(st.sampled_from(range(len(CLAIMS))), max_size=len(CLAIMS), unique=True)
some_cluster = st.sampled_from(CLUSTERS)
some_amount = st.integers(min_value=0, max_value=30_000)
some_tokens = st.integers(min_value=0, max_value=20)
some_clamp = st.builds(
    Clamp,
    input_tokens_max=st.integers(min_value=0, max_value=10),
    output_tokens_max=st.integers(min_value=4, max_value=30),
    output_tokens_min=st.integers(min_value=1, max_value=4),
    choice_count=st.sampled_from([1, 2]),
    rate=st.just(RATE),
)
some_index = st.integers(min_value=0, max_value=10_000)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        # Rolled back at the end: usage rows cannot be deleted.
        self._atomic = transaction.atomic(using=django_settings.LEDGER_DATABASE)
        self._atomic.__enter__()
        self.now = NOW
        self.owners = [self._born() for _ in range(OWNERS)]
        self.holds = []
        self.claims = list(CLAIMS)
        self.limits = {claim.window_id: claim.limit_nanousd for claim in CLAIMS}
        self.batch = Batch()
        self.model = LedgerModel()

    def teardown(self):
        for owner in self.owners:
            owner.release()
        transaction.set_rollback(True, using=django_settings.LEDGER_DATABASE)
        self._atomic.__exit__(None, None, None)

    # --- Operations wait in a batch, as they do in group_commit.

    @rule(
        owner=st.sampled_from(range(OWNERS)),
        amount=some_amount,
        claims=some_claims,
        prompt_tokens=some_tokens,
        cluster=some_cluster,
        is_now=st.booleans(),
    )
    def hold(self, owner, amount, claims, prompt_tokens, cluster, is_now):
        hold = self._hold(
            owner=owner,
            amount=amount,
            claims=self._claims(claims),
            prompt_tokens=prompt_tokens,
            cluster=cluster,
        )
        self.batch.holds.append(hold)
        self._commit_at_times(is_now)

    @rule(
        owner=st.sampled_from(range(OWNERS)),
        clamp=some_clamp,
        claims=some_claims.filter(bool),
        is_now=st.booleans(),
    )
    def hold_what_is_left(self, owner, clamp, claims, is_now):
        amount = clamp.held_nanousd(output_tokens=clamp.output_tokens_max)
        hold = self._hold(
            owner=owner, amount=amount, claims=self._claims(claims), prompt_tokens=1, clamp=clamp
        )
        self.batch.holds.append(hold)
        self._commit_at_times(is_now)

    @precondition(lambda self: self.holds)
    @rule(index=some_index, is_now=st.booleans())
    def hold_again(self, index, is_now):
        self.batch.holds.append(self._known(index))
        self._commit_at_times(is_now)

    @precondition(lambda self: self.holds)
    @rule(
        index=some_index,
        amount=st.none() | some_amount,
        clamp=st.none() | some_clamp,
        cluster=some_cluster,
    )
    def fail_over(self, index, amount, clamp, cluster):
        """The next attempt often needs just the room that the failed one gives back."""
        failed = self._known(index)
        clamp = clamp if failed.claims else None
        settlement = new_settlement(failed, outcome="failed", is_void=True, at=self.now)
        asked = failed.held_nanousd if amount is None else amount
        hold = self._hold(
            owner=self._owner_of(failed),
            amount=asked if clamp is None else clamp.held_nanousd(output_tokens=clamp.output_tokens_max),
            claims=failed.claims,
            prompt_tokens=1,
            cluster=cluster,
            clamp=clamp,
        )
        self.batch.settlements.append(settlement)
        self.batch.holds.append(hold)
        self.commit()

    @precondition(lambda self: self.holds)
    @rule(index=some_index, tokens=some_tokens, is_now=st.booleans())
    def note(self, index, tokens, is_now):
        attempt_id = self._known(index).attempt_id
        self.batch.checkpoints.append(Checkpoint(attempt_id=attempt_id, output_tokens=tokens, at=self.now))
        self._commit_at_times(is_now)

    @precondition(lambda self: self.holds)
    @rule(
        index=some_index,
        input_tokens=some_tokens,
        output_tokens=some_tokens,
        is_estimate=st.booleans(),
        is_now=st.booleans(),
    )
    def settle(self, index, input_tokens, output_tokens, is_estimate, is_now):
        settlement = new_settlement(
            self._known(index),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            is_estimate=is_estimate,
            at=self.now,
        )
        self.batch.settlements.append(settlement)
        self._commit_at_times(is_now)

    @precondition(lambda self: self.holds)
    @rule(index=some_index, is_now=st.booleans())
    def void(self, index, is_now):
        settlement = new_settlement(self._known(index), outcome="failed", is_void=True, at=self.now)
        self.batch.settlements.append(settlement)
        self._commit_at_times(is_now)

    @precondition(lambda self: self.holds)
    @rule(index=some_index)
    def fill_up_and_fail_over(self, index):
        """Windows filled to the brim by one attempt, which fails; the next one takes its place."""
        claims = [claim for claim in self._known(index).claims if claim.is_hard]
        rooms = [self.model.room(claim) for claim in claims]
        if not rooms or min(rooms) <= 0:
            return
        self.commit()
        hold = self._hold(owner=0, amount=min(rooms), claims=tuple(claims), prompt_tokens=1)
        self.batch.holds.append(hold)
        self.commit()
        self.fail_over_of(hold)

    def fail_over_of(self, failed):
        self.batch.settlements.append(new_settlement(failed, outcome="failed", is_void=True, at=self.now))
        self.batch.holds.append(
            self._hold(owner=0, amount=failed.held_nanousd, claims=failed.claims, prompt_tokens=1)
        )
        self.commit()

    @rule()
    def commit(self):
        batch, self.batch = self.batch, Batch()
        expected = self.model.commit(batch)

        verdicts = ledger.commit(batch)

        found = {key: each.held_nanousd if isinstance(each, Hold) else None for key, each in verdicts.items()}
        assert found == expected
        self._compare()

    # --- What happens beside the batches.

    @rule(
        place=st.sampled_from(range(len(CLAIMS))),
        percent=st.sampled_from([0, 50, 100, 150, 400]),
        is_turned=st.booleans(),
    )
    def change_budget(self, place, percent, is_turned):
        """An override begins or ends, the limit is another one, or the rule: what is spent stays counted."""
        own = CLAIMS[place]
        is_crossed = self.claims[place].is_crossed != (is_turned and own.is_hard and not own.is_clamped)
        limit = own.limit_nanousd * percent // 100
        until = None if percent == 100 else self.now + timedelta(hours=1)
        self.claims[place] = replace(own, limit_nanousd=limit, is_crossed=is_crossed, override_until=until)
        self.limits[own.window_id] = max(limit, self.limits[own.window_id])

    @precondition(lambda self: self.holds)
    @rule(index=some_index)
    def release(self, index):
        """The answer to its commit was lost: it may be there, may yet come, or never will."""
        lost = self._known(index)
        self.model.release(lost, now=self.now)
        ledger.release(lost=[lost], now=self.now)
        self._compare()

    @rule(index=st.sampled_from(range(OWNERS)))
    def die(self, index):
        """The process is gone, and with it what it had not committed; another takes its place."""
        dead = self.owners[index]
        dead.release()
        self.model.dead.add(dead.id)
        self.owners[index] = self._born()

    @rule()
    def mark_in_doubt(self):
        assert ledger.mark_in_doubt(now=self.now) == self.model.mark_in_doubt()
        self._compare()

    @rule()
    def settle_in_doubt(self):
        assert settle_in_doubt(now=self.now) == self.model.settle_in_doubt(now=self.now)
        self._compare()

    @rule(minutes=st.sampled_from([1, 45, 60 * 24, 60 * 24 * 25]))
    def wait(self, minutes):
        self.now += timedelta(minutes=minutes)

    @rule()
    def prune(self):
        expected = self.model.prune(now=self.now, kept_days=KEPT_DAYS)
        self.holds = [hold for hold in self.holds if hold.attempt_id not in self.model.pruned]
        self.batch.holds = [one for one in self.batch.holds if one.attempt_id not in self.model.pruned]

        found = prune(now=self.now, pause=lambda _seconds: None)

        assert (found.attempts, found.cost_nanousd) == expected
        assert found.is_done
        self._compare()

    # --- The parts.

    def _born(self):
        owner = Owner()
        owner.claim()
        return owner

    def _claims(self, places):
        return tuple(self.claims[place] for place in places)

    def _hold(self, *, owner, amount, claims, prompt_tokens, cluster=CLUSTERS[0], clamp=None):
        hold = new_hold(
            held_nanousd=amount,
            claims=claims,
            owner=self.owners[owner].id,
            at=self.now,
            rate=RATE_RECORD,
            prompt_tokens_estimate=prompt_tokens,
            cluster=cluster,
            attempt_id=new_attempt_id(now_ms=int(self.now.timestamp() * 1000)),
        )
        hold = replace(hold, clamp=clamp)
        self.holds.append(hold)
        return hold

    def _known(self, index):
        """Mostly a late one: those are open more often."""
        return self.holds[-1 - index % len(self.holds)]

    def _owner_of(self, hold):
        living = [owner.id for owner in self.owners]
        return living.index(hold.owner) if hold.owner in living else 0

    def _commit_at_times(self, is_now):
        batch = self.batch
        if is_now or len(batch.holds) + len(batch.settlements) + len(batch.checkpoints) >= OPERATIONS_MAX:
            self.commit()

    def _compare(self):
        assert windows() == self.model.windows()
        assert reservations() == self.model.reservations()
        assert rows() == self.model.rows()
        assert rollups() == self.model.rollups()
        assert days_of_pruned_hours() == self.model.days_of_pruned_hours()
        for claim in CLAIMS:
            spent, held = self.model.windows().get(claim.window_id, (0, 0))
            is_kept = claim.is_hard and claim.window_id not in self.model.crossed
            assert not is_kept or spent + held <= self.limits[claim.window_id]
        found = reconcile()
        assert found.drift == ()
        assert {uuid.UUID(attempt.attempt_id) for attempt in found.in_doubt} == self.model.in_doubt()


def windows():
    sums = BudgetWindow.objects.values_list("id", "spent_nanousd", "held_nanousd")
    return {window_id: (spent, held) for window_id, spent, held in sums}


def reservations():
    columns = ("attempt_id", "state", "held_nanousd", "output_tokens_checkpoint")
    return {row[0]: row[1:] for row in Reservation.objects.values_list(*columns)}


def rows():
    columns = ("attempt_id", "outcome", "held_nanousd", "cost_nanousd", "variance_nanousd", "is_estimate")
    return {row[0]: row[1:] for row in UsageRecord.objects.values_list(*columns)}


def rollups():
    columns = (
        "starts_at",
        "cluster",
        "requests",
        "failures",
        "estimates",
        "input_tokens",
        "output_tokens",
        "cost_nanousd",
    )
    found = SpendRollup.objects.filter(period="hour").values_list(*columns)
    assert len(found) == len({row[:2] for row in found})
    return {row[:2]: row[2:] for row in found}


def days_of_pruned_hours():
    """Requests and cost of the days that no longer have an hour, nor follow one that has."""
    oldest = SpendRollup.objects.filter(period="hour").order_by("starts_at").first()
    days = SpendRollup.objects.filter(period="day").order_by("starts_at")
    if oldest is not None:
        days = days.filter(starts_at__lt=oldest.starts_at - timedelta(hours=oldest.starts_at.hour))
    return {(row.starts_at, row.cluster): (row.requests, row.cost_nanousd) for row in days}


@pytest.fixture(autouse=True)
def _short_keeping(settings):
    settings.USAGE_KEPT_DAYS = settings.ROLLUP_HOURS_KEPT_DAYS = KEPT_DAYS


@pytest.mark.timeout(0 if IS_DEEP else 300)
def test_ledger_equals_its_model_after_any_operations():
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=80 if IS_DEEP else 30,
        deadline=None,
        derandomize=not IS_DEEP,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    run_state_machine_as_test(LedgerMachine, settings=chosen)
