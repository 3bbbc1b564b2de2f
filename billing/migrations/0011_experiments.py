"""Which experiment and arm an attempt was of, the sums of each arm, and what callers say of answers."""

from django.db import migrations, models

TABLE = "billing_usagerecord"
COLUMNS = {"experiment": 64, "arm": 200}


def add_columns(apps, schema_editor):
    """By hand: on SQLite Django would copy the whole ledger and lose the triggers that guard it.

    Both databases add a column with a constant default without touching a row; partitions follow.
    """
    for name, characters_max in COLUMNS.items():
        schema_editor.execute(
            f"ALTER TABLE {TABLE} ADD COLUMN {name} varchar({characters_max}) NOT NULL DEFAULT ''"
        )


def drop_columns(apps, schema_editor):
    for name in COLUMNS:
        schema_editor.execute(f"ALTER TABLE {TABLE} DROP COLUMN {name}")


class Migration(migrations.Migration):

    dependencies = [
        ('billing', "0010_placement"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name='usagerecord',
                    name='arm',
                    field=models.CharField(blank=True, default='', max_length=200),
                ),
                migrations.AddField(
                    model_name='usagerecord',
                    name='experiment',
                    field=models.CharField(blank=True, default='', max_length=64),
                ),
            ],
            database_operations=[
                migrations.RunPython(add_columns, drop_columns, hints={"model_name": "usagerecord"}),
            ],
        ),
        migrations.CreateModel(
            name='ExperimentHour',
            fields=[
                ('id', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('experiment', models.CharField(max_length=64)),
                ('arm', models.CharField(max_length=200)),
                ('starts_at', models.DateTimeField()),
                ('attempts', models.BigIntegerField(default=0)),
                ('errors', models.BigIntegerField(default=0)),
                ('crossed_over', models.BigIntegerField(default=0)),
                ('cost_nanousd', models.BigIntegerField(default=0)),
                ('cost_squares', models.FloatField(default=0.0)),
                ('tokens', models.BigIntegerField(default=0)),
                ('tokens_squares', models.FloatField(default=0.0)),
                ('cost_times_tokens', models.FloatField(default=0.0)),
                ('ttft_count', models.BigIntegerField(default=0)),
                ('ttft_ms', models.BigIntegerField(default=0)),
                ('ttft_ms_squares', models.FloatField(default=0.0)),
                ('ttft_log', models.FloatField(default=0.0)),
                ('ttft_log_squares', models.FloatField(default=0.0)),
                ('feedback_count', models.BigIntegerField(default=0)),
                ('feedback_score', models.FloatField(default=0.0)),
                ('feedback_squares', models.FloatField(default=0.0)),
                ('updated_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['experiment'], name='experiment_hours')],
            },
        ),
        migrations.CreateModel(
            name='ExperimentLatency',
            fields=[
                ('id', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('experiment', models.CharField(max_length=64)),
                ('arm', models.CharField(max_length=200)),
                ('starts_at', models.DateTimeField()),
                ('bucket', models.PositiveSmallIntegerField()),
                ('count', models.BigIntegerField(default=0)),
            ],
            options={
                'indexes': [models.Index(fields=['experiment'], name='experiment_latencies')],
            },
        ),
        migrations.CreateModel(
            name='Feedback',
            fields=[
                ('id', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('request_id', models.CharField(max_length=64)),
                ('attempt_id', models.UUIDField()),
                ('key_id', models.UUIDField()),
                ('organisation', models.CharField(max_length=100)),
                ('team', models.CharField(max_length=100)),
                ('model', models.CharField(max_length=200)),
                ('served_model', models.CharField(max_length=200)),
                ('experiment', models.CharField(blank=True, default='', max_length=64)),
                ('arm', models.CharField(blank=True, default='', max_length=200)),
                ('score', models.FloatField()),
                ('comment', models.CharField(blank=True, default='', max_length=1000)),
                ('created_at', models.DateTimeField()),
                ('updated_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['attempt_id'], name='feedback_of_attempt'), models.Index(fields=['-created_at'], name='feedback_latest')],
                'constraints': [models.CheckConstraint(condition=models.Q(('score__gte', 0), ('score__lte', 1)), name='feedback_score_0_to_1')],
            },
        ),
    ]
