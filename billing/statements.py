"""Fast multi-row statements over a model's table: the ORM's column types without the ORM's objects."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from django.db import models

# Rows in one statement: 500 rows of 30 columns stay below SQLite's 32,766 parameters.
ROWS_MAX = 500


def chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in pieces of at most ROWS_MAX."""
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX]


def placeholders(count: int) -> str:
    return ", ".join(["%s"] * count)


def execute_all(cursor: Any, connection: Any, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[int]:
    """Run statements in order; gives back how many rows each changed. The last one's rows can be fetched.

    PostgreSQL gets them at once: one round trip, and the same order of locks.
    """
    if not statements:
        return []
    if connection.vendor != "postgresql":
        counts = []
        for sql, values in statements:
            cursor.execute(sql, values)
            counts.append(int(cursor.rowcount))
        return counts
    cursor.execute(
        "; ".join(sql for sql, _ in statements), [value for _, values in statements for value in values]
    )
    counts = [int(cursor.rowcount)]
    while cursor.nextset():
        counts.append(int(cursor.rowcount))
    return counts


class DriverCursor:
    """SQLite's own cursor under statements that say %s: Django's rewrites each text by regular expressions.

    The driver's errors are turned into Django's by whoever opens it, once for all (`ledger.commit`).
    """

    def __init__(self, connection: Any) -> None:
        connection.ensure_connection()
        self._cursor = connection.connection.cursor()
        self.fetchall = self._cursor.fetchall
        self.fetchone = self._cursor.fetchone

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        self._cursor.execute(_qmark(sql), values)


@lru_cache(maxsize=2048)
def _qmark(sql: str) -> str:
    assert "%%" not in sql, "these statements have parameters only"
    return sql.replace("%s", "?")


class InsertStatement:
    """`INSERT … VALUES (…), (…) <suffix>` for all columns of a model, in one database's words; made once."""

    def __init__(self, model: type[models.Model], *, vendor: str, suffix: str) -> None:
        fields = model._meta.concrete_fields
        self._converters = [(field.attname, _converter(field, vendor=vendor)) for field in fields]
        columns = ", ".join(f'"{field.column}"' for field in fields)
        self._head = f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES '  # noqa: S608 -- the model's own names
        self._row = f"({placeholders(len(fields))})"
        self._suffix = suffix
        self._texts: dict[int, str] = {}

    def statements(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
        """The statements and their values, for at most ROWS_MAX rows each."""
        for chunk in chunks(rows):
            values = [
                row[name] if convert is None else convert(row[name])
                for row in chunk
                for name, convert in self._converters
            ]
            yield self._text(len(chunk)), values

    def _text(self, row_count: int) -> str:
        text = self._texts.get(row_count)
        if text is None:
            text = self._head + ", ".join([self._row] * row_count) + " " + self._suffix
            self._texts[row_count] = text
        return text

    def execute(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Insert the rows; give back what the suffix returns, if it has a RETURNING."""
        returned: list[tuple[Any, ...]] = []
        for sql, values in self.statements(rows):
            cursor.execute(sql, values)
            if "RETURNING" in self._suffix:
                returned += cursor.fetchall()
        return returned


@lru_cache(maxsize=64)
def _insert(model: type[models.Model], vendor: str, suffix: str) -> InsertStatement:
    return InsertStatement(model, vendor=vendor, suffix=suffix)


def insert_into(model: type[models.Model], *, connection: Any, suffix: str) -> InsertStatement:
    """The statement for the connection's kind of database."""
    return _insert(model, connection.vendor, suffix)


def additions(
    model: type[models.Model],
    rows: Iterable[dict[str, Any]],
    *,
    connection: Any,
    sums: Sequence[str],
    latest: Sequence[str] = ("updated_at",),
) -> Iterator[tuple[str, Sequence[Any]]]:
    """Add the columns `sums` of rows to those that are there by `id`, and let `latest` follow; in id order.

    Rows of one id are added up first, into the first of them.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for addition in rows:
        row = by_id.setdefault(addition["id"], addition)
        if row is not addition:
            for name in sums:
                row[name] += addition[name]
    if not by_id:
        return
    table = model._meta.db_table
    changes = [f"{name} = {table}.{name} + excluded.{name}" for name in sums]
    changes += [f"{name} = excluded.{name}" for name in latest]
    suffix = f"ON CONFLICT (id) DO UPDATE SET {', '.join(changes)}"
    ordered = [by_id[row_id] for row_id in sorted(by_id)]
    yield from insert_into(model, connection=connection, suffix=suffix).statements(ordered)


def uuid_value(value: UUID, *, connection: Any) -> Any:
    """An id as the database's driver takes it for a UUIDField."""
    return value if connection.vendor == "postgresql" else _hex(value)


def moment_value(moment: datetime, *, connection: Any) -> Any:
    """A moment as the database's driver takes it for a DateTimeField."""
    return moment if connection.vendor == "postgresql" else _text_of_moment(moment)


def _converter(field: "models.Field[Any, Any]", *, vendor: str) -> Callable[[Any], Any] | None:
    """None: the driver takes the value as it is."""
    if isinstance(field, models.JSONField):
        return _json
    if vendor == "postgresql":
        return None
    if isinstance(field, models.UUIDField):
        return _hex
    return _text_of_moment if isinstance(field, models.DateTimeField) else None


def _hex(value: Any) -> str:
    return str(value.hex)


def _text_of_moment(moment: datetime | None) -> str | None:
    """As Django writes it into SQLite: UTC, without saying so."""
    if moment is None:
        return None
    if moment.tzinfo is not UTC:
        assert moment.tzinfo is not None, "the ledger's moments know their zone"
        moment = moment.astimezone(UTC)
    return moment.isoformat(" ")[:-6]  # without +00:00


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def uuid_of(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(hex=value)
