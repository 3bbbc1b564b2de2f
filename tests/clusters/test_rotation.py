import pytest

from clusters import inventory, rotation
from clusters.inventory import InventoryError
from clusters.models import ClusterSecret
from tests.clusters.rows import NOW, add_cluster
from tests.clusters.test_monitor import pods, resolving_to  # noqa: F401 -- a fixture

pytestmark = pytest.mark.django_db


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
def test_each_address_must_accept_a_new_secret(pods, monkeypatch):  # noqa: F811 -- the fixture
    endpoint, _, addresses = pods
    cluster = add_cluster(endpoint=endpoint, auth_type="hmac", expands_addresses=True)
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="first", label="first")
    rotation.stage(cluster_name="metal", label="second")
    resolving_to(monkeypatch, *addresses)

    with pytest.raises(InventoryError, match=r"1 of 3 addresses fail, 127\.0\.0\.3: connection refused"):
        rotation.activate(cluster_name="metal", is_forced=False, now=NOW)
    waiting = ClusterSecret.objects.filter(is_staged=True).values_list("label", flat=True).get()
    resolving_to(monkeypatch, *addresses[:2])
    rotation.activate(cluster_name="metal", is_forced=False, now=NOW)

    assert waiting == "second"
    assert not ClusterSecret.objects.filter(is_staged=True).exists()
