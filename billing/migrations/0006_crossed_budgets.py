"""Budgets say by themselves whether the last request may cross them, LiteLLM's rule."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0005_monthly_partitions"),
    ]

    operations = [
        migrations.AddField(
            model_name="budget",
            name="is_crossed",
            field=models.BooleanField(
                default=False,
                help_text="Hard only, LiteLLM's rule: take requests while anything is left, so that the last one may cost more than that; refusals then have LiteLLM's words.",
                verbose_name="may be crossed",
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.CheckConstraint(
                condition=Q(("is_crossed", False), Q(("is_clamped", False), ("is_hard", True)), _connector="OR"),
                name="budget_crossed_is_hard",
            ),
        ),
    ]
