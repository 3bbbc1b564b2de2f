"""On PostgreSQL reservations and usage rows lie in partitions by month, so that a month can go at once.

The table that was there becomes the first partition: up to this month where it is empty, else with this month.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db import migrations

USAGE_INDEXES = {
    "usage_latest": "(settled_at DESC)",
    "usage_of_key": "(key_id, settled_at DESC)",
    "usage_of_request": "(request_id)",
}
RESERVATION_INDEXES = {"reservation_open": "(owner) WHERE state IN ('held', 'in_doubt')"}
TABLES = {"billing_reservation": RESERVATION_INDEXES, "billing_usagerecord": USAGE_INDEXES}


MONTHS_MADE = 3


def month_of(moment):
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month):
    return month_of(month + timedelta(days=31))


def first_id(month):
    return UUID(int=round(month.timestamp()) * 1000 << 80)


def partition(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    run = schema_editor.execute
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM billing_reservation)")
        is_used = cursor.fetchone()[0]
    month = month_of(datetime.now(UTC))
    if is_used:
        month = next_month(month)
    bound = first_id(month)
    # The triggers of rows move with the tables: dropped here, made anew on the whole.
    run("DROP TRIGGER usage_append_only ON billing_usagerecord")
    for table, indexes in TABLES.items():
        first, default = f"{table}_first", f"{table}_default"
        run(f"ALTER TABLE {table} RENAME TO {first}")
        run(f"ALTER INDEX {table}_pkey RENAME TO {first}_pkey")
        for name in indexes:
            run(f"ALTER INDEX {name} RENAME TO {name}_first")
        run(
            f"CREATE TABLE {table} (LIKE {first} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) "
            f"PARTITION BY RANGE (attempt_id)"
        )
        run(f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (attempt_id)")
        for name, columns in indexes.items():
            run(f"CREATE INDEX {name} ON {table} {columns}")
        run(f"CREATE TABLE {default} PARTITION OF {table} DEFAULT")
        make_months(run, table, month)
        run(
            f"WITH moved AS (DELETE FROM {first} WHERE attempt_id >= '{bound}' RETURNING *) "
            f"INSERT INTO {table} SELECT * FROM moved"
        )
        run(f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES FROM (MINVALUE) TO ('{bound}')")
    run(
        "CREATE TRIGGER usage_append_only BEFORE UPDATE OR DELETE ON billing_usagerecord "
        "FOR EACH ROW EXECUTE FUNCTION tollgate_keep_usage()"
    )


def make_months(run, table, month):
    """Ahead of beat, which goes on with them (billing.partitions)."""
    for _ in range(MONTHS_MADE):
        start, month = month, next_month(month)
        run(
            f"CREATE TABLE {table}_{start:%Y_%m} PARTITION OF {table} "
            f"FOR VALUES FROM ('{first_id(start)}') TO ('{first_id(month)}')"
        )


def unite(apps, schema_editor):
    """Back to one table each, with every partition's rows."""
    if schema_editor.connection.vendor != "postgresql":
        return
    run = schema_editor.execute
    run("DROP TRIGGER usage_append_only ON billing_usagerecord")
    for table, indexes in TABLES.items():
        whole = f"{table}_whole"
        run(f"CREATE TABLE {whole} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        run(f"INSERT INTO {whole} SELECT * FROM {table}")
        run(f"DROP TABLE {table}")
        run(f"ALTER TABLE {whole} RENAME TO {table}")
        run(f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (attempt_id)")
        for name, columns in indexes.items():
            run(f"CREATE INDEX {name} ON {table} {columns}")
    run(
        "CREATE TRIGGER usage_append_only BEFORE UPDATE OR DELETE ON billing_usagerecord "
        "FOR EACH ROW EXECUTE FUNCTION tollgate_keep_usage()"
    )


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0004_append_only"),
    ]

    operations = [
        migrations.RunPython(partition, unite, hints={"model_name": "usagerecord"}),
    ]
