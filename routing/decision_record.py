"""The record of a decision that is kept with every row: what was compared, in 400 bytes, and its words.

    {"policy", "reason", "chosen", "cost", "ranked": [[place, cost, score], ...],
     "excluded": [[place, reason], ...], "others": how many more there were}

Costs are estimates in nano-USD, scores in the policy's own unit with four digits. A place is a cluster, with
its model where that is not the one that was asked for. The chosen one is always among the ranked.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from routing.scoring import AUTOSCALED_PLACE, LATE
from routing.types import Candidate, Decision, Deployment

RECORD_BYTES_MAX = 400
# What the names, brackets and commas of the record take, and a shortened answer's length that may be added.
FRAME_BYTES = 110
ENTRIES_MAX = 4
NAME_CHARACTERS_MAX = 32
# Of names with letters that take up to twelve bytes each in JSON.
ESCAPED_CHARACTERS_MAX = 6
PROVIDERS_PLACE = 2 * AUTOSCALED_PLACE

UsdText = Callable[[int], str]

_RULES = {
    "fallback": "no candidate of the route could serve it, so a fallback does",
    "last_resort": "everything was failing: the one whose pause ends first was tried",
}
_EXCLUSIONS = {
    "tried": "had failed this request already",
    "unhealthy": "was unhealthy",
    "draining": "was draining",
    "disabled": "was disabled",
    "cold": "was cold: none of it ran",
    "waking": "was waking: asked for, and not there yet",
    "waits_for_waking": "was passed over, since the route waits for its own cluster to wake",
    "secret_unreadable": "had a credential that cannot be used",
    "vanished": "did not list the model any more",
    "unpriced": "has no price, and a hard budget watches",
    "context_window": "has too small a context window",
    "in_flight_max": "had as many requests at once as it may",
    "external_fallback_disabled": "is a provider, and providers are switched off",
    "queue_depth": "had too long a queue",
    "latency": "was too slow at its last probe",
    "rate_limit": "had its rate limit used up",
    "other_arm": "answers for another arm of the route's experiment",
    "breaker_open": "had been failing a moment before",
}


def record_of(decision: Decision, *, chosen: Candidate) -> dict[str, Any]:
    """What is kept of a decision: at most RECORD_BYTES_MAX bytes of compact JSON, whatever the names."""
    left = RECORD_BYTES_MAX - FRAME_BYTES - len(decision.policy) - len(decision.reason)
    first, width = _entry(chosen, decision.model)
    left -= 2 * width
    ranked = [first]
    for candidate in decision.ranked[: ENTRIES_MAX + 1]:
        if candidate is chosen or len(ranked) == ENTRIES_MAX:
            continue
        entry, width = _entry(candidate, decision.model)
        left -= width
        if left < 0:
            break
        ranked.append(entry)
    excluded = []
    for exclusion in decision.exclusions[:ENTRIES_MAX]:
        name, width = _place(exclusion.deployment, decision.model)
        left -= width + len(exclusion.reason) + 6
        if left < 0:
            break
        excluded.append([name, exclusion.reason])
    listed = len(decision.ranked) if chosen in decision.ranked else len(decision.ranked) + 1
    return {
        "policy": decision.policy,
        "reason": decision.reason,
        "chosen": first[0],
        "cost": chosen.cost_nanousd,
        "ranked": ranked,
        "excluded": excluded,
        "others": listed - len(ranked) + len(decision.exclusions) - len(excluded),
    }


def next_best(record: Mapping[str, Any]) -> tuple[str, int] | None:
    """The cheapest of the others that were compared and what it would have cost, in nano-USD."""
    others = [(entry[0], entry[1]) for entry in _entries(record, "ranked")[1:] if isinstance(entry[1], int)]
    return others[0] if others else None


def explained(record: Mapping[str, Any], *, usd_text: UsdText) -> list[str]:
    """The record in sentences; `usd_text` writes nano-USD. What an older record lacks is left out."""
    policy, reason = str(record.get("policy", "")), str(record.get("reason", ""))
    if not policy:
        return []
    lines = [f"Policy {policy}{f': {_RULES[reason]}' if reason in _RULES else ''}."]
    entries = _entries(record, "ranked")
    if entries and len(entries[0]) == 3:
        name, cost, score = entries[0]
        lines.append(f"{name} was chosen, {_merit(policy, cost=cost, score=score, usd_text=usd_text)}.")
    if (other := next_best(record)) is not None:
        lines.append(f"Next best: {other[0]}, about {usd_text(other[1])}.")
    lines += [f"{place} {exclusion_words(why)}." for place, why in _entries(record, "excluded")]
    if record.get("others"):
        lines.append(f"{record['others']} more were considered.")
    if record.get("output_tokens_max"):
        lines.append(f"Its budget had {record['output_tokens_max']} tokens left for each answer.")
    return lines


def exclusion_words(reason: str) -> str:
    """Why a place could not serve, to be read after its name."""
    if reason.startswith("lacks_"):
        return f"does not offer {reason.removeprefix('lacks_')}"
    return _EXCLUSIONS.get(reason, f"was excluded: {reason.replace('_', ' ')}")


def _merit(policy: str, *, cost: int, score: float, usd_text: UsdText) -> str:
    price = f"about {usd_text(cost)}"
    if policy != "marginal":
        return f"{price}, score {score:g}"
    if score >= LATE:
        return f"{price}: late, but sooner than any other"
    if score < PROVIDERS_PLACE:
        share = score if score < AUTOSCALED_PLACE else score - AUTOSCALED_PLACE
        paid = "paid already" if score < AUTOSCALED_PLACE else "running anyway"
        return f"capacity that is {paid}, first token expected within {share:.0%} of the objective"
    risk = max(0, round(score - PROVIDERS_PLACE - cost))
    return f"{price} and {usd_text(risk)} for what its failures and late answers are expected to cost"


def _entries(record: Mapping[str, Any], name: str) -> Sequence[Sequence[Any]]:
    found = record.get(name, ())
    return [entry for entry in found if isinstance(entry, (list, tuple)) and len(entry) >= 2]


def _entry(candidate: Candidate, model: str) -> tuple[list[Any], int]:
    """What is kept of a candidate, and its bytes."""
    name, width = _place(candidate.deployment, model)
    cost, score = candidate.cost_nanousd, f"{candidate.score:.4g}"
    # A whole number gets ".0" and an exponent more digits.
    return [name, cost, float(score)], width + len(str(cost)) + len(score) + 14


def _place(deployment: Deployment, model: str) -> tuple[str, int]:
    """The name that is kept, and its bytes in JSON, where everything else than ASCII is escaped."""
    name = deployment.cluster
    if deployment.model != model:
        name = f"{name}/{deployment.model}"
    is_plain = name.isascii() and name.isprintable() and '"' not in name and "\\" not in name
    most = NAME_CHARACTERS_MAX if is_plain else ESCAPED_CHARACTERS_MAX
    if len(name) > most:
        name = f"{name[: most - 1]}~"
    return name, len(name) + 2 if is_plain else len(json.dumps(name))
