"""Usage as a CSV file: its columns, one line for each attempt, and the export that streams them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from billing.amounts import AmountError, nanousd_from_usd, plain_usd_text
from billing.cells import moment_text, neutral_text, plain_text
from billing.models import UsageRecord
from billing.settled_rows import REQUEST_ID_CHARACTERS_MAX, settled_rows
from routing.types import TOKEN_BUCKETS

COUNT_MAX = 2**62
DIGITS_MAX = 19
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


class CellError(ValueError):
    """A cell that cannot be read; the message says how to write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the file: the field of the row behind it, and both directions of its text."""

    name: str
    field: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def usage_lines(*, from_at: datetime, to_at: datetime) -> Iterator[list[str]]:
    """The header, then the attempts that were settled from `from_at` up to `to_at`, in that order.

    Read page by page behind the last line (keyset), so that memory does not grow with the span and the
    ledger is never locked.
    """
    yield [column.name for column in COLUMNS]
    records = UsageRecord.objects.filter(settled_at__gte=from_at, settled_at__lt=to_at)
    for row in settled_rows(records, columns=[column.field for column in COLUMNS]):
        yield [column.write(row[column.field]) for column in COLUMNS]


def _text(*, characters_max: int) -> Callable[[str], str]:
    def read(cell: str) -> str:
        text = plain_text(cell)
        if len(text) > characters_max or not text.isprintable():
            raise CellError(f"{text[:40]!r} is longer than {characters_max} characters, or no text")
        return text

    return read


def _integer(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= DIGITS_MAX) or int(cell) > COUNT_MAX:
        raise CellError(f"{cell[:40]!r} is not a whole number from 0 on")
    return int(cell)


def _small_integer(cell: str) -> int:
    number = _integer(cell)
    if number > 2**31 - 1:
        raise CellError(f"{cell[:40]!r} is beyond {2**31 - 1}")
    return number


def _attempt_number(cell: str) -> int:
    number = _integer(cell)
    if not 1 <= number <= 2**15 - 1:
        raise CellError(f"{cell[:40]!r} is no number of an attempt: the first is 1")
    return number


def _boolean(cell: str) -> bool:
    if cell.lower() not in BOOLEANS:
        raise CellError(f"{cell[:40]!r} is not true or false")
    return BOOLEANS[cell.lower()]


def _uuid(cell: str) -> UUID:
    try:
        return UUID(cell)
    except ValueError as error:
        raise CellError(f"{cell[:40]!r} is not a UUID") from error


def _moment(cell: str) -> datetime:
    try:
        moment = datetime.fromisoformat(cell)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise CellError(f"{cell[:40]!r} is no moment: write it as 2026-11-03T12:00:00Z") from error


def _amount(cell: str) -> int:
    try:
        return nanousd_from_usd(cell)
    except AmountError as error:
        raise CellError(f"{error} (USD, at most nine decimals)") from error


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(cell: str) -> str:
        if cell not in allowed:
            raise CellError(f"{cell[:40]!r} is none of {', '.join(allowed)}")
        return cell

    return read


def _object(cell: str) -> Mapping[str, Any]:
    try:
        document = json.loads(plain_text(cell))
    except (ValueError, RecursionError) as error:
        raise CellError(f"{cell[:40]!r} is not JSON") from error
    if not isinstance(document, dict):
        raise CellError(f"{cell[:40]!r} is not a JSON object")
    return document


def _written(value: Any) -> str:
    return "" if value is None else str(value)


def _written_boolean(value: bool) -> str:
    return "true" if value else "false"


def _written_amount(nanousd: int | None) -> str:
    return "" if nanousd is None else plain_usd_text(nanousd)


def _written_object(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _text_column(name: str, *, characters_max: int) -> Column:
    return Column(name=name, field=name, write=neutral_text, read=_text(characters_max=characters_max))


def _count_column(name: str) -> Column:
    return Column(name=name, field=name, write=_written, read=_integer)


def _amount_column(name: str, *, field: str) -> Column:
    return Column(name=name, field=field, write=_written_amount, read=_amount)


COLUMNS = (
    Column(name="attempt_id", field="attempt_id", write=_written, read=_uuid),
    _text_column("request_id", characters_max=REQUEST_ID_CHARACTERS_MAX),
    Column(name="attempt_number", field="attempt_number", write=_written, read=_attempt_number),
    Column(name="started_at", field="started_at", write=moment_text, read=_moment),
    Column(name="settled_at", field="settled_at", write=moment_text, read=_moment),
    _text_column("organisation", characters_max=100),
    _text_column("team", characters_max=100),
    Column(name="key_id", field="key_id", write=_written, read=_uuid),
    _text_column("key_name", characters_max=120),
    _text_column("model", characters_max=200),
    _text_column("served_model", characters_max=200),
    _text_column("cluster", characters_max=64),
    Column(name="cluster_kind", field="cluster_kind", write=_written, read=_choice("own", "provider")),
    _text_column("provider", characters_max=32),
    _text_column("surface", characters_max=16),
    Column(name="is_stream", field="is_stream", write=_written_boolean, read=_boolean),
    Column(name="outcome", field="outcome", write=_written, read=_choice(*UsageRecord.Outcome.values)),
    _text_column("error_code", characters_max=64),
    *(_count_column(name) for name in TOKEN_BUCKETS),
    Column(name="is_estimate", field="is_estimate", write=_written_boolean, read=_boolean),
    _amount_column("held_usd", field="held_nanousd"),
    _amount_column("cost_usd", field="cost_nanousd"),
    _amount_column("variance_usd", field="variance_nanousd"),
    _amount_column("reported_cost_usd", field="reported_cost_nanousd"),
    _text_column("service_tier", characters_max=16),
    Column(name="ttft_ms", field="ttft_ms", write=_written, read=_small_integer),
    Column(name="duration_ms", field="duration_ms", write=_written, read=_small_integer),
    _text_column("experiment", characters_max=64),
    _text_column("arm", characters_max=200),
    Column(name="rate", field="rate", write=_written_object, read=_object),
)
