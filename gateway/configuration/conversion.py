"""Turns the file's words into values and back: durations, exact USD, numbers, choices, endpoints."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from clusters.endpoint import EndpointError, check_endpoint, normal_endpoint
from gateway.configuration.document import Entry, Item, Listing, Scalar, Section

SHOWN_LENGTH_MAX = 60
DURATION_S_MAX = 2_147_483_647  # what its column holds
USD_MAX = 1_000_000
NUMBER_LENGTH_MAX = 28  # what Decimal keeps exactly

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_NAME = re.compile(r"[-a-zA-Z0-9_]+")
# Plain text that every YAML reader takes for text: no number, no yes or no, nothing special.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_NOT_TEXT = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


class BadValueError(ValueError):
    """A value that its key does not take; the message is `found …; write …`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one kind of value is read and written."""

    read: Callable[[Item], Any]
    write: Callable[[Any], str]


def shown(item: Item) -> str:
    """The value as an error message may show it: never what the environment brought."""
    if isinstance(item, Section):
        return "a section"
    if isinstance(item, Listing):
        return "a list"
    text = item.written if len(item.written) <= SHOWN_LENGTH_MAX else f"{item.written[:SHOWN_LENGTH_MAX]}…"
    return f'the value of "{text}"' if item.is_from_environment else f'"{text}"'


def suggestion(word: str, *, known: Iterable[str]) -> str:
    """` (did you mean x?)`, or nothing where no known word is close."""
    folded = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f" (did you mean {folded[close[0]]}?)" if close else ""


def quoted(text: str) -> str:
    """Text as YAML: plain where no reader could take it for something else, in double quotes otherwise."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    characters = (
        escapes.get(character, character if character.isprintable() else f"\\U{ord(character):08x}")
        for character in text.replace("${", "$${")
    )
    return f'"{"".join(characters)}"'


def text(*, length_max: int) -> Kind:
    def read(item: Item) -> str:
        wanted = f"write a text of 1 to {length_max} characters"
        words = _scalar(item, wanted=wanted).text
        if not 1 <= len(words) <= length_max or not words.isprintable():
            raise BadValueError(f"found {shown(item)}; {wanted}")
        return words

    return Kind(read=read, write=quoted)


def name(*, length_max: int) -> Kind:
    def read(item: Item) -> str:
        wanted = f"write 1 to {length_max} letters, digits, hyphens and underscores"
        words = _scalar(item, wanted=wanted).text
        if len(words) > length_max or not _NAME.fullmatch(words):
            raise BadValueError(f"found {shown(item)}; {wanted}")
        return words

    return Kind(read=read, write=quoted)


def choice(*choices: str) -> Kind:
    def read(item: Item) -> str:
        wanted = f"write {', '.join(choices[:-1])} or {choices[-1]}"
        words = _scalar(item, wanted=wanted).text
        if words not in choices:
            near = "" if _is_from_environment(item) else suggestion(words, known=choices)
            raise BadValueError(f"found {shown(item)}; {wanted}{near}")
        return words

    return Kind(read=read, write=quoted)


def flag() -> Kind:
    def read(item: Item) -> bool:
        words = _scalar(item, wanted="write true or false").text.lower()
        if words not in {"true", "false"}:
            raise BadValueError(f"found {shown(item)}; write true or false")
        return words == "true"

    return Kind(read=read, write=lambda value: "true" if value else "false")


def whole_number(*, least: int, most: int) -> Kind:
    def read(item: Item) -> int:
        wanted = f"write a whole number from {least} to {most}"
        number = _decimal(item, wanted=wanted)
        if number != number.to_integral_value() or not least <= number <= most:
            raise BadValueError(f"found {shown(item)}; {wanted}")
        return int(number)

    return Kind(read=read, write=str)


def scaled_number(*, digits: int, least: int | Decimal, most: int, unit: str) -> Kind:
    """A decimal number kept as an integer: `digits` after the point, exactly; more are refused."""

    def read(item: Item) -> int:
        wanted = f"write {unit} from {least} to {most} with at most {digits} digits after the point"
        number = _decimal(item, wanted=wanted)
        scaled = number.scaleb(digits)
        if scaled != scaled.to_integral_value() or not least <= number <= most:
            raise BadValueError(f"found {shown(item)}; {wanted}")
        return int(scaled)

    def write(value: int) -> str:
        written = f"{Decimal(value).scaleb(-digits):f}"
        return written.rstrip("0").rstrip(".") if "." in written else written

    return Kind(read=read, write=write)


