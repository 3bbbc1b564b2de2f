"""Takes a section of the file apart, member by member, and collects what is wrong on the way."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.configuration.conversion import BadValueError, Kind, shown, suggestion
from gateway.configuration.document import Item, Listing, Place, Problem, Scalar, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A key of the file, the inventory's word for it, and the kind of its value."""

    key: str
    target: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What is to be said about a file: problems refuse it, warnings do not."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, place: Place, text: str) -> None:
        self.problems.append(Problem(place=place, text=text))

    def warn(self, place: Place, text: str) -> None:
        self.warnings.append(Problem(place=place, text=text))


class Members:
    """The members of one section. An absent, empty or wrong member reads as None; a wrong one is noted.

    A lenient section takes a variable that is not set for an absent member, with a warning.
    """

    def __init__(self, item: Item, *, known: Collection[str], notes: Notes, is_lenient: bool = False) -> None:
        self.place = item.place
        self._notes = notes
        self._is_lenient = is_lenient
        self._items: dict[str, Item] = {}
        if not isinstance(item, Section):
            if not (isinstance(item, Scalar) and item.is_null):
                notes.refuse(item.place, f"found {shown(item)}; write keys with values under it")
            return
        for key, entry in item.entries.items():
            if key not in known:
                listed = ", ".join(known)
                near = suggestion(key, known=known)
                notes.refuse(entry.place, f'found the unknown key "{key}"; write one of {listed}{near}')
            elif not (isinstance(entry.value, Scalar) and entry.value.is_null):
                self._items[key] = entry.value

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def place_of(self, key: str) -> Place:
        return self._items[key].place if key in self._items else self.place

    def item(self, key: str) -> Item | None:
        return self._items.get(key)

    def read(self, key: str, kind: Kind) -> Any:
        item = self._items.get(key)
        if item is None or self._is_missing(item):
            return None
        try:
            return kind.read(item)
        except BadValueError as error:
            self._notes.refuse(item.place, str(error))
            return None

    def values(self, fields: Collection[Field]) -> dict[str, Any]:
        """The members that are there and right, by the inventory's words."""
        values = {each.target: self.read(each.key, each.kind) for each in fields}
        return {target: value for target, value in values.items() if value is not None}

    def listing(self, key: str) -> tuple[Item, ...]:
        item = self._items.get(key)
        if item is None:
            return ()
        if not isinstance(item, Listing):
            self._notes.refuse(item.place, f"found {shown(item)}; write a list, each entry after a hyphen")
            return ()
        return item.items

    def _is_missing(self, item: Item) -> bool:
        missing = _missing(item)
        if not missing:
            return False
        names = " and ".join(missing)
        if self._is_lenient:
            self._notes.warn(
                item.place, f"left out, because {names} is not set (or empty) in the environment"
            )
        else:
            text = f"{names} is not set (or empty) in the environment; set it, or write the value here"
            self._notes.refuse(item.place, text)
        return True


def written_values(values: Mapping[str, Any], *, fields: Collection[Field]) -> dict[str, str]:
    """The other way round: the file's keys and words for values, in the order of the fields."""
    return {
        each.key: each.kind.write(values[each.target])
        for each in fields
        if values.get(each.target) is not None
    }


def _missing(item: Item) -> tuple[str, ...]:
    if isinstance(item, Listing):
        return tuple(name for member in item.items for name in _missing(member))
    return item.missing if isinstance(item, Scalar) else ()
