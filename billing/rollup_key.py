"""Names a row of the spend rollups by all that it is grouped by, so that each sum has one row only."""

import hashlib
import json
from datetime import UTC, datetime
from functools import lru_cache

ROLLUP_ID_CHARACTERS = 40


# The same sums are added to all hour long.
@lru_cache(maxsize=4096)
def rollup_id(
    *,
    period: str,
    starts_at: datetime,
    organisation: str,
    team: str,
    key_id: str,
    model: str,
    cluster: str,
) -> str:
    assert starts_at.tzinfo is not None
    moment = starts_at.astimezone(UTC).isoformat()
    # JSON keeps the columns apart: ("a", "bc") and ("ab", "c") must not meet.
    columns = json.dumps([period, moment, organisation, team, key_id, model, cluster])
    return hashlib.sha256(columns.encode()).hexdigest()[:ROLLUP_ID_CHARACTERS]
