"""Where the requests of a key may be served: what it and its team say, checked, and both together."""

from collections.abc import Sequence
from dataclasses import dataclass

from billing.models import ApiKey, Team
from billing.records import RecordError
from routing.placement import PlacementError, checked_regions, checked_tags, combined
from routing.types import Placement

PLACEMENT_FIELDS = ("allowed_regions", "required_tags", "forbidden_tags")
RULES_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementWords:
    """What a key or a team says of where its requests may be served; empty: nothing."""

    allowed_regions: Sequence[str] = ()
    required_tags: Sequence[str] = ()
    forbidden_tags: Sequence[str] = ()


ANYWHERE = PlacementWords()


def check_placement(record: ApiKey | Team) -> None:
    """Raises RecordError for words that no cluster can have, or that contradict each other."""
    for name in PLACEMENT_FIELDS:
        check = checked_regions if name == "allowed_regions" else checked_tags
        try:
            setattr(record, name, check(getattr(record, name), most=RULES_MAX))
        except PlacementError as error:
            raise RecordError(f"{name.replace('_', ' ')}: {error}") from error
    both = sorted(set(record.required_tags) & set(record.forbidden_tags))
    if both:
        raise RecordError(f"the tags {', '.join(both)} are both required and forbidden: take them out of one")


def placement_of(*, key: ApiKey) -> Placement | None:
    """The strictest of what the team and the key say; None: anywhere."""
    return combined([_rule(key.team, f'team "{key.team.name}"'), _rule(key, f'key "{key.name}"')])


def placement_text(record: ApiKey | Team) -> str:
    """In a line, for lists."""
    parts = (
        ("in", record.allowed_regions),
        ("with", record.required_tags),
        ("without", record.forbidden_tags),
    )
    return "; ".join(f"{word} {', '.join(given)}" for word, given in parts if given) or "anywhere"


def _rule(record: ApiKey | Team, label: str) -> Placement:
    return Placement(
        regions=frozenset(record.allowed_regions) or None,
        required_tags=frozenset(record.required_tags),
        forbidden_tags=frozenset(record.forbidden_tags),
        regions_by=label,
        tags_by=label,
    )
