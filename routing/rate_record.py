"""A rate as the ledger's rows keep it: enough to charge the attempt, or to recompute its charge."""

from collections.abc import Mapping
from typing import Any

from routing.types import Rate

_INPUT, _OUTPUT = "input_microusd_per_mtok", "output_microusd_per_mtok"
# Each bucket's rate, and which one counts where the record has none: rows of older versions lack some.
_DEFAULTS = {
    _INPUT: _INPUT,
    _OUTPUT: _OUTPUT,
    "cache_read_microusd_per_mtok": _INPUT,
    "cache_write_5m_microusd_per_mtok": _INPUT,
    "cache_write_1h_microusd_per_mtok": _INPUT,
    "reasoning_microusd_per_mtok": _OUTPUT,
    "audio_input_microusd_per_mtok": _INPUT,
    "audio_output_microusd_per_mtok": _OUTPUT,
    "image_input_microusd_per_mtok": _INPUT,
}


def rate_record(*, rate: Rate, input_tokens_max: int | None = None) -> dict[str, Any]:
    """The rate for JSON; tiers are there only if it has any, without those that so long a prompt misses.

    One row each is kept for years: tiers leave out what `rate_from_record` fills in.
    """
    record: dict[str, Any] = {name: getattr(rate, name) for name in _DEFAULTS}
    record["source"] = rate.source
    return {**record, **_tiers_record(rate, input_tokens_max=input_tokens_max)}


def rate_from_record(record: Mapping[str, Any]) -> Rate:
    """The rate of a record of any version: what it lacks costs as input or output does."""
    source = record.get("source", "")
    rates = {name: record.get(name, record[default]) for name, default in _DEFAULTS.items()}
    return Rate(
        **rates,
        source=source,
        tiers=tuple((tokens_min, _tier(tier, source)) for tokens_min, tier in record.get("tiers", ())),
        service_tiers=tuple((name, _tier(tier, source)) for name, tier in record.get("service_tiers", ())),
    )


def _tiers_record(rate: Rate, *, input_tokens_max: int | None) -> dict[str, Any]:
    tiers = [
        [tokens_min, _short_record(tier, input_tokens_max=input_tokens_max)]
        for tokens_min, tier in rate.tiers
        if input_tokens_max is None or tokens_min <= input_tokens_max
    ]
    named = [
        [name, _short_record(tier, input_tokens_max=input_tokens_max)] for name, tier in rate.service_tiers
    ]
    return {**({"tiers": tiers} if tiers else {}), **({"service_tiers": named} if named else {})}


def _short_record(rate: Rate, *, input_tokens_max: int | None) -> dict[str, Any]:
    rates = {
        name: getattr(rate, name)
        for name, default in _DEFAULTS.items()
        if name == default or getattr(rate, name) != getattr(rate, default)
    }
    return {**rates, **_tiers_record(rate, input_tokens_max=input_tokens_max)}


def _tier(record: Mapping[str, Any], source: str) -> Rate:
    return rate_from_record({"source": source, **record})
