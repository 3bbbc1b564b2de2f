"""The prices in force at one moment, by model and cluster, assembled into rates with their tiers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter

from billing.price_conditions import PriceCondition
from routing.types import Rate

# The rates that a price may leave empty, and the one that counts then.
FILLED_RATES = {
    "cache_read_microusd_per_mtok": "input_microusd_per_mtok",
    "cache_write_5m_microusd_per_mtok": "input_microusd_per_mtok",
    "cache_write_1h_microusd_per_mtok": "input_microusd_per_mtok",
    "reasoning_microusd_per_mtok": "output_microusd_per_mtok",
    "audio_input_microusd_per_mtok": "input_microusd_per_mtok",
    "audio_output_microusd_per_mtok": "output_microusd_per_mtok",
    "image_input_microusd_per_mtok": "input_microusd_per_mtok",
}
RATE_NAMES = ("input_microusd_per_mtok", "output_microusd_per_mtok", *FILLED_RATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """One price: of which model, where, under which condition, since when. None: see `FILLED_RATES`."""

    model: str
    cluster_name: str = ""
    condition: PriceCondition = field(default=PriceCondition())
    effective_at: datetime
    input_microusd_per_mtok: int
    output_microusd_per_mtok: int
    cache_read_microusd_per_mtok: int | None = None
    cache_write_5m_microusd_per_mtok: int | None = None
    cache_write_1h_microusd_per_mtok: int | None = None
    reasoning_microusd_per_mtok: int | None = None
    audio_input_microusd_per_mtok: int | None = None
    audio_output_microusd_per_mtok: int | None = None
    image_input_microusd_per_mtok: int | None = None
    source: str = "manual"
    source_version: str = ""

    @property
    def rates(self) -> tuple[int | None, ...]:
        return tuple(getattr(self, name) for name in RATE_NAMES)

    def is_same_price(self, other: "PriceEntry") -> bool:
        """Whether both cost the same at the same times, whatever they are called and since when they hold."""
        return (self.rates, self.condition) == (other.rates, other.condition)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """The latest price of each model, cluster and condition."""

    entries: tuple[PriceEntry, ...]

    @classmethod
    def latest_of(cls, entries: Iterable[PriceEntry]) -> "PriceBook":
        """Of several that follow each other, the last."""
        latest = {
            (entry.model, entry.cluster_name, entry.condition.key): entry
            for entry in sorted(entries, key=lambda entry: entry.effective_at)
        }
        return cls(entries=tuple(latest.values()))

    @property
    def boundaries(self) -> frozenset[int]:
        """The minutes of the day at which a price begins or ends."""
        windows = [entry.condition for entry in self.entries if not entry.condition.is_all_day]
        return frozenset(
            minute
            for window in windows
            if not window.is_ended
            for minute in (window.daily_from_minute, window.daily_to_minute)
        )

    def rates_at(self, *, minute: int) -> dict[tuple[str, str], Rate]:
        """The rate of each model and cluster at that minute of the day in UTC."""
        groups: dict[tuple[str, str], list[PriceEntry]] = defaultdict(list)
        for entry in self.entries:
            if entry.condition.holds_at(minute):
                groups[entry.model, entry.cluster_name].append(entry)
        rates = {key: _rate(entries) for key, entries in groups.items()}
        return {key: rate for key, rate in rates.items() if rate is not None}


def rate_in(*, rates: Mapping[tuple[str, str], Rate], model: str, cluster_name: str) -> Rate | None:
    """The price of the model on that cluster, else its price anywhere, else None."""
    return rates.get((model, cluster_name)) or rates.get((model, ""))


def flat_rate_of(entry: PriceEntry) -> Rate:
    """The price alone, its empty rates filled: caching and media cost as input does, reasoning as output."""
    filled = {
        # Zero is a price (a free cache), not an absence.
        name: getattr(entry, default) if getattr(entry, name) is None else getattr(entry, name)
        for name, default in FILLED_RATES.items()
    }
    return Rate(
        input_microusd_per_mtok=entry.input_microusd_per_mtok,
        output_microusd_per_mtok=entry.output_microusd_per_mtok,
        **filled,
        source=f"{entry.source} {entry.source_version}".rstrip(),
    )


def _rate(entries: list[PriceEntry]) -> Rate | None:
    """One model's rate on one cluster, of the prices that hold at this time of the day.

    A price for a part of the day goes before the one for all day. Without a base price there is none.
    """
    chosen: dict[tuple[str, int], PriceEntry] = {}
    for entry in sorted(entries, key=_precedence):
        chosen[entry.condition.service_tier, entry.condition.context_tokens_min] = entry
    base = _with_context_tiers(chosen, service_tier="")
    if base is None:
        return None
    names = sorted({name for name, _ in chosen if name})
    served = {name: _with_context_tiers(chosen, service_tier=name) for name in names}
    return replace(
        base, service_tiers=tuple((name, rate) for name, rate in served.items() if rate is not None)
    )


def _precedence(entry: PriceEntry) -> tuple[bool, datetime, int]:
    """Of prices that hold at the same time the last in this order counts."""
    return not entry.condition.is_all_day, entry.effective_at, entry.condition.daily_from_minute


def _with_context_tiers(chosen: Mapping[tuple[str, int], PriceEntry], *, service_tier: str) -> Rate | None:
    """The service tier's rate with its context tiers, ascending; None where it has no price of its own."""
    first = chosen.get((service_tier, 0))
    if first is None:
        return None
    tiers = tuple(
        (tokens_min, flat_rate_of(entry))
        for (name, tokens_min), entry in sorted(chosen.items(), key=itemgetter(0))
        if name == service_tier and tokens_min
    )
    return replace(flat_rate_of(first), tiers=tiers)
