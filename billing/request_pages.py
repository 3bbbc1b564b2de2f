"""The page of one request: where it went, attempt by attempt, and why."""

from dataclasses import dataclass
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.amounts import usd_text
from billing.attempt_log import LoggedAttempt, load_attempts
from billing.models import UsageRecord
from billing.settled_rows import REQUEST_ID_CHARACTERS_MAX

OUTCOME_BADGES = {"ok": "ok", "cancelled": "muted", "truncated": "warn", "failed": "bad", "in_doubt": "warn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCard:
    """An attempt as it is shown."""

    attempt: LoggedAttempt
    badge: str
    outcome: str
    cost: str
    held: str
    explanation: list[str]
    difference: str
    record_url: str


@require_safe
@staff_member_required
def show_request(request: HttpRequest, request_id: str) -> HttpResponse:
    """A request's attempts; 404 where none is settled (yet)."""
    attempts = load_attempts(request_id=request_id)
    context = {
        "request_id": request_id,
        "attempts": [_card(attempt) for attempt in attempts],
        "first": attempts[0] if attempts else None,
        "total": usd_text(sum(attempt.cost_nanousd for attempt in attempts)),
        "now": timezone.now(),  # noqa: TID251 -- an edge: a page is drawn
    }
    return render(request, "billing/request.html", context, status=200 if attempts else 404)


@require_safe
@staff_member_required
def find_request(request: HttpRequest) -> HttpResponse:
    """From the search field to the page."""
    wanted = request.GET.get("id", "").strip()[:REQUEST_ID_CHARACTERS_MAX]
    if not wanted or "/" in wanted:
        context: dict[str, Any] = {"request_id": wanted, "attempts": [], "first": None}
        return render(request, "billing/request.html", context, status=404 if wanted else 200)
    return HttpResponseRedirect(reverse("billing:request", args=[wanted]))


def _card(attempt: LoggedAttempt) -> AttemptCard:
    other = attempt.next_best
    expected = attempt.decision.get("cost")
    difference = ""
    if other is not None and isinstance(expected, int) and other[1] > expected:
        difference = f"{usd_text(other[1] - expected)} less than at {other[0]}, by estimate"
    return AttemptCard(
        attempt=attempt,
        badge=OUTCOME_BADGES.get(attempt.outcome, "muted"),
        outcome=UsageRecord.Outcome(attempt.outcome).label,
        cost=usd_text(attempt.cost_nanousd),
        held=usd_text(attempt.held_nanousd),
        explanation=attempt.explanation,
        difference=difference,
        record_url=reverse("admin:billing_usagerecord_change", args=[attempt.attempt_id]),
    )
