"""What migrations carry over: budgets that were crossed by the name of their organisation stay so."""

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection

from billing import budgets, keys
from billing.models import Budget

pytestmark = pytest.mark.django_db

carry = import_module("billing.migrations.0007_carry_crossed_budgets")


def test_hard_budgets_of_litellms_organisation_stay_crossed():
    owners = {}
    for name in ("litellm", "acme"):
        organisation_id = keys.put_organisation(name=name)
        team_id = keys.put_team(organisation_id=organisation_id, name=f"{name}-team")
        key = keys.issue_key(team_id=team_id, name=f"{name}-key")
        owners[name] = [{"organisation_id": organisation_id}, {"team_id": team_id}, {"key_id": key.id}]
    for owner in [*owners["litellm"], *owners["acme"]]:
        budgets.put_budget(**owner, limit_nanousd=5, window="day", is_hard=True)
    soft = budgets.put_budget(**owners["litellm"][0], limit_nanousd=5, window="day", is_hard=False)
    clamped = budgets.put_budget(
        **owners["litellm"][1], limit_nanousd=5, window="week", is_hard=True, is_clamped=True
    )

    for _ in range(2):
        carry.carry_over(apps, connection.schema_editor())

    crossed = Budget.objects.filter(is_crossed=True)
    assert {(b.organisation_id, b.team_id, b.key_id) for b in crossed} == {
        (owners["litellm"][0]["organisation_id"], None, None),
        (None, owners["litellm"][1]["team_id"], None),
        (None, None, owners["litellm"][2]["key_id"]),
    }
    assert {soft, clamped}.isdisjoint({b.id for b in crossed})
