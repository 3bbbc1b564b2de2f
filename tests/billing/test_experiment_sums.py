"""The arms' sums, moved by settling, by feedback and by pruning, and the report that reads them."""

import uuid
from datetime import timedelta

import pytest

from billing import ledger
from billing.entries import Batch
from billing.experiment_report import load_report, load_sums
from billing.feedback import FeedbackView, put_feedback
from billing.intervals import Estimate
from billing.models import ExperimentHour, ExperimentLatency, Feedback, UsageRecord
from billing.pruning import prune
from tests.billing.holds import KEY_ID, NOW, new_hold, new_settlement
from tests.changes import replace

pytestmark = pytest.mark.django_db(databases="__all__")


class Caller:
    """The parts of a principal that feedback looks at."""

    def __init__(self, *, team="team", key_id=KEY_ID):
        self.key_id, self.organisation, self.team = str(key_id), "Org", team


def settle(*, arm="llama", served="llama", ttft_ms=100, request_id=None, at=NOW, **given):
    hold = new_hold(
        held_nanousd=10**9,
        experiment="trial",
        arm=arm,
        served_model=served,
        at=at,
        attempt_id=given.pop("id", None),
    )
    if request_id:
        hold = replace(hold, request_id=request_id)
    settlement = replace(new_settlement(hold, at=at, **given), ttft_ms=ttft_ms)
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(settlements=[settlement]))
    return hold


def test_settled_attempts_add_up_by_arm_and_hour():
    settle(input_tokens=100, output_tokens=50)
    settle(input_tokens=300, output_tokens=50, ttft_ms=200)
    settle(outcome="failed", ttft_ms=None, is_void=True)
    settle(arm="mini", served="llama", input_tokens=100)
    settle(at=NOW + timedelta(hours=1), input_tokens=10)

    sums = load_sums(experiment="trial")

    assert ExperimentHour.objects.count() == 3
    assert {name: sums["llama"][name] for name in ("attempts", "errors", "crossed_over", "tokens")} == {
        "attempts": 4,
        "errors": 1,
        "crossed_over": 0,
        "tokens": 510,
    }
    costs = [200_000, 400_000, 0, 10_000]
    assert sums["llama"]["cost_nanousd"] == sum(costs)
    assert sums["llama"]["cost_squares"] == sum(cost**2 for cost in costs)
    assert (sums["llama"]["ttft_count"], sums["llama"]["ttft_ms"]) == (3, 400)
    assert sum(ExperimentLatency.objects.values_list("count", flat=True)) == 3
    assert (sums["mini"]["attempts"], sums["mini"]["crossed_over"]) == (0, 1)


def test_one_batch_adds_up_as_single_settlements_do():
    holds = [new_hold(held_nanousd=10**9, experiment="trial", arm="llama") for _ in range(3)]
    ledger.commit(Batch(holds=holds))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10) for hold in holds]))

    assert load_sums(experiment="trial")["llama"]["attempts"] == 3


def test_attempt_that_our_own_end_cut_says_nothing_of_the_arm():
    hold = new_hold(held_nanousd=10**9, experiment="trial", arm="llama")
    ledger.commit(Batch(holds=[hold]))
    cut = replace(new_settlement(hold, outcome="truncated"), error_code="draining")
    ledger.commit(Batch(settlements=[cut]))

    assert load_sums(experiment="trial")["llama"]["attempts"] == 0


def test_attempt_of_no_experiment_is_in_no_sum():
    hold = new_hold(held_nanousd=10**9)
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=5)]))

    row = UsageRecord.objects.get()
    assert (row.experiment, row.arm, ExperimentHour.objects.count()) == ("", "", 0)


def test_report_compares_with_the_control(django_assert_num_queries, settings):
    for ttft_ms in (100, 200, 300):
        settle(input_tokens=100, ttft_ms=ttft_ms)
        settle(arm="mini", served="mini", input_tokens=400, ttft_ms=ttft_ms * 2, outcome="truncated")

    with django_assert_num_queries(2, using=settings.LEDGER_DATABASE):
        control, mini = load_report(experiment="trial", arms=["llama", "mini"])

    assert (control.is_control, control.differences) == (True, {})
    assert control.cost_nanousd_per_request == Estimate(value=100_000, low=100_000, high=100_000)
    assert mini.cost_nanousd_per_mtok == Estimate(value=10**9, low=10**9, high=10**9)
    assert mini.differences["cost_nanousd_per_request"] == Estimate(value=300_000, low=300_000, high=300_000)
    assert mini.differences["ttft_ms_mean"].value == 200
    assert (control.error_rate.value, mini.error_rate.value) == (0, 1)
    assert mini.feedback_mean is None
    assert control.ttft_ms_p50.value == pytest.approx(200, rel=0.03)


def test_report_of_nothing_says_nothing():
    (arm,) = load_report(experiment="trial", arms=["llama"])

    assert (arm.attempts, arm.error_rate, arm.ttft_ms_p95) == (0, None, None)


# --- Feedback


def say(score, *, caller=None, request_id="req_9", comment=""):
    return put_feedback(
        principal=caller or Caller(), request_id=request_id, score=score, comment=comment, now=NOW
    )


def feedback_sums(arm="llama"):
    sums = load_sums(experiment="trial")[arm]
    return sums["feedback_count"], sums["feedback_score"], sums["feedback_squares"]


def test_later_feedback_of_the_same_key_replaces_the_first():
    settle(request_id="req_9")

    assert say(0.5) == FeedbackView(request_id="req_9", model="llama", score=0.5, comment="", is_new=True)
    assert say(1, comment="better").is_new is False

    (kept,) = Feedback.objects.all()
    assert (kept.score, kept.comment, kept.experiment, kept.arm) == (1, "better", "trial", "llama")
    assert feedback_sums() == (1, 1.0, 1.0)


def test_each_key_of_the_team_has_its_say():
    settle(request_id="req_9")
    say(1)
    say(0, caller=Caller(key_id=uuid.UUID(int=43)))

    assert feedback_sums() == (2, 1.0, 1.0)


def test_feedback_is_of_the_attempt_that_was_seen():
    settle(request_id="req_9", outcome="failed", is_void=True, ttft_ms=None)
    settle(request_id="req_9", served="mini", input_tokens=5)

    assert say(1).model == "mini"
    # It crossed over: the arm is not praised for another's answer.
    assert feedback_sums()[0] == 0


@pytest.mark.parametrize("caller", [Caller(team="others")])
def test_feedback_of_another_team_finds_nothing(caller):
    settle(request_id="req_9")

    assert say(1, caller=caller) is None
    assert say(1, request_id="req_unknown") is None
    assert Feedback.objects.count() == 0


def test_feedback_goes_with_its_attempt_and_the_arms_sums_stay(settings):
    settings.USAGE_KEPT_DAYS = 30
    old = NOW - timedelta(days=100)
    attempt_id = uuid.UUID(int=int(old.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62)
    settle(id=attempt_id, at=old, request_id="req_9", input_tokens=5)
    say(1)

    prune(now=NOW, pause=lambda _s: None)

    assert (Feedback.objects.count(), UsageRecord.objects.count()) == (0, 0)
    assert feedback_sums() == (1, 1.0, 1.0)
