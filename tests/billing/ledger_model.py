"""A model of the ledger for tests: plain sums, one operation after the other, nothing that could race."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta

from routing.cost import cost_nanousd
from routing.types import Usage
from tests.billing.holds import RATE

OPEN = {"held", "in_doubt"}


def day_of(moment):
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(moment):
    return day_of(moment).replace(day=1)


@dataclass(slots=True, kw_only=True)
class Attempt:
    hold: object
    held: int
    state: str = "held"
    checkpoint: int = 0
    row: tuple | None = None
    closed_at: object = None

    @property
    def windows(self):
        return [claim.window_id for claim in self.hold.claims]


@dataclass(slots=True, kw_only=True)
class Window:
    spent: int = 0
    held: int = 0


@dataclass(slots=True)
class LedgerModel:
    attempts: dict = field(default_factory=dict)
    sums: dict = field(default_factory=dict)
    hours: dict = field(default_factory=lambda: defaultdict(lambda: [0] * 6))
    dead: set = field(default_factory=set)
    pruned: set = field(default_factory=set)
    pruned_days: dict = field(default_factory=lambda: defaultdict(lambda: (0, 0)))

    def commit(self, batch):
        """Settlements, checkpoints, holds. Gives back what became of holds not taken as asked for: the
        amount that a clamped budget lowered one to, None where it was refused."""
        for hold in batch.holds:
            for claim in hold.claims:
                self.sums.setdefault(claim.window_id, Window())
        for is_void in (False, True):
            chosen = {one.hold.attempt_id: one for one in batch.settlements if one.is_void == is_void}
            for settlement in chosen.values():
                self._end(settlement)
        latest = {note.attempt_id: note for note in batch.checkpoints}
        for note in latest.values():
            attempt = self.attempts.get(note.attempt_id)
            if attempt is not None and attempt.state == "held":
                attempt.checkpoint = note.output_tokens
        taken = {hold.attempt_id: self._take(hold) for hold in batch.holds}
        asked = {hold.attempt_id: hold.held_nanousd for hold in batch.holds}
        return {key: amount for key, amount in taken.items() if amount != asked[key]}

    def mark_in_doubt(self):
        lost = [one for one in self.attempts.values() if one.state == "held" and one.hold.owner in self.dead]
        for attempt in lost:
            attempt.state = "in_doubt"
        return len(lost)

    def settle_in_doubt(self, *, now):
        doubtful = [one for one in self.attempts.values() if one.state == "in_doubt"]
        for attempt in doubtful:
            tokens = attempt.hold.attribution["prompt_tokens_estimate"]
            usage = Usage(input_fresh_tokens=tokens, output_text_tokens=attempt.checkpoint, is_estimate=True)
            cost = cost_nanousd(usage=usage, rate=RATE)
            self._close(attempt, state="settled", outcome="in_doubt", usage=usage, cost=cost, at=now)
        return len(doubtful)

    def prune(self, *, now, kept_days):
        """Whole months of closed attempts; then whole days of hours that have no rows left. Sums stay."""
        bound = month_of(now - timedelta(days=kept_days))
        open_months = [month_of(one.hold.at) for one in self.attempts.values() if one.state in OPEN]
        bound = min([bound, *open_months])
        gone = {key: one for key, one in self.attempts.items() if one.hold.at < bound}
        self.pruned |= set(gone)
        for key in gone:
            del self.attempts[key]
        hours_from = day_of(now - timedelta(days=kept_days))
        hours_from = min([hours_from, *(day_of(one.closed_at) for one in self.attempts.values() if one.row)])
        for hour in [hour for hour in self.hours if hour < hours_from]:
            sums, (requests, cost) = self.hours.pop(hour), self.pruned_days[day_of(hour)]
            self.pruned_days[day_of(hour)] = (requests + sums[0], cost + sums[5])
        return len(gone), sum(one.row[2] for one in gone.values())

    def days_of_pruned_hours(self):
        return dict(self.pruned_days)

    def windows(self):
        return {window_id: (window.spent, window.held) for window_id, window in self.sums.items()}

    def reservations(self):
        return {key: (one.state, one.held, one.checkpoint) for key, one in self.attempts.items()}

    def rows(self):
        return {key: one.row for key, one in self.attempts.items() if one.row is not None}

    def rollups(self):
        return {hour: tuple(sums) for hour, sums in self.hours.items()}

    def in_doubt(self):
        return {key for key, one in self.attempts.items() if one.state == "in_doubt"}

    def _take(self, hold):
        """What is held for it; None: nothing."""
        if hold.attempt_id in self.attempts:
            return self._taken_before(hold)
        amount = hold.held_nanousd
        rooms = {claim: self._room(claim) for claim in hold.claims if claim.is_hard}
        if any(room < amount for room in rooms.values()):
            lowering = [claim for claim in rooms if claim.is_clamped and hold.clamp is not None]
            if any(rooms[claim] < amount for claim in rooms if claim not in lowering):
                return None
            tokens = hold.clamp.affordable_tokens(room_nanousd=min(rooms[claim] for claim in lowering))
            if tokens is None:
                return None
            amount = hold.clamp.held_nanousd(output_tokens=tokens)
        for claim in hold.claims:
            self.sums[claim.window_id].held += amount
        self.attempts[hold.attempt_id] = Attempt(hold=hold, held=amount)
        return amount

    def _taken_before(self, hold):
        held = self.attempts[hold.attempt_id].held
        return held if hold.clamp is not None else hold.held_nanousd

    def _room(self, claim):
        window = self.sums[claim.window_id]
        return claim.limit_nanousd - window.spent - window.held

    def _end(self, settlement):
        attempt = self.attempts.get(settlement.hold.attempt_id)
        if attempt is None or attempt.state not in OPEN:
            return
        self._close(
            attempt,
            state="void" if settlement.is_void else "settled",
            outcome=settlement.outcome,
            usage=settlement.usage,
            cost=0 if settlement.is_void else settlement.cost_nanousd,
            at=settlement.at,
        )

    def _close(self, attempt, *, state, outcome, usage, cost, at):
        charged = min(cost, attempt.held)
        attempt.state, attempt.closed_at = state, at
        attempt.row = (outcome, attempt.held, charged, cost - charged, usage.is_estimate)
        for window_id in attempt.windows:
            self.sums[window_id].held -= attempt.held
            self.sums[window_id].spent += charged
        sums = self.hours[at.replace(minute=0, second=0, microsecond=0)]
        added = (1, outcome == "failed", usage.is_estimate, usage.input_tokens, usage.output_tokens, charged)
        for place, value in enumerate(added):
            sums[place] += value
