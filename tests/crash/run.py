"""The crash harness in long: `python -m tests.crash.run --kills 500 --requests 20000 --workers 2 --seed 1`.

Kills gateways under load, half of them at named points, and compares what callers saw, what the upstream
gave and what was booked. Prints a line now and then, at the end a JSON report; exit 1 on any violation.
DATABASE_URL chooses PostgreSQL, as for the tests: `python tests/with_postgres.py python -m tests.crash.run`.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import orjson

from tests.crash.campaign import RECOVERY_HOLDS, Tally, compare_ledgers, kill_at_random, pass_points
from tests.crash.fleet import crash_fleet

PROBLEMS_SHOWN = 20


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def run(arguments, *, folder):
    started_s = time.monotonic()
    tally = Tally()
    async with crash_fleet(folder, worker_count=arguments.workers, seed=arguments.seed) as fleet:

        def tell(tally):
            found = sum(map(len, tally.problems.values()))
            sys.stdout.write(
                f"{time.monotonic() - started_s:6.0f} s  {tally.kills} kills  "
                f"{len(fleet.callers.answers)} requests  {found} violations\n"
            )
            sys.stdout.flush()

        for worker in fleet.workers[1:]:
            assert await worker.start()
        await pass_points(fleet, tally)
        tell(tally)
        await kill_at_random(
            fleet,
            tally,
            kills=max(arguments.kills - tally.kills, 0),
            requests=arguments.requests,
            callers=arguments.callers,
            progress=tell,
        )
        report = await compare_ledgers(fleet, tally)
        report["recovery_ms_per_1000_holds"] = fleet.books.call("measure_recovery", holds=RECOVERY_HOLDS)
        report["logged_errors"] = fleet.logged_errors()[:PROBLEMS_SHOWN]
        report["problems"] = {name: found[:PROBLEMS_SHOWN] for name, found in tally.problems.items() if found}
        report["database"] = "postgresql" if "DATABASE_URL" in fleet.books.env else "sqlite"
        report["seed"] = arguments.seed
        report["took_s"] = round(time.monotonic() - started_s)
    return report


def main():
    with tempfile.TemporaryDirectory(prefix="tollgate-crash-") as folder:
        report = asyncio.run(run(parsed_arguments(), folder=Path(folder)))
    sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    return int(any(report["violations"].values()))


if __name__ == "__main__":
    sys.exit(main())
