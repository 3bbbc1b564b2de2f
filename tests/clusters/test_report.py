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


def add_mtls_cluster(*, days):
    """A cluster whose client certificate ends so many days after NOW."""
    cluster = add_cluster(endpoint="https://127.0.0.1:9", auth_type="mtls", tokens_per_s=10)
    certificate, key = certificate_and_key(days=days)
    inventory.store_secret(cluster_id=cluster.id, purpose="client_certificate", plaintext=certificate)
    inventory.store_secret(cluster_id=cluster.id, purpose="client_key", plaintext=key)
    inventory.store_secret(cluster_id=cluster.id, purpose="ca", plaintext=certificate_and_key(days=90)[0])
    return cluster


@pytest.mark.parametrize(
    ("days_later", "problem"),
    [
        (0, ""),
        (17, "the client certificate expires on 2030-01-31: store the next one"),
        (30, "the client certificate expired on 2030-01-31: store a new one"),
        (
            76,
            (
                "the client certificate expired on 2030-01-31: store a new one; "
                "the server certificate expired on 2030-03-02: renew it on the cluster's side; "
                "the stored CA certificate expires on 2030-04-01: store the next one beside it, and retire "
                "this one once the cluster's certificate is of the next"
            ),
        ),
    ],
)
def test_certificate_is_warned_of_two_weeks_before_its_end(days_later, problem):
    cluster = add_mtls_cluster(days=30)
    observation = Observation(is_healthy=True, certificate_expires_at=NOW + timedelta(days=60))
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)
    (view,) = load_inventory(now=NOW).clusters

    assert certificate_problem(view=view, now=NOW + timedelta(days=days_later, hours=1)) == problem


def test_expired_server_certificate_is_told_once():
    cluster = add_cluster(endpoint="https://127.0.0.1:9", tokens_per_s=10)
    inventory.save_record(record=Deployment(cluster=cluster, model="llama"))
    reason = "the server certificate of metal expired on 2029-12-31: renew it on the cluster's side"
    observation = Observation(
        is_healthy=False, reason=reason, is_conclusive=True, certificate_expires_at=NOW - timedelta(days=1)
    )
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    (report,) = report_clusters(now=NOW, is_probing=False)

    assert report.certificate_days == -1
    assert report.advice == (f"{reason} (https://127.0.0.1:9, backend vllm)",)


def test_expired_client_certificate_makes_its_cluster_unusable_and_is_told_once():
    add_mtls_cluster(days=30)

    (view,) = load_inventory(now=NOW + timedelta(days=30)).clusters
    (report,) = report_clusters(now=NOW + timedelta(days=30), is_probing=False)

    problem = "the client certificate of metal expired on 2030-01-31: store a new one"
    assert (view.is_usable, view.secret_problem) == (False, problem)
    assert (report.is_healthy, report.certificate_days, report.advice) == (False, 0, (problem,))


def test_cluster_that_could_not_be_asked_may_be_reachable():
    add_cluster(auth_type="hmac")

    (report,) = report_clusters(now=NOW, is_probing=True)

    assert (report.is_reachable, report.is_healthy) == (None, False)


BEHIND = (
    "its clock is 21 s behind ours: set both by NTP, since signatures are refused when they are 60 s apart"
)


@pytest.mark.parametrize(
    ("auth_type", "clock_skew_s", "advice"), [("hmac", 20, ()), ("hmac", -21, (BEHIND,)), ("none", 600, ())]
)
def test_clock_is_warned_of_where_signatures_depend_on_it(auth_type, clock_skew_s, advice):
    cluster = add_cluster(auth_type=auth_type, tokens_per_s=10)
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="s3cret")
    inventory.save_record(record=Deployment(cluster=cluster, model="llama"))
    observation = Observation(is_healthy=True, clock_skew_s=clock_skew_s)
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    (report,) = report_clusters(now=NOW, is_probing=False)

    assert (report.clock_skew_s, report.advice) == (clock_skew_s, advice)
