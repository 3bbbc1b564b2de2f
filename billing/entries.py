"""The values of the ledger: what is held, settled, noted and refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from routing.cost import affordable_output_tokens, hold_nanousd
from routing.types import Rate, Usage


class LedgerError(Exception):
    """Root of what the ledger refuses."""


class BudgetExceededError(LedgerError):
    """A hard budget has no room for the hold."""

    def __init__(
        self,
        *,
        claim: "WindowClaim",
        needed_nanousd: int,
        spent_nanousd: int = 0,
        held_nanousd: int = 0,
        in_doubt_nanousd: int = 0,
        output_tokens_min: int | None = None,
    ) -> None:
        super().__init__(f"budget of {claim.owner} is spent")
        self.claim = claim
        # What the budget has no room for: the hold, or the least that a clamped budget takes.
        self.needed_nanousd = needed_nanousd
        # Spent and held in the window when it refused, read in the transaction that did.
        self.spent_nanousd = spent_nanousd
        self.held_nanousd = held_nanousd
        # The part of what is held that no running request will free: an operator ends those attempts.
        self.in_doubt_nanousd = in_doubt_nanousd
        # Of a clamped budget: the shortest answer, per choice, that was tried.
        self.output_tokens_min = output_tokens_min

    @property
    def used_nanousd(self) -> int:
        return self.spent_nanousd + self.held_nanousd

    @property
    def is_temporary(self) -> bool:
        """Whether there would be room if what runs now cost nothing: it may come free."""
        bound_nanousd = self.spent_nanousd + self.in_doubt_nanousd
        return bound_nanousd + self.needed_nanousd <= self.claim.limit_nanousd

    @property
    def is_in_doubt(self) -> bool:
        """Whether there would be room if the attempts in doubt were ended at no cost: no retry does that."""
        is_spent = self.spent_nanousd + self.needed_nanousd > self.claim.limit_nanousd
        return not self.is_temporary and not is_spent


class LedgerUnavailableError(LedgerError):
    """The ledger could not commit."""


class WindowClaim(Struct, frozen=True, kw_only=True):
    """One budget's window that a hold counts against; `is_hard` says whether it may refuse.

    One that `is_clamped` lowers a hold to what is left. One that `is_crossed` takes a hold while anything
    is left: who crosses the limit is the last.
    """

    window_id: str
    budget_id: UUID
    owner: str
    limit_nanousd: int
    is_hard: bool
    starts_at: datetime
    ends_at: datetime | None
    is_crossed: bool = False
    is_clamped: bool = False
    window: str = ""  # day | week | month | total
    # While the limit is an override: its end.
    override_until: datetime | None = None


class Clamp(Struct, frozen=True, kw_only=True):
    """What an answer may cost by its length, where a budget may shorten it. Tokens are per choice."""

    input_tokens_max: int
    output_tokens_max: int
    output_tokens_min: int
    choice_count: int
    rate: Rate
    service_tier: str | None = None

    def held_nanousd(self, *, output_tokens: int) -> int:
        """The hold of an answer of so many tokens per choice."""
        return hold_nanousd(
            input_tokens_max=self.input_tokens_max,
            output_tokens_max=output_tokens * self.choice_count,
            rate=self.rate,
            service_tier=self.service_tier,
        )

    def affordable_tokens(self, *, room_nanousd: int) -> int | None:
        """The longest answer whose hold fits into the room; None: shorter than the shortest allowed."""
        tokens = affordable_output_tokens(
            room_nanousd=room_nanousd,
            input_tokens_max=self.input_tokens_max,
            output_tokens_max=self.output_tokens_max * self.choice_count,
            rate=self.rate,
            service_tier=self.service_tier,
        )
        if tokens is None or tokens // self.choice_count < self.output_tokens_min:
            return None
        return tokens // self.choice_count


class Hold(Struct, frozen=True, kw_only=True):
    """One attempt's reservation: who asked, where it goes, and the most it can cost."""

    attempt_id: UUID
    request_id: str
    owner: UUID
    held_nanousd: int
    claims: tuple[WindowClaim, ...]
    # Columns of UsageRecord known before sending: names, rate, decision.
    attribution: Mapping[str, Any]
    at: datetime
    # Given where a clamped budget may lower the hold.
    clamp: Clamp | None = None
    # What one lowered it to, in tokens per choice; None: the hold is as it was asked for.
    clamped_output_tokens: int | None = None


class Settlement(Struct, frozen=True, kw_only=True):
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


class Checkpoint(Struct, frozen=True, kw_only=True):
    """Tokens handed out so far in a running attempt."""

    attempt_id: UUID
    output_tokens: int
    at: datetime


# What became of a hold that was not taken as it was asked for.
Verdict = Hold | BudgetExceededError


@dataclass(slots=True, kw_only=True)
class Batch:
    """What one transaction writes. Settlements come first: they free what holds may need."""

    holds: list[Hold] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
