"""Billing that goes with the kind of a cluster, at each door."""

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection

from clusters.inventory import InventoryError, save_record
from clusters.models import Cluster
from clusters.paying import billing_fault
from tests.clusters.rows import add_cluster

migration = import_module("clusters.migrations.0004_providers_are_metered")


@pytest.mark.parametrize(
    ("kind", "billing", "is_right"),
    [
        ("own", "committed", True),
        ("own", "autoscaled", True),
        ("own", "metered", False),
        ("provider", "committed", False),
        ("provider", "autoscaled", False),
        ("provider", "metered", True),
    ],
)
def test_billing_goes_with_the_kind(kind, billing, is_right):
    assert (billing_fault(kind=kind, billing=billing) == "") is is_right


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"billing": "metered"},
            "an own cluster is paid by the hour: its billing is committed",
        ),
        (
            {"kind": "provider", "billing": "committed"},
            "a provider is paid by the token",
        ),
    ],
)
def test_cluster_in_no_bill_is_not_saved(values, message):
    with pytest.raises(InventoryError, match=message) as caught:
        add_cluster(**values)

    assert (caught.value.field, Cluster.objects.count()) == ("billing", 0)


@pytest.mark.django_db
def test_providers_of_before_become_metered():
    provider, own = add_cluster(name="bought", kind="provider"), add_cluster(name="built")
    Cluster.objects.update(billing="committed")

    migration.meter(apps, connection.schema_editor())

    assert dict(Cluster.objects.values_list("name", "billing")) == {"bought": "metered", "built": "committed"}
    save_record(record=Cluster.objects.get(id=provider.id))
    save_record(record=Cluster.objects.get(id=own.id))
