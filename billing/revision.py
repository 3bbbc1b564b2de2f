"""Counts the changes of keys, budgets and prices, so that gateways know when to load them again."""

from django.db.models import F

from billing.models import Revision

REVISION_ID = 1


def bump_revision() -> None:
    """Count one change; call it inside the transaction that makes the change."""
    if _add_one() == 0:
        # Two first writers may race for the row: whoever comes second finds it and adds.
        Revision.objects.bulk_create([Revision(id=REVISION_ID)], ignore_conflicts=True)
        _add_one()


def lock_revision() -> None:
    """Let one writer at a time go on, up to the end of its transaction: for who reads before it writes."""
    locked = Revision.objects.select_for_update().filter(id=REVISION_ID)
    if not list(locked):
        Revision.objects.bulk_create([Revision(id=REVISION_ID)], ignore_conflicts=True)
        list(locked.all())


def get_revision() -> int:
    """The number of changes so far; one query."""
    number = Revision.objects.filter(id=REVISION_ID).values_list("number", flat=True).first()
    return number or 0


def _add_one() -> int:
    return Revision.objects.filter(id=REVISION_ID).update(number=F("number") + 1)