def usd(*, digits: int) -> Kind:
    return scaled_number(digits=digits, least=0, most=USD_MAX, unit="an amount in USD")


def seconds(*, least: int) -> Kind:
    """A duration such as 30s, 5m, 1m30s or 1000ms, kept in whole seconds."""

    def read(item: Item) -> int:
        wanted = "write a duration in whole seconds, such as 30s, 5m or 1h"
        words = _scalar(item, wanted=wanted).text
        parts = _DURATION_PART.findall(words) if _DURATION.fullmatch(words) else []
        duration_ms = sum((Decimal(count) * _MILLISECONDS[unit] for count, unit in parts), Decimal(0))
        duration_s = duration_ms / 1000
        if not parts or duration_s != duration_s.to_integral_value():
            raise BadValueError(f"found {shown(item)}; {wanted}")
        if not least <= duration_s <= DURATION_S_MAX:
            raise BadValueError(f"found {shown(item)}; write a duration from {least}s to {DURATION_S_MAX}s")
        return int(duration_s)

    return Kind(read=read, write=lambda value: f"{value}s")


def moment() -> Kind:
    """A moment with its zone, such as 2026-11-20T09:00Z; written in UTC."""

    def read(item: Item) -> datetime:
        wanted = "write a moment with its zone, such as 2026-11-20T09:00Z"
        words = _scalar(item, wanted=wanted).text
        try:
            found = datetime.fromisoformat(words)
            in_utc = None if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            in_utc = None
        if in_utc is None:
            raise BadValueError(f"found {shown(item)}; {wanted}")
        return in_utc

    return Kind(read=read, write=lambda value: quoted(_moment_text(value)))


def endpoint() -> Kind:
    """The base URL of a cluster; a trailing /v1 is taken off, because requests add it."""

    def read(item: Item) -> str:
        wanted = "write a base URL such as https://aws.llm.example.com"
        written = _scalar(item, wanted=wanted).text
        try:
            check_endpoint(url=written, allow_private=True)
        except EndpointError as error:
            # What stands before an @ may be a password.
            found = "an endpoint with an @" if "@" in written else shown(item)
            raise BadValueError(f"found {found}; {error}") from None
        return normal_endpoint(written)

    return Kind(read=read, write=quoted)


def names(*, kind: Kind) -> Kind:
    """A list of texts, each once."""

    def read(item: Item) -> list[str]:
        if not isinstance(item, Listing):
            raise BadValueError(f"found {shown(item)}; write a list such as [a, b]")
        words = [kind.read(member) for member in item.items]
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None:
            raise BadValueError(f'found "{twice}" more than once; write each name once')
        return words

    return Kind(read=read, write=lambda words: f"[{', '.join(quoted(word) for word in words)}]")


def _moment_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def numbers(*, key: Kind, number: Kind) -> Kind:
    """Whole numbers by name: {a: 3, b: 1}."""

    def read(item: Item) -> dict[str, int]:
        if not isinstance(item, Section):
            raise BadValueError(f"found {shown(item)}; write names with numbers such as {{a: 3, b: 1}}")
        return {
            key.read(_as_scalar(name, entry)): number.read(entry.value)
            for name, entry in item.entries.items()
        }

    def write(values: Mapping[str, int]) -> str:
        return f"{{{', '.join(f'{quoted(name)}: {number.write(value)}' for name, value in values.items())}}}"

    return Kind(read=read, write=write)


def _as_scalar(name: str, entry: Entry) -> Scalar:
    return Scalar(place=entry.place, written=name, text=name, is_null=False, missing=())


def _scalar(item: Item, *, wanted: str) -> Scalar:
    if not isinstance(item, Scalar):
        raise BadValueError(f"found {shown(item)}; {wanted}")
    return item


def _is_from_environment(item: Item) -> bool:
    return isinstance(item, Scalar) and item.is_from_environment


def _decimal(item: Item, *, wanted: str) -> Decimal:
    written = _scalar(item, wanted=wanted).text
    if len(written) > NUMBER_LENGTH_MAX or not _NUMBER.fullmatch(written):
        raise BadValueError(f"found {shown(item)}; {wanted}")
    return Decimal(written)
