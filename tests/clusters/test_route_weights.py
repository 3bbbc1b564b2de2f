"""Weights, chains and tags of the inventory: what may be written, and what a form and a file make of it."""

import pytest
from django.urls import reverse

from clusters import catalogue, inventory
from clusters.inventory import InventoryError
from clusters.models import Cluster, Route
from clusters.route_weights import WEIGHT_MAX, problem_of

pytestmark = pytest.mark.django_db

RANGE = f"weights are whole numbers from 0 to {WEIGHT_MAX} by the name of the cluster"


@pytest.fixture(autouse=True)
def _clusters():
    for name in ("aws", "gcp"):
        inventory.save_record(record=Cluster(name=name, endpoint=f"https://{name}.example.com"))


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({}, ""),
        ({"aws": 3, "gcp": 0}, ""),
        ({"aws": WEIGHT_MAX}, ""),
        ({"aws": WEIGHT_MAX + 1}, RANGE),
        ({"aws": -1}, RANGE),
        ({"aws": True}, RANGE),
        ({"aws": 1.5}, RANGE),
        (["aws"], RANGE),
        (
            {"aws": 1, "azure": 1, "alibaba": 2},
            "weights name no cluster by alibaba, azure: add it first, or correct the name",
        ),
    ],
)
def test_weights_that_are_wrong_are_told(weights, problem):
    assert problem_of(weights) == problem


def test_route_with_wrong_weights_is_not_saved():
    with pytest.raises(InventoryError) as refusal:
        catalogue.put_route(model="fast", values={"candidates": ["llama"], "weights": {"azure": 1}})

    assert (refusal.value.field, Route.objects.count()) == ("weights", 0)


@pytest.mark.parametrize("chain", ["context_fallbacks", "content_filter_fallbacks"])
def test_chain_is_checked_as_other_fallbacks_are(chain):
    with pytest.raises(InventoryError) as refusal:
        catalogue.put_route(model="fast", values={"candidates": ["llama"], chain: ["a", "a"]})

    assert (refusal.value.field, str(refusal.value)) == (chain, f"{chain} name a model twice: leave it once")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["On-Prem"], "tags: 'On-Prem' is no tag: write 1 to 32 lower-case letters"),
        ("gdpr", "tags: write a list of words"),
        ([f"t{n}" for n in range(21)], "tags: at most 20 tags"),
    ],
)
def test_tags_that_nobody_could_ask_for_are_refused(tags, message):
    with pytest.raises(InventoryError) as refusal:
        catalogue.put_cluster(name="aws", values={"tags": tags})

    assert refusal.value.field == "tags"
    assert message in str(refusal.value)


def test_tags_put_again_are_no_change():
    catalogue.put_cluster(name="aws", values={"tags": ["on-prem", "gdpr"]})

    assert not catalogue.put_cluster(name="aws", values={"tags": ["on-prem", "gdpr"]}).is_change


def posted(admin_client, **changes):
    data = {"model": "fast", "candidates": "llama", "is_enabled": "on", **changes}
    return admin_client.post(reverse("admin:clusters_route_add"), data)


def test_form_takes_weights_by_line_and_shows_them_so(admin_client):
    posted(
        admin_client,
        policy="weighted",
        weights="aws: 3\n gcp :1, ",
        context_fallbacks="long",
        content_filter_fallbacks="mild, bold",
    )

    route = Route.objects.get()
    assert (route.policy, route.weights, route.context_fallbacks, route.content_filter_fallbacks) == (
        "weighted",
        {"aws": 3, "gcp": 1},
        ["long"],
        ["mild", "bold"],
    )
    page = admin_client.get(reverse("admin:clusters_route_change", args=[route.pk])).content.decode()
    assert "aws: 3\ngcp: 1</textarea>" in page


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("aws", "&#x27;aws&#x27; is no weight: write a cluster&#x27;s name, a colon and a whole number"),
        ("aws: -1", "is no weight"),
        ("aws: 1\naws: 2", "&#x27;aws&#x27; stands here twice: leave it once"),
        ("aws: 1001", RANGE),
        ("azure: 1", "weights name no cluster by azure: add it first, or correct the name"),
    ],
)
def test_form_refuses_wrong_weights_at_their_field(admin_client, weights, message):
    page = posted(admin_client, weights=weights).content.decode()

    assert message in page
    assert Route.objects.count() == 0
