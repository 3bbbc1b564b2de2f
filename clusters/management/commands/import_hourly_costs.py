"""Brings a file of prices per hour over time (spot prices, contracts) into the inventory."""

import csv
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from clusters.hourly_costs import (
    COST_PER_HOUR_NANOUSD_MAX,
    ROWS_PER_PUT_MAX,
    SOURCE_CHARACTERS_MAX,
    CostChange,
    put_hourly_costs,
)
from clusters.inventory import InventoryError
from routing.money import NANOUSD_PER_USD

COLUMNS = ("cluster", "effective_at", "usd_per_hour")
USD_MAX = COST_PER_HOUR_NANOUSD_MAX // NANOUSD_PER_USD
NANOUSD = Decimal("1e-9")


class LineError(ValueError):
    """A line that is no hourly cost; the message says what would be right."""


class Command(BaseCommand):
    """Exits 1, with nothing written, where any line is wrong."""

    help = (
        "Import what clusters cost per hour from a moment on, from a CSV file with the columns "
        f"{', '.join(COLUMNS)}: gpu-spot,2026-11-20T09:00Z,1.0432. All lines or none; importing twice "
        "changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """`import_hourly_costs spot.csv`."""
        parser.add_argument("file", metavar="FILE.csv", type=Path)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Translate in, one call, translate out."""
        path: Path = options["file"]
        changes: dict[str, list[CostChange]] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                for name, change in _read(file):
                    changes.setdefault(name, []).append(change)
            written_count = put_hourly_costs(changes=changes, source=path.name[:SOURCE_CHARACTERS_MAX])
        except OSError as error:
            raise CommandError(f"cannot read {path} ({error.strerror}): name a CSV file") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{path} is not UTF-8 text: save it as UTF-8") from error
        except (LineError, InventoryError, csv.Error) as error:
            raise CommandError(f"{path}: {error}; nothing was imported") from error
        known_count = sum(map(len, changes.values())) - written_count
        self.stdout.write(f"{written_count} hourly costs written, {known_count} known already.")


def _read(file: Any) -> Iterator[tuple[str, CostChange]]:
    reader = csv.reader(file)
    header = tuple(cell.strip() for cell in next(reader, []))
    if header != COLUMNS:
        raise LineError(f"line 1 must be {','.join(COLUMNS)}")
    for count, cells in enumerate(reader):
        if count > ROWS_PER_PUT_MAX:
            raise LineError(f"more than {ROWS_PER_PUT_MAX} lines: split the file")
        if not cells:
            continue
        try:
            yield _entry([cell.strip() for cell in cells])
        except LineError as error:
            raise LineError(f"line {reader.line_num}: {error}") from error


def _entry(cells: list[str]) -> tuple[str, CostChange]:
    if len(cells) != len(COLUMNS):
        raise LineError(f"found {len(cells)} values; write {','.join(COLUMNS)}")
    name, moment, usd = cells
    try:
        effective_at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise LineError(f"{moment!r} is no moment; write one such as 2026-11-20T09:00Z") from error
    if effective_at.tzinfo is None:
        raise LineError(f"{moment!r} has no time zone; write one such as 2026-11-20T09:00Z")
    return name, CostChange(effective_at=effective_at, cost_per_hour_nanousd=_nanousd(usd))


def _nanousd(usd: str) -> int:
    try:
        amount = Decimal(usd)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 <= amount <= USD_MAX):
        raise LineError(f"{usd!r} is not an amount from 0 to {USD_MAX:,}; write USD such as 1.0432")
    if amount != amount.quantize(NANOUSD):
        raise LineError(f"{usd!r} has more than nine decimals")
    return int(amount * NANOUSD_PER_USD)
