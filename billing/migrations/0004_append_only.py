"""Usage rows are never changed: triggers refuse it. On PostgreSQL they go only where pruning says so.

On SQLite only changes are refused: the one writer is our own process, which prunes by billing.pruning alone.
"""

from django.db import migrations

REFUSAL = "usage rows are append-only: book a correction as a row of its own"

POSTGRESQL = f"""
CREATE FUNCTION tollgate_keep_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('tollgate.pruning', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '{REFUSAL}' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER usage_append_only BEFORE UPDATE OR DELETE ON billing_usagerecord
    FOR EACH ROW EXECUTE FUNCTION tollgate_keep_usage();
"""
POSTGRESQL_BACK = """
DROP TRIGGER usage_append_only ON billing_usagerecord;
DROP FUNCTION tollgate_keep_usage();
"""
SQLITE = f"""
CREATE TRIGGER usage_append_only BEFORE UPDATE ON billing_usagerecord
BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END;
"""
SQLITE_BACK = "DROP TRIGGER usage_append_only"


def guard(apps, schema_editor):
    is_sqlite = schema_editor.connection.vendor == "sqlite"
    schema_editor.execute(SQLITE if is_sqlite else POSTGRESQL, params=None)


def unguard(apps, schema_editor):
    is_sqlite = schema_editor.connection.vendor == "sqlite"
    schema_editor.execute(SQLITE_BACK if is_sqlite else POSTGRESQL_BACK, params=None)


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0003_exact_money"),
    ]

    operations = [
        # The hint sends it to the ledger's own database.
        migrations.RunPython(guard, unguard, hints={"model_name": "usagerecord"}),
    ]
