"""Starts gateways that kill themselves at a named point: `python -m tests.crash.server`, a line of JSON each.

It imports everything once and forks a process per start, so that hundreds of starts take little. A started
process runs `manage.py serve` as it is, only that functions of the real modules are wrapped: the code that
ships has no hook. {"port", "log", "point": "name:count" or null} is answered with the process's id; the
name is one of tests/crash/points.py, and the kill is the n-th pass of it.
"""

import ctypes
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from uuid import UUID

import django
import orjson

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django.setup()

import uvicorn.protocols.http.httptools_impl  # noqa: E402, F401 -- once, not in each process
import uvloop  # noqa: E402, F401
from django.core.management import call_command  # noqa: E402 -- apps first
from django.db.migrations.loader import MigrationLoader  # noqa: E402
from django.urls import get_resolver  # noqa: E402

import gateway.asgi  # noqa: E402, F401
from billing import group_commit, ledger, settlements  # noqa: E402
from billing import holds as holds_module  # noqa: E402
from billing.ownership import Owner  # noqa: E402
from gateway.attempt import Reader  # noqa: E402
from gateway.fleet import FleetKeeper  # noqa: E402
from gateway.outbox import Outbox  # noqa: E402
from gateway.streaming import DONE  # noqa: E402
from gateway.upstream import Upstreams  # noqa: E402
from tests.crash.points import BY_NAME, INJECTED  # noqa: E402

DIE_WITH_PARENT = 1
MIDDLE_CHUNK = 4


class Trap:
    """Kills this process when the armed point has been passed so often. Points are passed in any thread."""

    def __init__(self, *, name, count):
        assert name in BY_NAME, name
        self.name = name
        self._left = count
        self._lock = threading.Lock()

    def reach(self, name, *, is_met=True):
        if name != self.name or not is_met:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                # The thread that sends it never comes back.
                os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner, name, *, before=None, after=None):
    """Call `before` and `after` with the wrapped function's arguments, around it."""
    inner = getattr(owner, name)

    @contextmanager
    def around(arguments, options):
        if before is not None:
            before(*arguments, **options)
        yield
        if after is not None:
            after(*arguments, **options)

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def outer(*arguments, **options):
            with around(arguments, options):
                return await inner(*arguments, **options)

    else:

        @functools.wraps(inner)
        def outer(*arguments, **options):
            with around(arguments, options):
                return inner(*arguments, **options)

    setattr(owner, name, outer)


def arm(trap):
    """Every point of tests/crash/points.py, in its order."""
    arm_ledger(trap)
    arm_release(trap)
    arm_delivery(trap)
    arm_process(trap)


def arm_ledger(trap):
    def holds(batch):
        return bool(batch.holds)

    def settles(batch):
        return bool(batch.settlements) and not batch.holds

    def fails_over(batch):
        return any(settlement.outcome == "failed" for settlement in batch.settlements) and bool(batch.holds)

    def before_commit(batch):
        trap.reach("hold.before_commit", is_met=holds(batch))
        trap.reach("settle.before_commit", is_met=settles(batch))
        trap.reach("failover.before_commit", is_met=fails_over(batch))

    def after_commit(batch):
        trap.reach("hold.after_commit", is_met=holds(batch))
        trap.reach("settle.after_commit", is_met=settles(batch))
        trap.reach("failover.after_commit", is_met=fails_over(batch))
        trap.reach("checkpoint.after_commit", is_met=bool(batch.checkpoints))

    def after_settlements(cursor, connection, written):
        failed = [settlement for settlement in written if settlement.outcome == "failed"]
        trap.reach("settle.in_transaction", is_met=bool(written) and not failed)
        trap.reach("failover.in_transaction", is_met=bool(failed))

    def after_resolve(entries, result_of):
        trap.reach("hold.resolved", is_met=any(entry.hold for entry in entries))
        trap.reach("settle.resolved", is_met=any(entry.settlement for entry in entries))

    wrap(ledger, "commit", before=before_commit, after=after_commit)
    wrap(holds_module, "_insert_holds", after=lambda *_, **__: trap.reach("hold.in_transaction"))
    wrap(
        settlements,
        "_close_reservations",
        after=lambda cursor, connection, chosen, *, state: trap.reach("settle.closed", is_met=bool(chosen)),
    )
    wrap(settlements, "write_settlements", after=after_settlements)
    wrap(
        holds_module,
        "write_checkpoints",
        after=lambda cursor, connection, noted: trap.reach("checkpoint.in_transaction", is_met=bool(noted)),
    )
    wrap(group_commit, "_resolve", after=after_resolve)


