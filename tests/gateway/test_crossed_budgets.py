"""Keys from LiteLLM's key management: its rule for budgets, and its words when one is spent."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing import budgets, keys
from billing.entries import BudgetExceededError, WindowClaim
from billing.principals import load_principals
from gateway.accounting import WindowCalendar
from gateway.errors import error_body
from gateway.refusals import budget_refusal

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


@pytest.mark.django_db
@pytest.mark.parametrize("is_crossed", [True, False])
def test_budget_says_whether_it_may_be_crossed_whatever_its_organisation_is_called(is_crossed):
    team_id = keys.put_team(organisation_id=keys.put_organisation(name="litellm"), name="search")
    keys.issue_key(team_id=team_id, name="ci")
    budgets.put_budget(team_id=team_id, limit_nanousd=5, window="total", is_hard=True, is_crossed=is_crossed)
    (principal,) = load_principals().values()

    (claim,) = WindowCalendar().claims_of(principal, now=NOW)

    assert claim.is_crossed is is_crossed


def refused(*, owner, ends_at=None):
    claim = WindowClaim(
        window_id="w",
        budget_id=UUID(int=1),
        owner=owner,
        limit_nanousd=10_000_000,
        is_hard=True,
        starts_at=NOW,
        ends_at=ends_at,
        is_crossed=True,
    )
    error = BudgetExceededError(claim=claim, needed_nanousd=1, spent_nanousd=12_000_000, held_nanousd=345_678)
    return budget_refusal(error)


@pytest.mark.parametrize(
    ("owner", "ends_at", "message"),
    [
        (
            'key "ci"',
            None,
            (
                "Budget has been exceeded! Current cost: 0.012345678, Max budget: 0.01. Raise max_budget of "
                'key "ci" with POST /key/update or in Admin > Budgets.'
            ),
        ),
        (
            'team "search"',
            datetime(2026, 12, 1, tzinfo=UTC),
            (
                "Budget has been exceeded! Team=search Current cost: 0.012345678, Max budget: 0.01. It "
                'starts anew at 2026-12-01T00:00:00+00:00; or raise max_budget of team "search" with POST '
                "/team/update or in Admin > Budgets."
            ),
        ),
        (
            'organisation "litellm"',
            None,
            (
                "Budget has been exceeded! Current cost: 0.012345678, Max budget: 0.01. Raise max_budget of "
                'organisation "litellm" in Admin > Budgets.'
            ),
        ),
    ],
)
def test_refusal_has_litellms_words(owner, ends_at, message):
    error = refused(owner=owner, ends_at=ends_at)

    assert (error.http_status, error.code, error.headers) == (
        400,
        "budget_exceeded",
        (("x-should-retry", "false"),),
    )
    assert json.loads(error_body(error)) == {
        "error": {"message": message, "type": "budget_exceeded", "param": None, "code": "400"}
    }
