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
    windows: list
    state: str = "held"
    checkpoint: int = 0
    row: tuple | None = None
    closed_at: object = None


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
    # Windows that some hold crossed, by a rule that lets it.
    crossed: set = field(default_factory=set)
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

    def release(self, hold, *, now):
        """What is open of it is void; what never came is shut out."""
        attempt = self.attempts.get(hold.attempt_id)
        if attempt is None:
            attempt = self.attempts[hold.attempt_id] = Attempt(hold=hold, held=0, windows=[])
        if attempt.state in OPEN:
            self._close(attempt, state="void", outcome="failed", usage=Usage(), cost=0, at=now)

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
        for hour, cluster in [place for place in self.hours if place[0] < hours_from]:
            day = (day_of(hour), cluster)
            sums, (requests, cost) = self.hours.pop((hour, cluster)), self.pruned_days[day]
            self.pruned_days[day] = (requests + sums[0], cost + sums[5])
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
        return {place: tuple(sums) for place, sums in self.hours.items()}

    def in_doubt(self):
        return {key for key, one in self.attempts.items() if one.state == "in_doubt"}

    def _take(self, hold):
        """What is held for it; None: nothing."""
        if hold.attempt_id in self.attempts:
            return self._taken_before(hold)
        amount = hold.held_nanousd
        rooms = {claim: self.room(claim) for claim in hold.claims if claim.is_hard}
        crossed = {claim: room for claim, room in rooms.items() if claim.is_crossed}
        if any(room < 1 for room in crossed.values()):
            return None
        rooms = {claim: room for claim, room in rooms.items() if claim not in crossed}
        if any(room < amount for room in rooms.values()):
            lowering = [claim for claim in rooms if claim.is_clamped and hold.clamp is not None]
            if any(rooms[claim] < amount for claim in rooms if claim not in lowering):
                return None
            tokens = hold.clamp.affordable_tokens(room_nanousd=min(rooms[claim] for claim in lowering))
            if tokens is None:
                return None
            amount = hold.clamp.held_nanousd(output_tokens=tokens)
        self.crossed |= {claim.window_id for claim, room in crossed.items() if room < amount}
        for claim in hold.claims:
            self.sums[claim.window_id].held += amount
        windows = [claim.window_id for claim in hold.claims]
        self.attempts[hold.attempt_id] = Attempt(hold=hold, held=amount, windows=windows)
        return amount

    def _taken_before(self, hold):
        """One that was released holds nothing: whoever would have been told how long it may be is refused."""
        held = self.attempts[hold.attempt_id].held
        if hold.clamp is None:
            return hold.held_nanousd
        is_released = hold.clamp.affordable_tokens(room_nanousd=held) is None
        return None if is_released and held < hold.held_nanousd else held

    def room(self, claim):
        window = self.sums.get(claim.window_id, Window())
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
        hour = at.replace(minute=0, second=0, microsecond=0)
        sums = self.hours[hour, attempt.hold.attribution["cluster"]]
        added = (1, outcome == "failed", usage.is_estimate, usage.input_tokens, usage.output_tokens, charged)
        for place, value in enumerate(added):
            sums[place] += value
