"""Claims to life: a lock's loss is noticed before new holds, and all who share a ledger share its locks."""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections

from billing import ledger
from billing.databases import ledger_file
from billing.entries import Batch
from billing.group_commit import GroupCommit
from billing.models import Reservation, UsageRecord
from billing.ownership import Owner, is_proven_dead
from tests.billing.holds import NOW, new_claim, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)

ROOT = Path(__file__).resolve().parent.parent.parent
IS_POSTGRESQL = settings.DATABASES[settings.LEDGER_DATABASE]["ENGINE"].endswith("postgresql")
on_postgresql = pytest.mark.skipif(not IS_POSTGRESQL, reason="advisory locks are PostgreSQL's")
on_sqlite = pytest.mark.skipif(IS_POSTGRESQL, reason="lock files are for SQLite")


def end_session(owner):
    """As a restart of the server does: the session ends, and with it the lock."""
    backend = owner._connection.connection.info.backend_pid
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        assert cursor.fetchone() == (True,)


def test_living_owner_keeps_its_claim():
    with Owner() as owner:
        before = owner.id

        assert not owner.renew_if_lost()
        assert (owner.id, is_proven_dead(owner.id)) == (before, False)

    # PostgreSQL frees the lock when it notices that the session ended, a moment later.
    deadline_s = time.monotonic() + 5
    while not is_proven_dead(before):
        assert time.monotonic() < deadline_s


@on_postgresql
def test_owner_whose_session_ended_goes_on_under_a_new_epoch():
    with Owner() as owner:
        before = owner.id
        end_session(owner)

        assert owner.renew_if_lost()
        assert owner.id != before
        assert (is_proven_dead(before), is_proven_dead(owner.id)) == (True, False)
        assert not owner.renew_if_lost()


@on_postgresql
async def test_holds_after_a_lost_lock_stand_under_the_new_epoch(in_thread):
    owner = Owner()
    await in_thread(owner.claim)
    commits = GroupCommit(owner=owner)
    commits.start()
    claim = new_claim(limit_nanousd=100_000)
    early = new_hold(held_nanousd=50_000, claims=[claim], owner=owner.id)
    await commits.hold(early)
    await in_thread(lambda: end_session(owner))

    late = new_hold(held_nanousd=50_000, claims=[claim], owner=early.owner)
    await commits.hold(late)
    marked = await in_thread(lambda: ledger.mark_in_doubt(now=NOW))
    await commits.settle(new_settlement(early, input_tokens=10))
    await asyncio.to_thread(commits.stop)
    await in_thread(owner.release)

    states = await in_thread(lambda: dict(Reservation.objects.values_list("attempt_id", "state")))
    row = await in_thread(UsageRecord.objects.get)
    assert (marked, states) == (1, {early.attempt_id: "settled", late.attempt_id: "held"})
    assert (row.attempt_id, row.cost_nanousd) == (early.attempt_id, 10_000)


@pytest.fixture
def in_thread():
    async def run_in_thread(query):
        def run():
            try:
                return query()
            finally:
                connections.close_all()

        return await asyncio.to_thread(run)

    return run_in_thread


@on_sqlite
def test_process_with_another_data_folder_meets_the_ledgers_locks(tmp_path):
    """Two gateways, two data folders, one file: neither may take the other for dead."""
    script = (
        "import sys, uuid, django; django.setup();"
        "from billing.ownership import is_proven_dead;"
        "from billing.databases import ledger_file;"
        "print(ledger_file(), is_proven_dead(uuid.UUID(sys.argv[1])))"
    )
    name = connections[settings.LEDGER_DATABASE].settings_dict["NAME"]
    shared = Path(name).with_name(Path(name).name.replace("-ledger", ""))
    env = os.environ | {
        "GATEWAY_DATA_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{shared}",
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
    }

    with Owner() as owner:
        answer = subprocess.run(
            [sys.executable, "-c", script, str(owner.id)],
            cwd=ROOT,
            env=env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()

    assert answer == [str(ledger_file()), "False"]


@on_sqlite
def test_locks_lie_beside_the_ledgers_file():
    with Owner() as owner:
        ledger.commit(Batch(holds=[new_hold(owner=owner.id)]))

        file = ledger_file()
        assert file.with_suffix(".lock").exists()
        assert (file.with_name(f"{file.stem}-owners") / f"{owner.id}.lock").exists()


def test_unknown_owner_is_dead():
    assert is_proven_dead(uuid.uuid4())
