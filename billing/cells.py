"""Cells of CSV files: texts that no spreadsheet runs as a formula, and back; moments in UTC."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

# A spreadsheet would run a cell that begins so as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
QUOTE = "'"


def neutral_text(text: str) -> str:
    """The text behind a quote where it could be a formula; one that begins with a quote gets one more."""
    return QUOTE + text if text.startswith((*FORMULA_STARTS, QUOTE)) else text


def plain_text(cell: str) -> str:
    """What `neutral_text` was made of."""
    return cell.removeprefix(QUOTE)


def moment_text(moment: datetime) -> str:
    """Such as 2026-11-03T12:00:00Z, with microseconds where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def csv_texts(lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines as CSV, one text each, so that a response or a file can be streamed."""
    written: list[str] = []
    writer = csv.writer(_Taken(written), lineterminator="\n")
    for line in lines:
        writer.writerow(line)
        yield written.pop()


class _Taken:
    """A file as far as csv.writer needs one: what is written is taken out again."""

    def __init__(self, written: list[str]) -> None:
        self._written = written

    def write(self, text: str) -> None:
        self._written.append(text)
