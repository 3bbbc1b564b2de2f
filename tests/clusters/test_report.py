from datetime import timedelta

import pytest

from clusters import inventory
from clusters.health import Observation
from clusters.models import Deployment
from clusters.report import certificate_problem, report_clusters
from clusters.snapshots import load_inventory
from routing.cost import nanousd_per_1k_tokens
from tests.clusters.rows import NOW, add_cluster, certificate_and_key

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("cost_per_hour_nanousd", "tokens_per_s", "expected"),
    [
        (92_800_000, 10, 2_835_556),  # the seed's example: $0.0928 an hour, 10 tokens/s, 1.1
        (3_600_000_000, 1000, 1_100_000),
        (0, 10, None),
        (1, None, None),
        (1, 0, None),
    ],
)
def test_cost_is_the_seeds_formula(cost_per_hour_nanousd, tokens_per_s, expected):
    cost = nanousd_per_1k_tokens(
        cost_per_hour_nanousd=cost_per_hour_nanousd, tokens_per_s=tokens_per_s, overhead_permille=1100
    )

    assert cost == expected


def test_report_without_probing_shows_what_was_seen_last():
    seen = add_cluster(name="a", tokens_per_s=10)
    add_cluster(name="b", cost_per_hour_nanousd=0)
    inventory.save_record(record=Deployment(cluster=seen, model="llama"))
    inventory.record_health(
        cluster_id=seen.id, observation=Observation(is_healthy=True, queue_depth=2), now=NOW
    )

    first, second = report_clusters(now=NOW, is_probing=False)

    assert (first.is_healthy, first.queue_depth, first.models, first.advice) == (True, 2, ("llama",), ())
    assert (first.tokens_per_s, first.nanousd_per_1k) == (10, 2_835_556)
    assert (second.is_healthy, second.reason) == (False, "not probed yet")
    assert second.advice == (
        "not probed yet (http://127.0.0.1:9, backend vllm)",
        "it has no cost per hour: its tokens count as free",
    )


def test_report_of_a_healthy_cluster_says_what_it_lacks():
    cluster = add_cluster()
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)

    (report,) = report_clusters(now=NOW, is_probing=False)

    assert report.advice == (
        "it serves no model: add a deployment, or a default model for a provider",
        "its speed is unknown: enter the rated tokens/s, so that its tokens get a cost",
    )


def test_report_of_a_disabled_cluster_gives_no_advice():
    add_cluster(state="disabled")

    (report,) = report_clusters(now=NOW, is_probing=True)

    assert (report.is_healthy, report.advice) == (False, ())


@pytest.mark.parametrize(
    ("days_later", "problem"),
    [
        (300, ""),
        (352, "the client certificate expires on 2031-01-01: store the next one"),
        (365, "the client certificate expired on 2031-01-01: store a new one"),
    ],
)
def test_certificate_is_warned_of_two_weeks_before_its_end(days_later, problem):
    cluster = add_cluster(endpoint="https://127.0.0.1:9", auth_type="mtls")
    certificate, key = certificate_and_key()
    inventory.store_secret(cluster_id=cluster.id, purpose="client_certificate", plaintext=certificate)
    inventory.store_secret(cluster_id=cluster.id, purpose="client_key", plaintext=key)
    (view,) = load_inventory(now=NOW).clusters

    assert certificate_problem(view=view, now=NOW + timedelta(days=days_later, hours=1)) == problem
