"""What the ledger adds to a request: `python -m tests.scale.commit --rate 200 --seconds 20`.

Open loop: attempts begin at the rate, whether those before have ended or not; each is held, and settled a
little later. Prints the wait for hold and settle on a new database: SQLite with synchronous NORMAL and FULL,
or PostgreSQL where DATABASE_URL names one.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime

SETTLED_AFTER_S = 0.3
KEYS = 50
CONTINUED = "TOLLGATE_SCALE_COMMIT"


async def offer(*, rate, seconds):
    """Hold and settle in an open loop; gives back the waits and how late the loop itself was, in ms."""
    import django  # noqa: PLC0415 -- its settings are named by the process that started this one

    django.setup()
    from billing.group_commit import GroupCommit  # noqa: PLC0415 -- apps first
    from billing.ownership import Owner  # noqa: PLC0415

    owner = Owner()
    await asyncio.to_thread(owner.claim)
    commits = GroupCommit(owner=owner)
    commits.start()
    waits = {"hold": [], "settle": []}
    draw, tasks, late_ms = random.Random(1), set(), []
    try:
        started_s = time.perf_counter()
        at_s = 0.0
        while at_s < seconds:
            at_s += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
            late_ms.append((time.perf_counter() - started_s - at_s) * 1000)
            task = asyncio.ensure_future(
                _attempt(commits, owner=owner, key=draw.randrange(KEYS), waits=waits)
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    finally:
        await asyncio.to_thread(commits.stop)
        await asyncio.to_thread(owner.release)
    return waits, late_ms, commits.commit_count


async def _attempt(commits, *, owner, key, waits):
    from gateway.identifiers import new_attempt_id  # noqa: PLC0415 -- apps first
    from tests.billing.holds import new_claim, new_hold, new_settlement  # noqa: PLC0415

    now = datetime.now(UTC)  # noqa: TID251 -- the edge
    claims = [
        new_claim(limit_nanousd=10**15, budget=key),
        new_claim(limit_nanousd=10**15, budget=key, window="day", is_hard=False),
    ]
    hold = new_hold(
        held_nanousd=10**6,
        claims=claims,
        owner=owner.id,
        at=now,
        attempt_id=new_attempt_id(now_ms=int(now.timestamp() * 1000)),
    )
    started_s = time.perf_counter()
    await commits.hold(hold)
    waits["hold"].append((time.perf_counter() - started_s) * 1000)
    await asyncio.sleep(SETTLED_AFTER_S)
    started_s = time.perf_counter()
    await commits.settle(new_settlement(hold, input_tokens=20, output_tokens=10, at=now))
    waits["settle"].append((time.perf_counter() - started_s) * 1000)


def run_one(*, rate, seconds, label):
    waits, late_ms, commit_count = asyncio.run(offer(rate=rate, seconds=seconds))
    for name, found in waits.items():
        cuts = statistics.quantiles(found, n=100)
        sys.stdout.write(
            f"{label:18} {name:7} p50 {cuts[49]:6.2f} ms  p99 {cuts[98]:6.2f} ms  most {max(found):7.2f} ms  "
            f"({len(found)} in {commit_count} commits; loop late p99 "
            f"{statistics.quantiles(late_ms, n=100)[98]:.2f} ms; load {os.getloadavg()[0]:.1f})\n"
        )
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    if label := os.environ.get(CONTINUED):
        run_one(rate=arguments.rate, seconds=arguments.seconds, label=label)
        return
    is_postgresql = os.environ.get("DATABASE_URL", "").startswith("postgres")
    variants = (
        {"PostgreSQL": {}}
        if is_postgresql
        else {f"SQLite {level}": {"GATEWAY_SQLITE_SYNCHRONOUS": level} for level in ("NORMAL", "FULL")}
    )
    for label, changes in variants.items():
        with tempfile.TemporaryDirectory(prefix="tollgate-commit-") as folder:
            env = (
                os.environ
                | changes
                | {
                    "GATEWAY_DATA_DIR": folder,
                    "DJANGO_SETTINGS_MODULE": "gateway.settings",
                    "LOG_LEVEL": "WARNING",
                    CONTINUED: label,
                }
            )
            for database in ("default",) if is_postgresql else ("default", "ledger"):
                migrate = [sys.executable, "manage.py", "migrate", "-v0", f"--database={database}"]
                subprocess.run(migrate, env=env, check=True)
            subprocess.run([sys.executable, "-m", "tests.scale.commit", *sys.argv[1:]], env=env, check=True)


if __name__ == "__main__":
    main()
