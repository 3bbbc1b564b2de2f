"""Each hour of owned capacity keeps the overhead factor that the router reckoned with."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0008_reservations_in_doubt"),
    ]

    operations = [
        migrations.AddField(
            model_name="capacityhour",
            name="overhead_permille",
            field=models.PositiveIntegerField(null=True),
        ),
    ]
