"""How much of each budget is held by attempts in doubt: it stays so until an operator ends them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson

# What more there is after an outage goes untold: sums are then too low, and the same advice is given.
ATTEMPTS_READ_MAX = 2_000


def load_in_doubt(cursor: Any) -> Mapping[str, int]:
    """Nano-USD by the window's id. One query of an index that is empty but after a crash."""
    # The state as a literal, in the words of the index reservation_in_doubt: SQLite matches no parameter.
    cursor.execute(
        "SELECT held_nanousd, windows FROM billing_reservation "  # noqa: S608 -- a constant
        f"WHERE state = 'in_doubt' LIMIT {ATTEMPTS_READ_MAX}"
    )
    sums: dict[str, int] = defaultdict(int)
    for held_nanousd, windows in cursor.fetchall():
        for window_id in orjson.loads(windows) if isinstance(windows, str) else windows:
            sums[window_id] += held_nanousd
    return sums
