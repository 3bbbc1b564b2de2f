"""Where a caller's requests may be served: the words of the rules, and how several of them bind together."""

import re
from collections.abc import Sequence

from routing.types import Placement

TAG = re.compile(r"[a-z0-9][a-z0-9._:-]{0,31}")
TAG_WORDS = (
    "1 to 32 lower-case letters, digits, dots, colons, hyphens and underscores, a letter or digit first"
)
REGION_CHARACTERS_MAX = 64


class PlacementError(ValueError):
    """A rule that cannot be kept; the message says what to write instead."""


def checked_tags(given: object, *, most: int) -> list[str]:
    """The tags in the order given, each once."""
    tags = _texts(given)
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise PlacementError(f"{tag!r} is no tag: write {TAG_WORDS}")
    if len(tags) > most:
        raise PlacementError(f"at most {most} tags")
    return tags


def checked_regions(given: object, *, most: int) -> list[str]:
    """The regions in the order given, each once; they are compared with the clusters' letter by letter."""
    regions = _texts(given)
    for region in regions:
        if not region or len(region) > REGION_CHARACTERS_MAX or not region.isprintable():
            raise PlacementError(
                f"{region!r} is no region: write one as the clusters have it, such as eu-west-1"
            )
    if len(regions) > most:
        raise PlacementError(f"at most {most} regions")
    return regions


def combined(rules: Sequence[Placement]) -> Placement | None:
    """All rules at once, the strictest of each: regions that every rule allows, tags that any asks for.

    None where no rule says anything.
    """
    allowed = [rule for rule in rules if rule.regions is not None]
    tagged = [rule for rule in rules if rule.required_tags or rule.forbidden_tags]
    if not allowed and not tagged:
        return None
    regions = [rule.regions for rule in allowed if rule.regions is not None]
    return Placement(
        regions=frozenset.intersection(*regions) if regions else None,
        required_tags=frozenset().union(*(rule.required_tags for rule in tagged)),
        forbidden_tags=frozenset().union(*(rule.forbidden_tags for rule in tagged)),
        regions_by=" and ".join(rule.regions_by for rule in allowed),
        tags_by=" and ".join(rule.tags_by for rule in tagged),
    )


def _texts(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise PlacementError('write a list of words such as ["a", "b"]')
    return list(dict.fromkeys(given))
