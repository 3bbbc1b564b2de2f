"""Ids of rollup rows: one for each group, however the moment is written."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from billing.rollup_key import rollup_id

GROUP = {
    "period": "hour",
    "starts_at": datetime(2026, 11, 20, 9, tzinfo=UTC),
    "organisation": "acme",
    "team": "search",
    "key_id": "00000000-0000-4000-8000-000000000001",
    "model": "llama",
    "cluster": "gpu-a",
}


def test_rollup_id_is_stable():
    berlin = datetime(2026, 11, 20, 10, tzinfo=ZoneInfo("Europe/Berlin"))

    first, again = rollup_id(**GROUP), rollup_id(**{**GROUP, "starts_at": berlin})

    assert first == again
    assert len(first) == 40


def test_rollup_id_differs_in_every_column():
    changed = {name: rollup_id(**{**GROUP, name: "x"}) for name in GROUP if name != "starts_at"}
    changed["starts_at"] = rollup_id(**{**GROUP, "starts_at": datetime(2026, 11, 20, 10, tzinfo=UTC)})
    moved = rollup_id(**{**GROUP, "organisation": "acmesearch", "team": ""})

    assert len({rollup_id(**GROUP), moved, *changed.values()}) == 9
