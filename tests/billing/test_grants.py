"""The serving role's rights: it writes the ledger by its protocol and cannot rewrite a usage row."""

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections, transaction

from billing import grants, ledger, tasks
from billing.entries import Batch
from billing.models import BudgetWindow, Reservation, UsageRecord
from tests.billing.holds import new_claim, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__")

ROLE = "tollgate serving"
IS_POSTGRESQL = django_settings.DATABASES[django_settings.LEDGER_DATABASE]["ENGINE"].endswith("postgresql")
on_postgresql = pytest.mark.skipif(not IS_POSTGRESQL, reason="SQLite has no roles")


@pytest.fixture
def as_role(db):
    """Creates the role and becomes it; the test's transaction takes both back."""
    with connections["default"].cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{ROLE}"')
        call_command("ledger_grants", role=ROLE, apply=True)
        cursor.execute(f'SET LOCAL ROLE "{ROLE}"')


def settle_one():
    hold = new_hold(held_nanousd=50_000, claims=[new_claim(limit_nanousd=10**9)])
    ledger.commit(Batch(holds=[hold]))
    ledger.commit(Batch(settlements=[new_settlement(hold, input_tokens=10)]))


@on_postgresql
def test_serving_role_holds_and_settles(as_role):
    settle_one()

    assert (Reservation.objects.get().state, BudgetWindow.objects.get().spent_nanousd) == ("settled", 10_000)


@on_postgresql
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_usagerecord SET cost_nanousd = 0",
        "DELETE FROM billing_usagerecord",
        "TRUNCATE billing_usagerecord",
        "DELETE FROM billing_usagerecord_default",
        "DROP TABLE billing_usagerecord_default",
    ],
)
def test_serving_role_cannot_change_usage_rows(as_role, change):
    settle_one()

    with connections["default"].cursor() as cursor:
        # Saying that it prunes does not help it.
        cursor.execute("SELECT set_config('tollgate.pruning', 'on', true)")
        with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), transaction.atomic():
            cursor.execute(change)
    assert UsageRecord.objects.get().cost_nanousd == 10_000


@on_postgresql
def test_pruning_is_left_to_the_owner(as_role):
    assert not grants.may_delete_usage()
    tasks.prune_ledger()


@on_postgresql
def test_command_prints_the_statements(capsys):
    call_command("ledger_grants", role=ROLE)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'GRANT USAGE ON SCHEMA public TO "{ROLE}";'
    assert lines[-1] == f'REVOKE UPDATE, DELETE, TRUNCATE ON billing_usagerecord FROM "{ROLE}";'


@on_postgresql
def test_command_names_what_was_refused():
    with pytest.raises(CommandError, match='role "nobody-knows" does not exist'):
        call_command("ledger_grants", role="nobody-knows", apply=True)


def test_command_needs_postgresql():
    if IS_POSTGRESQL:
        pytest.skip("this is PostgreSQL")
    with pytest.raises(CommandError, match="SQLite has no roles"):
        call_command("ledger_grants", role=ROLE)
