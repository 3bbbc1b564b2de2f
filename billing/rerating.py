"""What a period of the ledger would have cost at other prices; reads the rows one by one, writes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from billing.models import UsageRecord
from billing.price_book import PriceBook, rate_in
from billing.price_conditions import MINUTES_PER_DAY, minute_of_day
from billing.settled_rows import pruned_after, settled_rows, usage_of
from routing.cost import cost_nanousd
from routing.types import TOKEN_BUCKETS, Rate

# What tells the groups apart, and which column names them.
GROUPS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "model": lambda row: (row["model"], row["model"]),
    "cluster": lambda row: (row["cluster"], row["cluster"]),
    "team": lambda row: (row["team"], row["team"]),
    "key": lambda row: (str(row["key_id"]), row["key_name"]),
    "day": lambda row: (day := row["settled_at"].astimezone(UTC).date().isoformat(), day),
}
COLUMNS = (
    "attempt_id",
    "settled_at",
    "started_at",
    "model",
    "served_model",
    "cluster",
    "team",
    "key_id",
    "key_name",
    "service_tier",
    "cost_nanousd",
    "variance_nanousd",
    *TOKEN_BUCKETS,
)


@dataclass(slots=True, kw_only=True)
class RerateRow:
    """One group's sums. An attempt without a price among the others keeps its cost, and is counted.

    What was: the full cost at the prices of the time. `surplus_nanousd` of it nobody was charged, because it
    was above what was held; the rest is the spend that reports show.
    """

    id: str
    name: str
    requests: int = 0
    kept_count: int = 0
    was_nanousd: int = 0
    would_be_nanousd: int = 0
    surplus_nanousd: int = 0

    @property
    def difference_nanousd(self) -> int:
        return self.would_be_nanousd - self.was_nanousd


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerating:
    """Rows, the dearest first (days in order), and their sums."""

    rows: tuple[RerateRow, ...]
    totals: RerateRow
    # Attempts begun before were pruned, some perhaps of the period; None: none of it.
    pruned_before: datetime | None


def rerate(*, book: PriceBook, from_at: datetime, to_at: datetime, group: str) -> Rerating:
    """Charge every attempt settled in the period again, by the book, each at its own time of the day.

    The model is the one that served it. Memory grows with the number of groups, not of rows.
    """
    pricer = _Pricer(book)
    name_of = GROUPS[group]
    by_id: dict[str, RerateRow] = {}
    totals = RerateRow(id="", name="Total")
    records = UsageRecord.objects.filter(settled_at__gte=from_at, settled_at__lt=to_at)
    for row in settled_rows(records, columns=COLUMNS):
        was = row["cost_nanousd"] + row["variance_nanousd"]
        would_be = pricer.cost_nanousd(row)
        row_id, name = name_of(row)
        for sums in (by_id.setdefault(row_id, RerateRow(id=row_id, name=name)), totals):
            sums.requests += 1
            sums.kept_count += would_be is None
            sums.was_nanousd += was
            sums.would_be_nanousd += was if would_be is None else would_be
            sums.surplus_nanousd += row["variance_nanousd"]
    rows = sorted(by_id.values(), key=lambda sums: (sums.name, sums.id))
    if group != "day":
        rows.sort(key=lambda sums: sums.was_nanousd, reverse=True)
    return Rerating(rows=tuple(rows), totals=totals, pruned_before=pruned_after(from_at))


@dataclass(slots=True)
class _Pricer:
    """The book's rates by time of the day, each part of the day assembled once."""

    book: PriceBook
    _rates: dict[int, Mapping[tuple[str, str], Rate]] = field(default_factory=dict)

    def cost_nanousd(self, row: Mapping[str, Any]) -> int | None:
        """What the attempt would cost; None where the book has no price of it."""
        rates = self._rates_at(minute_of_day(row["started_at"]))
        rate = rate_in(rates=rates, model=row["served_model"], cluster_name=row["cluster"])
        if rate is None:
            return None
        return cost_nanousd(usage=usage_of(row), rate=rate, service_tier=row["service_tier"])

    def _rates_at(self, minute: int) -> Mapping[tuple[str, str], Rate]:
        starts = {0} | {boundary % MINUTES_PER_DAY for boundary in self.book.boundaries}
        start = max(each for each in starts if each <= minute)
        if start not in self._rates:
            self._rates[start] = self.book.rates_at(minute=start)
        return self._rates[start]
