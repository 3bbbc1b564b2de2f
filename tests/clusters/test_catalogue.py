import pytest

from clusters.catalogue import (
    Change,
    FieldChange,
    load_catalogue,
    put_cluster,
    put_deployment,
    put_route,
    put_router_settings,
    put_secret,
)
from clusters.inventory import InventoryError
from clusters.models import Cluster, ClusterSecret, Revision

pytestmark = pytest.mark.django_db


def revision():
    return Revision.objects.values_list("number", flat=True).first()


def test_put_cluster_creates_changes_and_leaves(django_assert_num_queries):
    created = put_cluster(name="a", values={"endpoint": "https://a.example.com"})
    changed = put_cluster(name="a", values={"endpoint": "https://a.example.com", "region": "eu"})
    number = revision()
    with django_assert_num_queries(3):  # savepoint, row, release
        unchanged = put_cluster(name="a", values={"region": "eu"})

    assert created == Change(
        name="a",
        is_new=True,
        fields=(FieldChange(name="endpoint", old=None, new="https://a.example.com"),),
    )
    assert changed == Change(name="a", is_new=False, fields=(FieldChange(name="region", old="", new="eu"),))
    assert unchanged == Change(name="a", is_new=False, fields=())
    assert [change.is_change for change in (created, changed, unchanged)] == [True, True, False]
    assert revision() == number


def test_put_cluster_refuses_unknown_fields_and_bad_values():
    with pytest.raises(InventoryError, match="unknown fields health: use kind"):
        put_cluster(name="a", values={"endpoint": "https://a.example.com", "health": "healthy"})
    with pytest.raises(InventoryError, match="private or loopback"):
        put_cluster(name="a", values={"endpoint": "http://127.0.0.1"})

    assert not Cluster.objects.exists()


def test_put_deployment_needs_its_cluster():
    with pytest.raises(InventoryError, match="there is no cluster 'a': create it first"):
        put_deployment(cluster_name="a", model="m", values={})


def test_put_route_and_settings_change_only_what_differs():
    put_route(model="fast", values={"candidates": ["m"]})
    settings = put_router_settings(values={"policy": "marginal", "server_port": 8080})

    assert put_route(model="fast", values={"candidates": ["m"]}).is_change is False
    assert settings == Change(
        name="", is_new=False, fields=(FieldChange(name="server_port", old=None, new=8080),)
    )
    assert put_router_settings(values={"server_port": 8080}).is_change is False


def test_put_secret_keeps_one_of_its_label():
    put_cluster(name="a", values={"endpoint": "https://a.example.com"})
    words = ["one", "one", "two", "one"]

    stored = [put_secret(cluster_name="a", purpose="hmac", plaintext=word, label="file") for word in words]

    assert stored == [True, False, True, True]
    assert ClusterSecret.objects.filter(is_active=True).count() == 1


def test_load_catalogue_takes_six_queries(django_assert_num_queries):
    for name in ("b", "a", "c"):
        put_cluster(name=name, values={"endpoint": "https://x.example.com"})
        put_deployment(cluster_name=name, model="m", values={"capabilities": ["chat"]})
        put_secret(cluster_name=name, purpose="hmac", plaintext="word", label="")

    with django_assert_num_queries(6):
        catalogue = load_catalogue()

    assert [(each.name, each.secret_purposes) for each in catalogue.clusters] == [
        ("a", frozenset({"hmac"})),
        ("b", frozenset({"hmac"})),
        ("c", frozenset({"hmac"})),
    ]


def test_put_secret_without_an_encryption_key_is_refused(settings):
    put_cluster(name="a", values={"endpoint": "https://a.example.com"})
    settings.ENCRYPTION_KEYS = []

    with pytest.raises(InventoryError, match="no encryption key is set"):
        put_secret(cluster_name="a", purpose="hmac", plaintext="word", label="file")
