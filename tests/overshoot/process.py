"""One process of the overshoot harness: clients at the ledger, or the books that watch them.

`python -m tests.overshoot.process` answers a line of JSON with a line of JSON: {"call": name, "arguments":
{...}}. Its first line says `ready`.
"""

import asyncio
import os
import random
import select
import sys
import traceback

import django
import orjson

from tests.changes import replace

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django.setup()

from django.conf import settings  # noqa: E402 -- apps first
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.db.models import Sum  # noqa: E402

from billing.entries import BudgetExceededError, Clamp  # noqa: E402
from billing.group_commit import GroupCommit  # noqa: E402
from billing.models import BudgetWindow, Reservation, UsageRecord  # noqa: E402
from billing.ownership import Owner  # noqa: E402
from billing.reconciliation import reconcile  # noqa: E402
from tests.billing.holds import RATE, new_claim, new_hold, new_settlement  # noqa: E402

CLAMP = Clamp(input_tokens_max=40, output_tokens_max=400, output_tokens_min=16, choice_count=1, rate=RATE)
HELD_NANOUSD = CLAMP.held_nanousd(output_tokens=CLAMP.output_tokens_max)
# The budget pays a hundred requests and a half at their bound.
LIMIT_NANOUSD = HELD_NANOUSD * 201 // 2
# A client that was not refused for good by then never will be.
TRIES_MAX = 5_000
ANSWER_S_MAX = 0.02
RETRY_S = (0.02, 0.06)
SAMPLE_S = 0.005

HIGHEST_SQLITE = """
CREATE TABLE highest (id VARCHAR(64) PRIMARY KEY, nanousd BIGINT NOT NULL);
CREATE TRIGGER note_highest AFTER UPDATE ON billing_budgetwindow BEGIN
    INSERT INTO highest VALUES (NEW.id, NEW.spent_nanousd + NEW.held_nanousd)
    ON CONFLICT (id) DO UPDATE SET nanousd = max(highest.nanousd, excluded.nanousd);
END;
"""
HIGHEST_POSTGRESQL = """
CREATE TABLE highest (id VARCHAR(64) PRIMARY KEY, nanousd BIGINT NOT NULL);
CREATE FUNCTION note_highest() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO highest VALUES (NEW.id, NEW.spent_nanousd + NEW.held_nanousd)
    ON CONFLICT (id) DO UPDATE SET nanousd = greatest(highest.nanousd, excluded.nanousd);
    RETURN NULL;
END $$;
CREATE TRIGGER note_highest AFTER UPDATE ON billing_budgetwindow
FOR EACH ROW EXECUTE FUNCTION note_highest();
"""


def claims_of(seed, *, mode):
    """The budget that is spent, between a wide hard one and a soft one that every seed shares."""
    narrow = new_claim(limit_nanousd=LIMIT_NANOUSD, budget=seed + 100)
    return (
        replace(narrow, is_clamped=mode == "clamp"),
        new_claim(limit_nanousd=10**15, budget=1),
        new_claim(limit_nanousd=1, budget=2, is_hard=False),
    )


# --- The clients of one process.


class Spender:
    """So many clients that ask until they are refused for good, over one GroupCommit as a gateway has."""

    def __init__(self):
        self._owner = Owner()
        self._owner.claim()
        self._commits = GroupCommit(owner=self._owner)
        self._commits.start()

    def spend(self, *, seed, process, clients, mode):
        return asyncio.run(self._spend(seed=seed, process=process, clients=clients, mode=mode))

    def close(self):
        self._commits.stop()
        self._owner.release()

    async def _spend(self, *, seed, process, clients, mode):
        claims = claims_of(seed, mode=mode)
        chances = [random.Random(f"{seed} {process} {number}") for number in range(clients)]
        ended = await asyncio.gather(*(self._client(claims, chance, seed=seed) for chance in chances))
        return {name: sum(one[name] for one in ended) for name in ended[0]}

    async def _client(self, claims, chance, *, seed):
        tally = {"answers": 0, "clamped": 0, "came_again": 0, "refused_for_good": 0}
        for _ in range(TRIES_MAX):
            hold = replace(
                new_hold(held_nanousd=HELD_NANOUSD, claims=claims, owner=self._owner.id),
                request_id=f"seed-{seed}",
                clamp=CLAMP,
            )
            try:
                granted = await self._commits.hold(hold)
            except BudgetExceededError as error:
                if not error.is_temporary:
                    tally["refused_for_good"] += 1
                    return tally
                tally["came_again"] += 1
                await asyncio.sleep(chance.uniform(*RETRY_S))
                continue
            await asyncio.sleep(chance.uniform(0, ANSWER_S_MAX))
            await self._commits.settle(used(granted, chance))
            tally["answers"] += 1
            tally["clamped"] += granted.clamped_output_tokens is not None
        return tally


