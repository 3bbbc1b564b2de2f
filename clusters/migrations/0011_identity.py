"""When certificates end, how far clocks are apart, and secrets that wait until the cluster knows them."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("clusters", "0010_fleet")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="cluster",
            name="certificate_expires_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name="server certificate expires at"),
        ),
        migrations.AddField(
            model_name="cluster", name="clock_skew_s", field=models.IntegerField(blank=True, null=True)
        ),
        migrations.AddField(
            model_name="clustersecret",
            name="is_staged",
            field=models.BooleanField(
                default=False, help_text="Waits until the cluster knows it: nothing is signed with it yet."
            ),
        ),
    ]
