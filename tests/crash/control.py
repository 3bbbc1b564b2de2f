"""tests.e2e.control, and what a comparison of the three ledgers asks of the gateway's besides."""

import os
import time
from datetime import timedelta
from uuid import uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django.setup()

from django.forms import model_to_dict  # noqa: E402 -- apps first

from billing import ledger, ownership, reconciliation  # noqa: E402
from billing.entries import Batch, Hold  # noqa: E402
from billing.models import Budget, Reservation, UsageRecord  # noqa: E402
from routing.cost import cost_nanousd  # noqa: E402
from routing.types import Rate  # noqa: E402
from tests.e2e import control  # noqa: E402

HOLDS_PER_BATCH = 500


def load_attempts():
    """Every reservation and every usage row, as plain values."""
    fields = ("attempt_id", "request_id", "state", "held_nanousd", "output_tokens_checkpoint")
    reservations = Reservation.objects.values(*fields, "attribution")
    return {
        "reservations": [
            {**{name: row[name] for name in fields}, "rate": row["attribution"]["rate"]}
            for row in reservations
        ],
        "rows": [
            {
                **model_to_dict(row, exclude=["decision"]),
                "full_cost_nanousd": cost_nanousd(usage=control.usage_of(row), rate=Rate(**row.rate)),
            }
            for row in UsageRecord.objects.iterator()
        ],
    }


def load_limits():
    """Limits of the hard budgets, by their id: a window's id begins with it."""
    budgets = Budget.objects.filter(is_hard=True)
    return {str(budget.id): budget.limit_nanousd for budget in budgets}


def count_phantoms():
    """Reservations held by an owner whose death is proven: nobody will ever settle them."""
    held = Reservation.objects.filter(state="held")
    owners = set(held.values_list("owner", flat=True))
    dead = [owner for owner in owners if ownership.is_proven_dead(owner)]
    return held.filter(owner__in=dead).count()


def count_held():
    return Reservation.objects.filter(state="held").count()


def reconcile():
    return reconciliation.reconcile().as_document()


def settle_in_doubt():
    return reconciliation.settle_in_doubt(now=control.now())


def measure_recovery(*, holds):
    """Milliseconds to mark so many holds of a dead owner in doubt, and to end them, per 1,000 holds."""
    template = Reservation.objects.first()
    owner, now = uuid4(), control.now()
    for first in range(0, holds, HOLDS_PER_BATCH):
        count = min(HOLDS_PER_BATCH, holds - first)
        ledger.commit(
            Batch(
                holds=[
                    Hold(
                        attempt_id=uuid4(),
                        request_id="req_recovery",
                        owner=owner,
                        held_nanousd=1,
                        claims=(),
                        attribution=template.attribution,
                        at=now - timedelta(seconds=1),
                    )
                    for _ in range(count)
                ]
            )
        )
    started_s = time.monotonic()
    marked = ledger.mark_in_doubt(now=now)
    marked_s = time.monotonic()
    ended = reconciliation.settle_in_doubt(now=control.now())
    ended_s = time.monotonic()
    assert (marked, ended) == (holds, holds)
    return {
        "mark_ms": round((marked_s - started_s) * 1_000_000 / holds, 1),
        "settle_ms": round((ended_s - marked_s) * 1_000_000 / holds, 1),
    }


control.CALLS.update(
    {
        function.__name__: function
        for function in (
            load_attempts,
            load_limits,
            count_phantoms,
            count_held,
            reconcile,
            settle_in_doubt,
            measure_recovery,
        )
    }
)

if __name__ == "__main__":
    control.main()
