"""Rights on PostgreSQL of a role that serves: it inserts usage rows, and cannot change or delete them."""

from typing import Any

from django.conf import settings
from django.db import connections

from billing.models import UsageRecord


def grant_statements(*, role: str) -> list[str]:
    """For the tables' owner to run, after each `migrate`. Partitions are reached by their table alone."""
    name = connections[settings.LEDGER_DATABASE].ops.quote_name(role)
    usage = UsageRecord._meta.db_table
    return [
        f"GRANT USAGE ON SCHEMA public TO {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {name}",
        *(f"REVOKE ALL ON {table} FROM {name}" for table in _partitions_of(usage)),
        f"REVOKE UPDATE, DELETE, TRUNCATE ON {usage} FROM {name}",
    ]


def apply_grants(*, role: str) -> None:
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        for statement in grant_statements(role=role):
            cursor.execute(statement)


def may_delete_usage() -> bool:
    """Whether this process's role may prune; on SQLite whoever may write the file may."""
    connection = connections[settings.LEDGER_DATABASE]
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_table_privilege(%s, 'DELETE')", [UsageRecord._meta.db_table])
        return bool(cursor.fetchone()[0])


def rights_problem() -> str:
    """Why this process cannot keep the ledger as it must be kept; empty where it can."""
    connection = connections[settings.LEDGER_DATABASE]
    usage = UsageRecord._meta.db_table
    if connection.vendor == "postgresql":
        guarded = (
            "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'usage_append_only' AND tgenabled <> 'D')"
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT has_table_privilege(%s, 'SELECT, INSERT')", [usage])
            if not cursor.fetchone()[0]:
                return f"this role may not add rows to {usage}: run `manage.py ledger_grants --role` for it"
    else:
        guarded = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'usage_append_only')"
    with connection.cursor() as cursor:
        cursor.execute(guarded)
        if not cursor.fetchone()[0]:
            return (
                f"the trigger usage_append_only of {usage} is gone or off, so rows could be changed: "
                f"make it anew as billing's migration 0004 does"
            )
    return ""


def _partitions_of(table: str) -> list[Any]:
    sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
    with connections[settings.LEDGER_DATABASE].cursor() as cursor:
        cursor.execute(sql, [table])
        return [row[0] for row in cursor.fetchall()]
