"""Reads a client's document member by member, and refuses by name what is wrong or not possible here."""

from collections.abc import Collection, Mapping
from typing import Any

from gateway.errors import InvalidRequestError, UnsupportedError


class Members:
    """An object of the client's document; `at` says where it stands, empty for the document itself.

    A member that is null counts as absent, as it does to both APIs.
    """

    def __init__(self, document: Mapping[str, Any], *, at: str = "") -> None:
        self.document = document
        self.at = at

    @classmethod
    def of(cls, value: object, *, at: str) -> "Members":
        """Raises InvalidRequestError for what is no object."""
        if not isinstance(value, dict):
            raise InvalidRequestError(f"`{at}` must be an object.", param=at)
        return cls(value, at=at)

    def path(self, name: str) -> str:
        return f"{self.at}.{name}" if self.at else name

    def get(self, name: str) -> Any:
        return self.document.get(name)

    def text(self, name: str) -> str:
        value = self.document.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.document.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self.document.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return bool(value)

    def count(self, name: str) -> int:
        value = self.document.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, "must be a whole number from 1")
        return value

    def choice(self, name: str, among: Collection[str]) -> str:
        """The member, which must be one of these strings."""
        value = self.document.get(name)
        if not isinstance(value, str) or value not in among:
            raise self.wrong(name, f"must be one of {', '.join(among)}")
        return value

    def member(self, name: str) -> "Members":
        return Members.of(self.document.get(name), at=self.path(name))

    def member_or_none(self, name: str) -> "Members | None":
        return None if self.document.get(name) is None else self.member(name)

    def items(self, name: str) -> "list[Members]":
        """A list of objects; none where the member is absent."""
        value = self.document.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return [Members.of(item, at=f"{self.path(name)}[{index}]") for index, item in enumerate(value)]

    def refuse_if_given(self, names: Mapping[str, str]) -> None:
        """Refuse each of these members that is there and not false or empty, with its reason."""
        for name, why in names.items():
            if self.document.get(name):
                raise self.unsupported(name, why)

    def wrong(self, name: str, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"`{self.path(name)}` {why}.", param=self.path(name))

    def unsupported(self, name: str, why: str) -> UnsupportedError:
        return UnsupportedError(f"`{self.path(name)}` {why}.", param=self.path(name))
