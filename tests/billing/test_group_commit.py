"""The thread that commits in groups: callers hear of the commit, refusals and outages, each once."""

import asyncio
import threading

import pytest
from django.conf import settings
from django.db import OperationalError, connections

from billing import ledger
from billing.entries import Batch, BudgetExceededError, LedgerError, LedgerUnavailableError
from billing.group_commit import GroupCommit
from billing.models import BudgetWindow, Reservation, UsageRecord
from billing.reconciliation import reconcile
from tests.billing.holds import NOW, new_claim, new_hold, new_settlement

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)


@pytest.fixture
def commits():
    thread = GroupCommit(pause=lambda _seconds: None)
    thread.start()
    yield thread
    thread.stop()


async def in_thread(query):
    """Run a query in a thread and give its connection back: a kept one would block the clean-up."""

    def run():
        try:
            return query()
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


async def count(model):
    return await in_thread(model.objects.count)


async def test_hold_is_committed_when_the_caller_goes_on(commits):
    await commits.hold(new_hold())

    assert await count(Reservation) == 1


async def test_many_callers_share_few_commits(commits):
    holds = [new_hold(held_nanousd=10_000) for _ in range(200)]

    await asyncio.gather(*(commits.hold(hold) for hold in holds))
    await asyncio.gather(*(commits.settle(new_settlement(hold, input_tokens=1)) for hold in holds))

    assert (await count(Reservation), await count(UsageRecord)) == (200, 200)
    assert commits.commit_count < 100


async def test_refused_hold_raises_to_its_caller_alone(commits):
    claim = new_claim(limit_nanousd=1_000)
    results = await asyncio.gather(
        *(commits.hold(new_hold(held_nanousd=1_000, claims=[claim])) for _ in range(5)),
        return_exceptions=True,
    )

    assert sorted(type(result).__name__ for result in results) == ["BudgetExceededError"] * 4 + ["Hold"]


async def test_failover_settles_and_holds_together(commits):
    claim = new_claim(limit_nanousd=1_000)
    first, second = (new_hold(held_nanousd=1_000, claims=[claim]) for _ in range(2))
    await commits.hold(first)

    await commits.hold(second, replaced=new_settlement(first, outcome="failed", is_void=True))

    window = await in_thread(BudgetWindow.objects.get)
    assert (window.spent_nanousd, window.held_nanousd) == (0, 1_000)


