from datetime import timedelta

import pytest

from clusters import inventory
from clusters.badges import health_words
from clusters.models import Cluster
from clusters.traffic_signs import note_traffic
from tests.clusters.rows import NOW, add_cluster

pytestmark = pytest.mark.django_db

SOON = NOW + timedelta(seconds=5)


def signs(name="metal"):
    return Cluster.objects.values_list("traffic_failed_at", "traffic_avoided_until").get(name=name)


def test_traffic_is_noted_of_the_named_clusters_and_ends_by_name():
    add_cluster()
    add_cluster(name="other")

    note_traffic(avoided={"metal": SOON, "deleted": SOON}, recovered=[], now=NOW)
    assert (signs(), signs("other")) == ((NOW, SOON), (None, None))

    note_traffic(avoided={}, recovered=["metal"], now=NOW)
    assert signs() == (NOW, None)


def test_saving_a_cluster_leaves_what_traffic_says():
    cluster = add_cluster()
    note_traffic(avoided={"metal": SOON}, recovered=[], now=NOW)

    inventory.save_record(record=cluster)

    assert signs() == (NOW, SOON)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            NOW,
            (
                '<span class="badge badge-ok">Healthy</span> <span class="badge badge-bad">Failing</span> '
                "live traffic avoids it until 12:00:05 UTC"
            ),
        ),
        (SOON, '<span class="badge badge-ok">Healthy</span>'),
    ],
)
def test_admin_says_that_traffic_avoids_it_for_as_long_as_it_does(now, words):
    cluster = add_cluster()
    cluster.health, cluster.traffic_avoided_until = "healthy", SOON

    assert health_words(cluster, now=now) == words


def test_words_of_a_cluster_are_escaped():
    cluster = Cluster(health="unhealthy", health_reason="<b>")

    assert health_words(cluster, now=NOW) == '<span class="badge badge-bad">Unhealthy</span> &lt;b&gt;'
