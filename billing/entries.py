"""The values of the ledger: what is held, settled, noted and refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from routing.types import Usage


class LedgerError(Exception):
    """Root of what the ledger refuses."""


class BudgetExceededError(LedgerError):
    """A hard budget has no room for the hold."""

    def __init__(self, *, claim: "WindowClaim", held_nanousd: int) -> None:
        super().__init__(f"budget of {claim.owner} is spent")
        self.claim = claim
        self.needed_nanousd = held_nanousd


class LedgerUnavailableError(LedgerError):
    """The ledger could not commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClaim:
    """One budget's window that a hold counts against; `is_hard` says whether it may refuse."""

    window_id: str
    budget_id: UUID
    owner: str
    limit_nanousd: int
    is_hard: bool
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One attempt's reservation: who asked, where it goes, and the most it can cost."""

    attempt_id: UUID
    request_id: str
    owner: UUID
    held_nanousd: int
    claims: tuple[WindowClaim, ...]
    # Columns of UsageRecord known before sending: names, rate, decision.
    attribution: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How one attempt ended. `is_void`: nothing is charged."""

    hold: Hold
    usage: Usage
    cost_nanousd: int
    outcome: str
    error_code: str = ""
    ttft_ms: int | None = None
    duration_ms: int
    at: datetime
    is_void: bool = False
    # What the upstream itself said that the attempt costs; None: it said nothing.
    reported_cost_nanousd: int | None = None
    # The service tier that served it, as the upstream says, else as asked for; empty: the standard one.
    service_tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Tokens handed out so far in a running attempt."""

    attempt_id: UUID
    output_tokens: int
    at: datetime


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one transaction writes. Settlements come first: they free what holds may need."""

    holds: list[Hold] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