def used(granted, chance):
    """Any usage within the bounds of what was granted; some reach them, some use nothing of the answer."""
    tokens_max = granted.clamped_output_tokens
    if tokens_max is None:
        tokens_max = CLAMP.output_tokens_max
    share = chance.choice([0.0, 1.0, chance.random(), chance.random()])
    return new_settlement(
        granted,
        input_tokens=chance.randint(1, CLAMP.input_tokens_max),
        output_tokens=round(tokens_max * share),
    )


# --- The books.


def prepare():
    """Tables, and a trigger that notes the most that each window has ever spent and held."""
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
    connection = connections[settings.LEDGER_DATABASE]
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.executescript(HIGHEST_SQLITE)
    else:
        with connection.cursor() as cursor:
            cursor.execute(HIGHEST_POSTGRESQL)


def watch(*, seed):
    """What the budget's window has spent and holds, looked at until the next line comes."""
    (claim, *_) = claims_of(seed, mode="clamp")
    samples = highest = 0
    while not select.select([sys.stdin], [], [], SAMPLE_S)[0]:
        window = BudgetWindow.objects.filter(id=claim.window_id).first()
        if window is not None:
            samples += 1
            highest = max(highest, window.spent_nanousd + window.held_nanousd)
    return {"samples": samples, "sampled_nanousd": highest}


def audit(*, seed):
    """The seed's sums, from the window, from the trigger's notes and from the rows themselves."""
    (claim, *_) = claims_of(seed, mode="clamp")
    window = BudgetWindow.objects.get(id=claim.window_id)
    rows = UsageRecord.objects.filter(request_id=f"seed-{seed}")
    reservations = Reservation.objects.filter(request_id=f"seed-{seed}")
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute("SELECT nanousd FROM highest WHERE id = %s", [claim.window_id])
        (highest,) = cursor.fetchone()
    return {
        "limit_nanousd": LIMIT_NANOUSD,
        "highest_nanousd": highest,
        "spent_nanousd": window.spent_nanousd,
        "held_nanousd": window.held_nanousd,
        "rows": rows.count(),
        "rows_nanousd": rows.aggregate(cost=Sum("cost_nanousd"))["cost"],
        "surplus_nanousd": rows.aggregate(surplus=Sum("variance_nanousd"))["surplus"],
        "reservations": reservations.count(),
        "still_open": reservations.exclude(state="settled").count(),
    }


def prove():
    """What reconcile_ledger finds wrong with all seeds together."""
    return [str(problem) for problem in reconcile().drift]


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    spender = None
    answers.write("ready\n")
    answers.flush()
    for line in iter(sys.stdin.buffer.raw.readline, b""):
        question = orjson.loads(line)
        try:
            if question["call"] == "spend":
                spender = spender or Spender()
                result = spender.spend(**question["arguments"])
            else:
                calls = {"prepare": prepare, "watch": watch, "audit": audit, "prove": prove}
                result = calls[question["call"]](**question["arguments"])
            answer = {"result": result}
        except Exception:  # noqa: BLE001 -- the edge: the harness shows it
            answer = {"error": traceback.format_exc()}
        answers.write(orjson.dumps(answer).decode() + "\n")
        answers.flush()
    if spender is not None:
        spender.close()


if __name__ == "__main__":
    main()
