"""The overshoot harness in long: `python -m tests.overshoot.run --seeds 100 --processes 4 --clients 64`.

Each process has clients that ask until a hard budget for 100.5 requests refuses them for good, and come
again where they are told to. Prints a line now and then, at the end a JSON report; exit 1 on any problem.
DATABASE_URL chooses PostgreSQL: `python tests/with_postgres.py python -m tests.overshoot.run`.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import orjson

from tests.overshoot.campaign import overshoot_campaign

TOLD_EVERY = 10


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--clients", type=int, default=64, help="in each process")
    parser.add_argument("--mode", choices=("clamp", "hard"), default="clamp")
    return parser.parse_args()


def main():
    arguments, started_s = parsed_arguments(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="tollgate-overshoot-") as folder,
        overshoot_campaign(
            Path(folder), processes=arguments.processes, clients=arguments.clients
        ) as campaign,
    ):
        for number in range(1, arguments.seeds + 1):
            campaign.run_seed(arguments.first + number - 1, mode=arguments.mode)
            if number % TOLD_EVERY == 0:
                passed_s = time.monotonic() - started_s
                sys.stdout.write(f"{passed_s:6.0f} s  {number} seeds  {len(campaign.problems)} problems\n")
                sys.stdout.flush()
        report = campaign.end()
    report["mode"] = arguments.mode
    report["database"] = "postgresql" if os.environ.get("DATABASE_URL") else "sqlite"
    report["took_s"] = round(time.monotonic() - started_s)
    sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    return int(bool(report["problems"]))


if __name__ == "__main__":
    sys.exit(main())
