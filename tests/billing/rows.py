"""Rows of the ledger and of its rollups as the tests want them."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from billing.models import CapacityHour, SpendRollup, UsageRecord
from billing.rollup_key import rollup_id

KEY_ID = UUID("00000000-0000-4000-8000-000000000001")
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def make_rollup(**given) -> SpendRollup:
    columns = {
        "period": "hour",
        "starts_at": datetime(2026, 11, 20, 9, tzinfo=UTC),
        "organisation": "acme",
        "team": "search",
        "key_id": KEY_ID,
        "model": "llama",
        "cluster": "gpu-a",
    } | {name: value for name, value in given.items() if name in GROUP}
    others = {
        "key_name": "ci",
        "cluster_kind": "own",
        "requests": 1,
        "failures": 0,
        "estimates": 0,
        "input_tokens": 10,
        "cache_read_tokens": 4,
        "output_tokens": 5,
        "cost_nanousd": 1_000,
        "updated_at": NOW,
    } | {name: value for name, value in given.items() if name not in GROUP}
    row_id = rollup_id(**{**columns, "key_id": str(columns["key_id"])})
    return SpendRollup.objects.create(id=row_id, **columns, **others)


def make_capacity(**given) -> CapacityHour:
    """A closed hour of an own cluster, a fifth of it used."""
    columns = {
        "cluster": "gpu-a",
        "starts_at": datetime(2026, 11, 20, 9, tzinfo=UTC),
        "cost_nanousd": 1_000,
        "capacity_tokens": 36_000,
        "used_tokens": 7_200,
        "used_nanousd": 200,
        "idle_nanousd": 800,
        "sample_count": 60,
        "is_closed": True,
        "updated_at": NOW,
        **given,
    }
    row_id = f"{columns['cluster']}:{columns['starts_at']:%Y-%m-%dT%H}"
    return CapacityHour.objects.create(id=row_id, **columns)


GROUP = {"period", "starts_at", "organisation", "team", "key_id", "model", "cluster"}


def make_usage(**given) -> UsageRecord:
    columns = {
        "attempt_id": uuid4(),
        "request_id": "req-1",
        "attempt_number": 1,
        "started_at": NOW,
        "settled_at": NOW,
        "organisation": "acme",
        "team": "search",
        "key_id": KEY_ID,
        "key_name": "ci",
        "model": "llama",
        "served_model": "llama-3-8b",
        "cluster": "gpu-a",
        "cluster_kind": "own",
        "provider": "aws",
        "surface": "chat",
        "is_stream": False,
        "outcome": "ok",
        "input_fresh_tokens": 1_000,
        "cache_read_tokens": 200,
        "output_text_tokens": 30,
        "is_estimate": False,
        "rate": {"input_microusd_per_mtok": 150_000, "source": "manual"},
        "held_nanousd": 2_000_000,
        "cost_nanousd": 1_500_000,
        "duration_ms": 300,
        "decision": {"policy": "marginal", "ranked": [{"cluster": "gpu-a"}]},
    }
    return UsageRecord.objects.create(**{**columns, **given})
