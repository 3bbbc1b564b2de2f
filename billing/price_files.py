"""Prices as CSV, in USD per million tokens: written from the table, read for an import or a rerating."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billing.amounts import AmountError, plain_rate_text, rate_from_usd
from billing.cells import moment_text, neutral_text, plain_text
from billing.price_book import RATE_NAMES, PriceEntry
from billing.price_conditions import (
    MINUTES_PER_DAY,
    PriceCondition,
    PriceConditionError,
    checked_condition,
    minute_from_text,
    time_text,
)

# A price list of every provider that the library knows is a twentieth of it.
LINES_MAX = 100_000
DIGITS_MAX = 10
ENDED = "ended"
REQUIRED = ("model", "input", "output")
RATE_COLUMNS = {name: name.removesuffix("_microusd_per_mtok") for name in RATE_NAMES}
COLUMNS = (
    "model",
    "cluster",
    "service_tier",
    "context_tokens_min",
    "daily_from",
    "daily_to",
    "effective_at",
    *RATE_COLUMNS.values(),
    "source",
    "source_version",
)


class PriceFileError(ValueError):
    """A file that is no price list; the message names the line and what to write there."""


def price_lines(entries: Iterable[PriceEntry]) -> Iterator[list[str]]:
    """The header, then one line for each price; an empty rate costs as input or output does."""
    yield list(COLUMNS)
    for entry in entries:
        condition = entry.condition
        yield [
            neutral_text(entry.model),
            neutral_text(entry.cluster_name),
            condition.service_tier,
            str(condition.context_tokens_min),
            *_window_cells(condition),
            moment_text(entry.effective_at),
            *("" if rate is None else plain_rate_text(rate) for rate in entry.rates),
            neutral_text(entry.source),
            neutral_text(entry.source_version),
        ]


def read_price_file(path: Path, *, now: datetime) -> list[PriceEntry]:
    """As read_prices, of a file; raises OSError too."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return read_prices(lines=lines, now=now)


def read_prices(*, lines: Iterable[str], now: datetime) -> list[PriceEntry]:
    """The prices of a CSV file with a header; raises PriceFileError.

    Only model, input and output must be there. Without a moment a price holds from `now` on; without a
    source it was entered by hand.
    """
    reader = csv.DictReader(lines)
    try:
        header = reader.fieldnames or ()
        _check_header(header)
        entries: list[PriceEntry] = []
        for row in reader:
            if len(entries) >= LINES_MAX:
                raise PriceFileError(f"the file has more than {LINES_MAX:,} prices: split it")
            entries.append(_entry(row, line=reader.line_num, now=now))
    except (csv.Error, UnicodeDecodeError) as error:
        raise PriceFileError(f"this is no CSV file in UTF-8: {error}") from error
    return entries


def _window_cells(condition: PriceCondition) -> tuple[str, str]:
    start, end = condition.daily_from_minute, condition.daily_to_minute
    if condition.is_ended:
        # As the table has it: all day from 00:00, a window from midnight on from 24:00.
        return time_text(start), ENDED
    return time_text(start % MINUTES_PER_DAY), time_text(end)


def _check_header(header: Iterable[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown:
        named = f"no column {', '.join(missing)}" if missing else f"an unknown column {', '.join(unknown)}"
        raise PriceFileError(f"the first line has {named}: the columns are {', '.join(COLUMNS)}")


def _entry(row: Mapping[str | Any, Any], *, line: int, now: datetime) -> PriceEntry:
    if None in row or None in row.values():
        raise PriceFileError(f"line {line} has not as many cells as the first line")
    cells = {name: plain_text(cell.strip()) for name, cell in row.items()}
    if not cells["model"]:
        raise PriceFileError(f"line {line}: a price needs the name of a model")
    try:
        rates: dict[str, Any] = {
            name: rate_from_usd(cells[column]) if cells.get(column) else None
            for name, column in RATE_COLUMNS.items()
        }
        for column in ("input", "output"):
            if not cells[column]:
                raise PriceFileError(f"line {line}: the {column} price is empty; write 0 where it is free")
        return PriceEntry(
            model=cells["model"],
            cluster_name=cells.get("cluster", ""),
            condition=_condition(cells),
            effective_at=_moment(cells.get("effective_at", ""), line=line, now=now),
            **rates,
            source=cells.get("source") or "manual",
            source_version=cells.get("source_version", ""),
        )
    except (AmountError, PriceConditionError) as error:
        raise PriceFileError(f"line {line}: {error}") from error


def _condition(cells: Mapping[str, str]) -> PriceCondition:
    tokens = cells.get("context_tokens_min") or "0"
    if not (tokens.isascii() and tokens.isdigit() and len(tokens) <= DIGITS_MAX):
        raise PriceConditionError(f"{tokens} is no number of prompt tokens: write one such as 200001")
    daily_from = minute_from_text(cells.get("daily_from") or "00:00")
    daily_to = cells.get("daily_to") or "24:00"
    is_ended = daily_to == ENDED
    condition = checked_condition(
        service_tier=cells.get("service_tier", ""),
        context_tokens_min=int(tokens),
        daily_from_minute=0 if is_ended else daily_from,
        daily_to_minute=MINUTES_PER_DAY if is_ended else minute_from_text(daily_to),
    )
    if not is_ended:
        return condition
    # It has the key of the price that it ends: all day's, or the window's beginning.
    return replace(condition, daily_from_minute=daily_from, daily_to_minute=daily_from)


def _moment(text: str, *, line: int, now: datetime) -> datetime:
    if not text:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise PriceFileError(
            f"line {line}: {text} is no moment: write one such as 2026-12-01T00:00:00Z"
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