async def test_hold_is_committed_though_its_caller_is_cancelled(commits):
    task = asyncio.ensure_future(commits.hold(new_hold()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await commits.hold(new_hold())

    assert await count(Reservation) == 2


async def test_outage_fails_holds_at_once_and_settlements_after_retries(commits, monkeypatch):
    hold = new_hold()
    await commits.hold(hold)
    tries = []

    def broken(batch):
        tries.append(batch)
        if len(tries) < 4:
            raise OperationalError("the database is away")
        return commit(batch)

    commit = ledger.commit
    monkeypatch.setattr(ledger, "commit", broken)

    with pytest.raises(LedgerUnavailableError):
        await commits.hold(new_hold())
    await commits.settle(new_settlement(hold))

    assert (len(tries), await count(UsageRecord), commits.is_available) == (4, 1, True)


async def test_settlement_gives_up_after_its_time(monkeypatch):
    now_s = [0.0]
    thread = GroupCommit(
        clock=lambda: now_s[0], pause=lambda seconds: now_s.__setitem__(0, now_s[0] + seconds)
    )
    monkeypatch.setattr(ledger, "commit", lambda _batch: (_ for _ in ()).throw(OperationalError("away")))
    thread.start()

    with pytest.raises(LedgerUnavailableError):
        await thread.settle(new_settlement(new_hold()))

    thread.stop()
    assert 10.0 <= now_s[0] <= 10.5


@pytest.fixture
def lost_acknowledgement(monkeypatch):
    """Arms the next COMMIT: "after" it counts and its answer is lost, "before" it never gets there."""
    armed = []
    commit_of = {}
    wrapper_class = type(connections[settings.LEDGER_DATABASE])

    def commit(wrapper):
        when = armed.pop() if armed else None
        if when == "before":
            raise OperationalError("the server closed the connection before the COMMIT")
        commit_of["real"](wrapper)
        if when == "after":
            raise OperationalError("the server closed the connection after the COMMIT")

    commit_of["real"] = wrapper_class._commit
    monkeypatch.setattr(wrapper_class, "_commit", commit)
    return armed


@pytest.mark.parametrize("when", ["before", "after"])
async def test_hold_whose_commit_got_no_answer_is_refused_and_freed(commits, lost_acknowledgement, when):
    claim = new_claim(limit_nanousd=1_000)
    hold = new_hold(held_nanousd=1_000, claims=[claim])
    lost_acknowledgement.append(when)

    with pytest.raises(LedgerUnavailableError):
        await commits.hold(hold)
    await asyncio.to_thread(commits.stop)

    window = await in_thread(BudgetWindow.objects.first)
    row = await in_thread(UsageRecord.objects.get)
    found = await in_thread(reconcile)
    assert ((window and window.spent_nanousd) or 0, (window and window.held_nanousd) or 0) == (0, 0)
    assert (row.attempt_id, row.outcome, row.error_code, row.cost_nanousd) == (
        hold.attempt_id,
        "failed",
        "ledger_unavailable",
        0,
    )
    assert (await in_thread(Reservation.objects.get)).state == "void"
    assert found.drift == ()


async def test_hold_that_arrives_after_its_release_is_shut_out(commits):
    hold = new_hold(held_nanousd=1_000, claims=[new_claim(limit_nanousd=1_000)])

    await in_thread(lambda: ledger.release(lost=[hold], now=NOW))
    await commits.hold(hold)

    window = await in_thread(BudgetWindow.objects.get)
    assert (window.spent_nanousd, window.held_nanousd) == (0, 0)
    assert (await in_thread(reconcile)).drift == ()


async def test_release_waits_for_a_hold_that_is_being_committed(commits):
    """Two transactions meet on the attempt's id: the release goes on when the hold's has ended."""
    hold = new_hold(held_nanousd=1_000, claims=[new_claim(limit_nanousd=1_000)])
    is_written, may_end = threading.Event(), threading.Event()

    def hold_slowly():
        connection = connections[settings.LEDGER_DATABASE]
        with ledger.ledger_transaction(), connection.cursor() as cursor:
            ledger._write(cursor, connection, Batch(holds=[hold]))
            is_written.set()
            assert may_end.wait(5)

    def release():
        assert is_written.wait(5)
        threading.Timer(0.1, may_end.set).start()
        ledger.release(lost=[hold], now=NOW)

    await asyncio.gather(in_thread(hold_slowly), in_thread(release))

    window = await in_thread(BudgetWindow.objects.get)
    assert (window.spent_nanousd, window.held_nanousd) == (0, 0)
    assert (await in_thread(Reservation.objects.get)).state == "void"


async def test_release_is_tried_again_until_it_is_committed(monkeypatch):
    pauses, tries = [], []
    thread = GroupCommit(pause=pauses.append)
    hold = new_hold()

    def lose(_batch):
        monkeypatch.setattr(ledger, "commit", commit)
        raise ledger.LostCommitError("no answer")

    def refuse(**arguments):
        tries.append(arguments)
        if len(tries) < 3:
            raise OperationalError("still away")
        release(**arguments)
        is_released.set()

    is_released = threading.Event()
    commit, release = ledger.commit, ledger.release
    monkeypatch.setattr(ledger, "commit", lose)
    monkeypatch.setattr(ledger, "release", refuse)
    thread.start()
    with pytest.raises(LedgerUnavailableError):
        await thread.hold(hold)
    assert await asyncio.to_thread(is_released.wait, 5)
    await asyncio.to_thread(thread.stop)

    assert (len(tries), (await in_thread(Reservation.objects.get)).state) == (3, "void")


async def test_one_bad_entry_does_not_spoil_its_group(commits):
    bad = new_hold(held_nanousd=2**80)  # no column holds it
    results = await asyncio.gather(
        *(commits.hold(hold) for hold in (new_hold(), bad, new_hold())), return_exceptions=True
    )

    assert [type(result).__name__ for result in results] == ["Hold", "LedgerUnavailableError", "Hold"]
    assert await count(Reservation) == 2


async def test_stop_commits_what_is_queued():
    thread = GroupCommit()
    tasks = [asyncio.ensure_future(thread.hold(new_hold())) for _ in range(3)]
    await asyncio.sleep(0)
    thread.start()

    await asyncio.to_thread(thread.stop)
    await asyncio.gather(*tasks)

    assert await count(Reservation) == 3


async def test_checkpoint_waits_for_nobody_and_is_written(commits):
    hold = new_hold()
    await commits.hold(hold)

    commits.checkpoint(attempt_id=hold.attempt_id, output_tokens=7, at=NOW)
    await commits.hold(new_hold())

    reservation = await in_thread(lambda: Reservation.objects.get(attempt_id=hold.attempt_id))
    assert reservation.output_tokens_checkpoint == 7


def test_refusal_is_a_ledger_error():
    assert issubclass(BudgetExceededError, LedgerError)
