"""Makes holds and settlements for tests: one key, one model, one rate, numbers as given."""

import uuid
from datetime import UTC, datetime

from billing.entries import Hold, Settlement, WindowClaim
from routing.cost import cost_nanousd
from routing.types import Rate, Usage

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
OWNER = uuid.UUID(int=7)
KEY_ID = uuid.UUID(int=42)
RATE = Rate.flat(input_microusd_per_mtok=1_000_000, output_microusd_per_mtok=2_000_000, source="test")


def new_claim(*, limit_nanousd, is_hard=True, budget=1, window="month:2026-11-01T00:00Z"):
    budget_id = uuid.UUID(int=budget)
    return WindowClaim(
        window_id=f"{budget_id}:{window}",
        budget_id=budget_id,
        owner="key 'test'",
        limit_nanousd=limit_nanousd,
        is_hard=is_hard,
        starts_at=datetime(2026, 11, 1, tzinfo=UTC),
        ends_at=datetime(2026, 12, 1, tzinfo=UTC),
    )


def new_hold(*, held_nanousd=1_000, claims=(), attempt_id=None, owner=OWNER, at=NOW, **names):
    attribution = {
        "attempt_number": 1,
        "organisation": "Org",
        "team": "team",
        "key_id": str(KEY_ID),
        "key_name": "test",
        "model": "fast",
        "served_model": "llama",
        "cluster": "aws",
        "cluster_kind": "own",
        "provider": "aws",
        "surface": "chat",
        "is_stream": False,
        "rate": {"source": "test"},
        "decision": {"policy": "cost"},
        **names,
    }
    return Hold(
        attempt_id=attempt_id or uuid.uuid4(),
        request_id="req_1",
        owner=owner,
        held_nanousd=held_nanousd,
        claims=tuple(claims),
        attribution=attribution,
        at=at,
    )


def new_settlement(
    hold, *, input_tokens=0, output_tokens=0, outcome="ok", is_void=False, at=NOW, is_estimate=False
):
    usage = Usage(input_fresh_tokens=input_tokens, output_text_tokens=output_tokens, is_estimate=is_estimate)
    return Settlement(
        hold=hold,
        usage=usage,
        cost_nanousd=cost_nanousd(usage=usage, rate=RATE),
        outcome=outcome,
        duration_ms=5,
        at=at,
        is_void=is_void,
    )
