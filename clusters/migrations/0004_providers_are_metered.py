"""Providers that were entered with another billing: it was never looked at, and now has to be metered."""

from django.db import migrations


def meter(apps, schema_editor):
    clusters = apps.get_model("clusters", "Cluster").objects.using(schema_editor.connection.alias)
    clusters.filter(kind="provider").exclude(billing="metered").update(billing="metered")


class Migration(migrations.Migration):

    dependencies = [
        ("clusters", "0003_latency_objective"),
    ]

    operations = [
        migrations.RunPython(meter, migrations.RunPython.noop, hints={"model_name": "cluster"}),
    ]
