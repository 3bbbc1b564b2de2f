"""An index of the attempts in doubt, so that refusals and balances can tell what they hold."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0007_carry_crossed_budgets"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="reservation",
            index=models.Index(
                condition=Q(("state", "in_doubt")), fields=["attempt_id"], name="reservation_in_doubt"
            ),
        ),
    ]
