"""A cluster's prices per hour over time in the configuration file: `spotPrices`, read and written."""

from collections.abc import Sequence
from dataclasses import asdict

from clusters.hourly_costs import CostChange
from gateway.configuration import conversion
from gateway.configuration.members import Field, Members, Notes, written_values

KEY = "spotPrices"
PRICES_MAX = 10_000
FIELDS = (
    Field(key="from", target="effective_at", kind=conversion.moment()),
    Field(key="costPerHour", target="cost_per_hour_nanousd", kind=conversion.usd(digits=9)),
)


def read_hourly_prices(members: Members, *, notes: Notes) -> tuple[CostChange, ...]:
    """The entries that are right, in the order of the file; each moment once."""
    changes: list[CostChange] = []
    items = members.listing(KEY)
    if len(items) > PRICES_MAX:
        notes.refuse(
            members.place_of(KEY),
            f"found {len(items)} prices; write at most {PRICES_MAX}, more with manage.py import_hourly_costs",
        )
        return ()
    lines: dict[object, int] = {}
    for item in items:
        entry = Members(item, known=[each.key for each in FIELDS], notes=notes)
        values = entry.values(FIELDS)
        for each in FIELDS:
            if each.key not in entry:
                notes.refuse(entry.place, f"{each.key} is missing; write it")
        if len(values) < len(FIELDS):
            continue
        change = CostChange(**values)
        if change.effective_at in lines:
            text = f"this moment stands on line {lines[change.effective_at]} already; write each once"
            notes.refuse(entry.place_of("from"), text)
            continue
        lines[change.effective_at] = entry.place_of("from").line
        changes.append(change)
    return tuple(changes)


def hourly_price_lines(changes: Sequence[CostChange]) -> list[str]:
    """The section as lines of YAML; none where there is no price."""
    texts = [written_values(asdict(each), fields=FIELDS) for each in changes]
    flows = [", ".join(f"{key}: {value}" for key, value in text.items()) for text in texts]
    return [f"{KEY}:", *(f"  - {{{flow}}}" for flow in flows)] if flows else []
