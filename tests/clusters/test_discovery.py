from datetime import timedelta
from uuid import UUID

import pytest

from clusters import inventory
from clusters.discovery import follow_models
from clusters.health import Observation
from clusters.models import Cluster, Deployment
from clusters.report import report_clusters
from clusters.snapshots import get_revision, load_clusters
from tests.clusters.rows import NOW, add_cluster

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=1)


def listing(*models, windows=()):
    return Observation(is_healthy=True, models=models, context_windows=tuple(windows))


def follow(cluster, observation, *, now=NOW):
    (view,) = load_clusters(now=now, cluster_ids=[cluster.id])
    follow_models(view=view, observation=observation, now=now)


def deployments():
    rows = Deployment.objects.order_by("model").values_list("model", "context_window", "vanished_at")
    return list(rows)


@pytest.fixture
def cluster():
    return add_cluster(discovery="always")


def test_models_that_appear_are_added_and_those_that_vanish_are_marked_and_kept(cluster):
    follow(cluster, listing("a", "b", windows=[("a", 4096)]))
    first = deployments()

    follow(cluster, listing("b", "c"), now=LATER)

    assert first == [("a", 4096, None), ("b", 8192, None)]
    assert deployments() == [("a", 4096, LATER), ("b", 8192, None), ("c", 8192, None)]


def test_model_that_returns_is_served_again(cluster):
    for models in (("a",), (), ("a",)):
        follow(cluster, listing(*models))

    assert deployments() == [("a", 8192, None)]


def test_vanishing_is_dated_from_its_first_probe_and_counts_one_revision(cluster):
    follow(cluster, listing("a"))
    before = get_revision()

    follow(cluster, listing(), now=NOW)
    follow(cluster, listing(), now=LATER)

    assert deployments() == [("a", 8192, NOW)]
    assert get_revision() == before + 1


def test_list_that_says_nothing_new_writes_nothing(cluster, django_assert_num_queries):
    follow(cluster, listing("a"))
    (view,) = load_clusters(now=NOW, cluster_ids=[cluster.id])

    with django_assert_num_queries(1):
        follow_models(view=view, observation=listing("a"), now=LATER)


@pytest.mark.parametrize("observation", [Observation(is_healthy=True), Observation(is_healthy=False)])
def test_probe_without_a_list_changes_nothing(cluster, observation):
    follow(cluster, listing("a"))

    follow(cluster, observation, now=LATER)

    assert deployments() == [("a", 8192, None)]


def test_disabled_model_stays_disabled_and_is_not_added_anew(cluster):
    inventory.save_record(record=Deployment(cluster=cluster, model="a", is_enabled=False))

    follow(cluster, listing("a", "b"))

    rows = Deployment.objects.order_by("model").values_list("model", "is_enabled", "vanished_at")
    assert list(rows) == [("a", False, None), ("b", True, None)]


def test_model_under_another_name_is_found_by_the_clusters_own(cluster):
    inventory.save_record(record=Deployment(cluster=cluster, model="fast", upstream_name="llama"))

    follow(cluster, listing("llama"))

    assert deployments() == [("fast", 8192, None)]


def test_names_that_are_none_are_left_out_and_the_rest_is_bounded(cluster):
    follow(cluster, listing("a,b", *(f"m{number:03}" for number in range(300))))

    assert Deployment.objects.count() == inventory.DISCOVERED_MODELS_MAX


@pytest.mark.parametrize(
    ("discovery", "expected"),
    [("never", []), ("empty", [("a", 8192, None)]), ("always", [("a", 8192, NOW), ("b", 8192, None)])],
)
def test_setting_says_how_far_the_list_is_followed(discovery, expected):
    cluster = add_cluster(discovery=discovery)

    follow(cluster, listing("a"))
    follow(cluster, listing("b"))

    assert deployments() == expected


def test_marks_end_with_the_following(cluster):
    follow(cluster, listing("a"))
    follow(cluster, listing())

    cluster.refresh_from_db()
    cluster.discovery = "empty"
    inventory.save_record(record=cluster)

    assert deployments() == [("a", 8192, None)]


def test_list_of_a_provider_cannot_be_followed():
    with pytest.raises(inventory.InventoryError, match="more models than you would pay for"):
        add_cluster(kind="provider", backend="openai", discovery="always")


def test_cluster_that_was_deleted_meanwhile_is_skipped(cluster):
    (view,) = load_clusters(now=NOW, cluster_ids=[cluster.id])
    Cluster.objects.filter(id=UUID(view.id)).delete()

    follow_models(view=view, observation=listing("a"), now=NOW)

    assert deployments() == []


def test_report_names_the_models_that_vanished(cluster):
    follow(cluster, listing("a", "b"))
    follow(cluster, listing("b"))

    (report,) = report_clusters(now=NOW, is_probing=False)

    assert "it does not list a any more, and gets no request for them" in report.advice
