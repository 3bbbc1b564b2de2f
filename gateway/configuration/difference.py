"""Says in lines what an import changed, by the file's own words: `+` created, `~` changed. Never a secret."""

from collections.abc import Collection, Mapping

from clusters.catalogue import Change
from gateway.configuration.conversion import quoted
from gateway.configuration.experiments import GUARDS
from gateway.configuration.members import Field, written_values
from gateway.configuration.schema import MODEL, PRICES, RATE_LIMIT, ROUTE, ROUTER, SERVER, SITE
from gateway.configuration.waking import TOLD_FIELDS
from routing.types import Rate

_EVERY_CLUSTER_FIELD = (*SITE, *RATE_LIMIT, *TOLD_FIELDS)
_EVERY_SETTING = (*SERVER, *ROUTER)
_EXPERIMENT_KEYS = {
    "arms": "arms",
    "ramp_s": "ramp",
    "ramp_steps": "ramp steps",
    **{each.target: each.key for each in GUARDS},
}


def cluster_line(change: Change) -> str:
    return _line(f"cluster {quoted(change.name)}", change=change, fields=_EVERY_CLUSTER_FIELD)


def model_line(change: Change, *, cluster_name: str) -> str:
    noun = f"model {quoted(change.name)} on {quoted(cluster_name)}"
    return _line(noun, change=change, fields=MODEL)


def route_line(change: Change) -> str:
    return _line(f"route {quoted(change.name)}", change=change, fields=ROUTE)


def experiment_line(change: Change) -> str:
    shown = tuple(each for each in change.fields if change.is_new is False or each.name == "arms")
    fields = ", ".join(_EXPERIMENT_KEYS[each.name] for each in shown)
    return f"{'+' if change.is_new else '~'} experiment {quoted(change.name)}: {fields}"


def experiment_state_line(*, name: str, state: str) -> str:
    return f"~ experiment {quoted(name)}: {state}"


def settings_line(change: Change) -> str:
    return _line("settings", change=change, fields=_EVERY_SETTING)


def secret_line(*, cluster_name: str, purpose: str, is_new: bool) -> str:
    sign, what = ("+", "stored") if is_new else ("~", "replaced")
    return f"{sign} {purpose} secret of {quoted(cluster_name)}: {what}"


def hourly_costs_line(*, cluster_name: str, count: int) -> str:
    return f"+ hourly costs of {quoted(cluster_name)}: {count} new"


def price_line(*, model: str, cluster_name: str, old: Rate | None, new: Mapping[str, int]) -> str:
    """Prices in USD per million tokens; a change names only those that differ."""
    noun = f"price of {quoted(model)} on {quoted(cluster_name)}"
    written = written_values(new, fields=PRICES)
    if old is None:
        return f"+ {noun}: {_listed(written)}"
    before = written_values({each.target: getattr(old, each.target) for each in PRICES}, fields=PRICES)
    return f"~ {noun}: " + ", ".join(
        f"{key} {before[key]} -> {value}" for key, value in written.items() if before[key] != value
    )


def _line(noun: str, *, change: Change, fields: Collection[Field]) -> str:
    known = {each.target: each for each in fields}
    words = []
    for each in change.fields:
        field = known.get(each.name)
        key = field.key if field else each.name
        write = field.kind.write if field else str
        old = "(none)" if each.old in (None, "", [], {}) else write(each.old)
        words.append(f"{key} {write(each.new)}" if change.is_new else f"{key} {old} -> {write(each.new)}")
    listed = f": {', '.join(words)}" if words else ""
    return f"{'+' if change.is_new else '~'} {noun}{listed}"


def _listed(written: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in written.items())
