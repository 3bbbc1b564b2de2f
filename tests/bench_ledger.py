"""What a hold and its settlement cost in their transaction: `python -m tests.bench_ledger`.

Microseconds of CPU time per attempt on a new SQLite ledger, by how many share a transaction.
"""

import os
import sys
import tempfile
import time
from datetime import UTC, datetime

ATTEMPTS = 1_920
ROUNDS = 7
GROUP_SIZES = (1, 2, 4, 16)
RANKED = 6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GATEWAY_DATA_DIR": folder, "LOG_LEVEL": "WARNING"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
        os.environ.pop("DATABASE_URL", None)
        import django  # noqa: PLC0415 -- its settings are named above

        django.setup()
        from django.core.management import call_command  # noqa: PLC0415 -- apps first

        for alias in ("default", "ledger"):
            call_command("migrate", database=alias, verbosity=0)
        for size in GROUP_SIZES:
            spent_us = sorted(_spent_us(size) for _ in range(ROUNDS))
            median, least, most = spent_us[ROUNDS // 2], spent_us[0], spent_us[-1]
            sys.stdout.write(
                f"groups of {size:2}: {median:5.0f} us an attempt ({least:.0f} to {most:.0f}), "
                f"{median * size:5.0f} a transaction\n"
            )


def _spent_us(size: int) -> float:
    """Each transaction holds `size` attempts and settles those that the one before held."""
    from billing import ledger  # noqa: PLC0415 -- apps first
    from billing.entries import Batch  # noqa: PLC0415
    from tests.billing.holds import new_settlement  # noqa: PLC0415

    now = datetime.now(UTC)  # noqa: TID251 -- the edge
    held, batches = [], []
    for _ in range(ATTEMPTS // size + 1):
        settlements = [new_settlement(hold, input_tokens=50, output_tokens=180, at=now) for hold in held]
        held = [_new_hold(now) for _ in range(size)]
        batches.append(Batch(holds=held, settlements=settlements, checkpoints=[]))
    ledger.commit(batches[0])
    begun_ns = time.process_time_ns()
    for batch in batches[1:]:
        ledger.commit(batch)
    return (time.process_time_ns() - begun_ns) / 1000 / (len(batches) - 1) / size


def _new_hold(now: datetime):
    from gateway.identifiers import new_attempt_id  # noqa: PLC0415 -- apps first
    from tests.billing.holds import new_claim, new_hold  # noqa: PLC0415

    decision = {
        "policy": "marginal",
        "reason": "marginal",
        "chosen": ["c0", 0, 12_345],
        "ranked": [[f"c{n}", n, 12_345] for n in range(RANKED)],
    }
    return new_hold(
        held_nanousd=1_000,
        claims=[new_claim(limit_nanousd=10**15)],
        attempt_id=new_attempt_id(now_ms=int(now.timestamp() * 1000)),
        at=now,
        decision=decision,
    )


if __name__ == "__main__":
    main()
