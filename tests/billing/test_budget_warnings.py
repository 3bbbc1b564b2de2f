"""Who is to be warned of which budget, once."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import budget_warnings, keys
from billing.budget_warnings import claim_due, mark_failed, mark_sent, note_warnings
from billing.budgets import override_budget, put_budget
from billing.models import Budget, BudgetWarning, BudgetWindow
from billing.windows import window_of

pytestmark = pytest.mark.django_db(databases="__all__")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
USD = 1_000_000_000


@pytest.fixture
def budget():
    organisation_id = keys.put_organisation(name="acme")
    budget_id = put_budget(
        organisation_id=organisation_id, limit_nanousd=100 * USD, window="month", is_hard=True
    )
    Budget.objects.filter(id=budget_id).update(
        warning_percents=[50, 80, 100],
        warning_emails=["ops@example.com"],
        warning_webhook="https://hooks.example.com/x",
    )
    return Budget.objects.get(id=budget_id)


def spend(budget, usd, *, held=0, now=NOW):
    span = window_of(window=budget.window, timezone=budget.timezone, now=now)
    BudgetWindow.objects.update_or_create(
        id=budget_warnings.window_id(budget=budget, span=span),
        defaults={
            "budget_id": budget.id,
            "starts_at": span.starts_at,
            "ends_at": span.ends_at,
            "spent_nanousd": usd * USD,
            "held_nanousd": held * USD,
        },
    )


def noted():
    return sorted(BudgetWarning.objects.values_list("percent", "channel", "target", "spent_nanousd"))


def test_passed_share_is_noted_once_for_each_target(budget):
    spend(budget, 55)

    assert [note_warnings(now=NOW), note_warnings(now=NOW + timedelta(minutes=1))] == [2, 0]
    assert noted() == [
        (50, "email", "ops@example.com", 55 * USD),
        (50, "webhook", "https://hooks.example.com/x", 55 * USD),
    ]


def test_only_the_highest_of_several_shares_is_told(budget):
    spend(budget, 100)

    note_warnings(now=NOW)

    assert {percent for percent, *_ in noted()} == {100}


@pytest.mark.parametrize(("spent", "held", "count"), [(49, 0, 0), (49, 51, 0), (50, 0, 2), (0, 0, 0)])
def test_what_is_only_held_warns_nobody(budget, spent, held, count):
    spend(budget, spent, held=held)

    assert note_warnings(now=NOW) == count


def test_override_counts_while_it_lasts_and_arms_anew(budget):
    spend(budget, 55)
    override_budget(
        budget_id=budget.id,
        limit_nanousd=200 * USD,
        until=NOW + timedelta(days=1),
        reason="launch",
        now=NOW,
    )

    assert note_warnings(now=NOW) == 0
    assert note_warnings(now=NOW + timedelta(days=1)) == 2


def test_next_window_warns_again(budget):
    spend(budget, 60)
    note_warnings(now=NOW)
    later = NOW + timedelta(days=30)

    assert note_warnings(now=later) == 0
    spend(budget, 60, now=later)
    assert note_warnings(now=later) == 2


def test_budget_without_targets_is_not_noted(budget):
    Budget.objects.update(warning_emails=[], warning_webhook="")
    spend(budget, 60)

    assert note_warnings(now=NOW) == 0


def test_due_message_is_claimed_by_one_sender_and_again_when_that_one_died(budget):
    spend(budget, 60)
    note_warnings(now=NOW)

    first, second = claimed(NOW), claimed(NOW)
    after = claimed(NOW + budget_warnings.CLAIM)

    assert [len(found) for found in (first, second, after)] == [2, 0, 2]
    assert {found.id for found in first} == {found.id for found in after}
    warning = next(found for found in first if found.channel == "email")
    assert (warning.owner, warning.percent, warning.limit_nanousd) == ('organisation "acme"', 50, 100 * USD)
    assert (warning.starts_at, warning.ends_at) == (
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 4, 1, tzinfo=UTC),
    )


def test_sent_message_is_not_due_again(budget):
    spend(budget, 60)
    note_warnings(now=NOW)
    for warning in claimed(NOW):
        mark_sent(warning_id=warning.id, now=NOW)

    assert claimed(NOW + timedelta(days=1)) == []
    assert set(BudgetWarning.objects.values_list("state", "sent_at")) == {("sent", NOW)}


def test_failed_message_is_tried_later_and_later_and_given_up(budget):
    spend(budget, 60)
    Budget.objects.update(warning_emails=[])
    note_warnings(now=NOW)
    now, pauses = NOW, []
    for _ in range(budget_warnings.TRIES_MAX):
        (warning,) = claimed(now)
        is_over = mark_failed(warning_id=warning.id, reason="x" * 500, draw=0.5, now=now)
        row = BudgetWarning.objects.get()
        pauses.append((row.next_try_at - now).total_seconds())
        now = row.next_try_at

    assert is_over
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600]
    assert (row.state, row.error) == ("failed", "x" * budget_warnings.ERROR_CHARACTERS)
    assert claimed(now + timedelta(days=1)) == []


@pytest.mark.parametrize("budget_count", [1, 3])
def test_noting_asks_as_many_queries_however_many_budgets(budget_count, django_assert_num_queries, settings):
    for number in range(budget_count):
        organisation_id = keys.put_organisation(name=f"acme {number}")
        put_budget(organisation_id=organisation_id, limit_nanousd=100 * USD, window="month", is_hard=True)
    Budget.objects.update(warning_emails=["ops@example.com"])
    for budget in Budget.objects.all():
        spend(budget, 90)
    note_warnings(now=NOW)

    # The windows lie in the ledger's database, which is not counted where it is one apart.
    with django_assert_num_queries(3 if settings.LEDGER_DATABASE == "default" else 2):
        note_warnings(now=NOW)


def test_admin_shows_what_was_sent_and_what_failed(budget, admin_client):
    spend(budget, 60)
    note_warnings(now=NOW)
    for warning in claimed(NOW):
        if warning.channel == "email":
            mark_sent(warning_id=warning.id, now=NOW)

    page = admin_client.get("/admin/billing/budgetwarning/").content.decode()

    assert "$60.00 of $100.00" in page
    assert ("Sent" in page, "Due" in page) == (True, True)
    assert admin_client.get("/admin/billing/budgetwarning/add/").status_code == 403


def claimed(now):
    return list(claim_due(clock=lambda: now))


def test_message_is_claimed_when_it_is_its_turn(budget):
    """A slow receiver must not use up the claims, and the tries, of those that wait behind it."""
    spend(budget, 60)
    note_warnings(now=NOW)
    moments = iter([NOW, NOW, NOW + timedelta(hours=1)])
    sending = claim_due(clock=lambda: next(moments))

    first = next(sending)
    waiting = BudgetWarning.objects.exclude(id=first.id).get()
    by_another = claimed(NOW)

    assert (waiting.tries, waiting.next_try_at) == (0, NOW)
    assert [warning.id for warning in by_another] == [waiting.id]
    assert list(sending) == []


def test_warnings_of_windows_long_over_are_pruned(budget, settings):
    spend(budget, 60)
    note_warnings(now=NOW)
    count = BudgetWarning.objects.count()
    later = NOW + budget_warnings.KEPT

    kept = budget_warnings.prune_warnings(now=later)
    Budget.objects.update(window="total")
    of_total = budget_warnings.prune_warnings(now=later + timedelta(days=1))
    Budget.objects.update(window="month")

    assert (kept, of_total) == (0, 0)
    assert budget_warnings.prune_warnings(now=later + timedelta(days=1)) == count > 0