def arm_release(trap):
    """The first COMMIT of a hold counts, and its answer is lost."""
    is_lost = threading.Event()

    def lose(batch):
        if batch.holds and not is_lost.is_set():
            is_lost.set()
            raise ledger.LostCommitError(INJECTED)

    if trap.name.startswith("release."):
        wrap(ledger, "commit", after=lose)
    wrap(
        ledger,
        "release",
        before=lambda *, lost, now: trap.reach("release.before"),
        after=lambda *, lost, now: trap.reach("release.after_commit"),
    )
    wrap(
        settlements,
        "write_tombstones",
        after=lambda cursor, connection, lost: trap.reach("release.in_transaction"),
    )


def arm_delivery(trap):
    passed: dict[UUID, int] = {}

    def before_pass_on(reader, data, attempt, outbox, patience, headers):
        passed[attempt.hold.attempt_id] = passed.get(attempt.hold.attempt_id, 0) + 1
        trap.reach("relay.first_chunk", is_met=passed[attempt.hold.attempt_id] == 1)

    def after_pass_on(reader, data, attempt, outbox, patience, headers):
        trap.reach("relay.first_chunk_passed", is_met=passed[attempt.hold.attempt_id] == 1)
        trap.reach("relay.middle_chunk", is_met=passed[attempt.hold.attempt_id] == MIDDLE_CHUNK)

    wrap(
        Upstreams,
        "send",
        before=lambda *_, **__: trap.reach("send.before"),
        after=lambda *_, **__: trap.reach("send.after"),
    )
    wrap(Reader, "_pass_on", before=before_pass_on, after=after_pass_on)
    wrap(Reader, "relay_stream", after=lambda *_: trap.reach("relay.end"))
    wrap(Reader, "read_plain", after=lambda *_: trap.reach("plain.read"))
    wrap(
        Outbox,
        "put",
        before=lambda outbox, data: trap.reach("done.before", is_met=data == DONE),
        after=lambda outbox, data: trap.reach("done.after", is_met=data == DONE),
    )
    wrap(
        Outbox,
        "start",
        before=lambda outbox, reply: trap.reach("reply.before", is_met=reply.body is not None),
        after=lambda outbox, reply: trap.reach("reply.after", is_met=reply.body is not None),
    )


def arm_process(trap):
    wrap(FleetKeeper, "_take", after=lambda keeper, snapshot: trap.reach("fleet.reload"))
    wrap(Owner, "claim", after=lambda owner: trap.reach("start.claimed"))
    wrap(
        ledger,
        "mark_in_doubt",
        before=lambda *, now: trap.reach("start.before_mark"),
        after=lambda *, now: trap.reach("start.after_mark"),
    )
    wrap(
        Owner,
        "release",
        before=lambda owner: trap.reach("stop.before_release"),
        after=lambda owner: trap.reach("stop.after_release"),
    )


def serve(order):
    """In the new process: die with the parent, write to the log, arm, serve."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    if order["point"]:
        name, _, count = order["point"].partition(":")
        arm(Trap(name=name, count=int(count)))
    call_command("serve", port=order["port"])


def main():
    # Read once, not in each process.
    MigrationLoader(None)
    assert get_resolver().url_patterns
    # Nobody asks how a process ended: the kernel takes the dead away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        process_id = os.fork()
        if process_id == 0:
            code = 1
            try:
                serve(orjson.loads(line))
                code = 0
            except BaseException:  # noqa: BLE001 -- the edge of a process: its log shows it
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(f"{process_id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
