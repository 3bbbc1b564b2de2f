"""Which budgets may be crossed was decided by the name of their organisation: those of `litellm` keep the rule."""

from django.db import migrations
from django.db.models import Q

ORGANISATION = "litellm"


def carry_over(apps, schema_editor):
    budgets = apps.get_model("billing", "Budget").objects.using(schema_editor.connection.alias)
    within = (
        Q(organisation__name=ORGANISATION)
        | Q(team__organisation__name=ORGANISATION)
        | Q(key__team__organisation__name=ORGANISATION)
    )
    ids = list(budgets.filter(within, is_hard=True, is_clamped=False).values_list("id", flat=True))
    budgets.filter(id__in=ids).update(is_crossed=True)


class Migration(migrations.Migration):

    dependencies = [
        ("billing", "0006_crossed_budgets"),
    ]

    operations = [
        migrations.RunPython(carry_over, migrations.RunPython.noop, hints={"model_name": "budget"}),
    ]
