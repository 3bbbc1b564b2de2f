"""Fast multi-row statements over a model's table: the ORM's column types without the ORM's objects."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


class InsertStatement:
    """`INSERT … VALUES (…), (…) <suffix>` for all columns of a model, on one connection."""

    def __init__(self, model: type[models.Model], *, connection: Any, suffix: str) -> None:
        fields = model._meta.concrete_fields
        self._converters = [(field.attname, converter(field, connection=connection)) for field in fields]
        columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
        self._head = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({columns}) VALUES "  # noqa: S608 -- the model's own names
        self._row = f"({placeholders(len(fields))})"
        self._suffix = suffix

    def statements(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
        """The statements and their values, for at most ROWS_MAX rows each."""
        for chunk in chunks(rows):
            values = [convert(row[name]) for row in chunk for name, convert in self._converters]
            yield self._head + ", ".join([self._row] * len(chunk)) + " " + self._suffix, values

    def execute(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Insert the rows; give back what the suffix returns, if it has a RETURNING."""
        returned: list[tuple[Any, ...]] = []
        for sql, values in self.statements(rows):
            cursor.execute(sql, values)
            if "RETURNING" in self._suffix:
                returned += cursor.fetchall()
        return returned


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
    yield from InsertStatement(model, connection=connection, suffix=suffix).statements(ordered)


def converter(field: "models.Field[Any, Any]", *, connection: Any) -> Callable[[Any], Any]:
    """From a Python value to what the database's driver takes for the field."""
    if isinstance(field, models.UUIDField):
        return _same if connection.features.has_native_uuid_field else _hex
    if isinstance(field, models.DateTimeField):
        adapt: Callable[[Any], Any] = connection.ops.adapt_datetimefield_value
        return adapt
    return _json if isinstance(field, models.JSONField) else _same


def _same(value: Any) -> Any:
    return value


def _hex(value: Any) -> str:
    return str(value.hex)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def uuid_of(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(hex=value)
