"""What the admin shows and takes of clusters that are woken."""

from datetime import timedelta

import pytest
from django.urls import reverse

from clusters import inventory
from clusters.health import Observation
from clusters.models import Cluster, ClusterSecret, Waking
from clusters.temperature import await_replica
from tests.clusters.rows import CANARY, NOW, add_cluster
from tests.clusters.test_admin import CLUSTER_FORM, change_url, errors_in

pytestmark = pytest.mark.django_db

AUTOSCALED = {"billing": "autoscaled", "wake_url": "https://scaler.example.com/wake"}
NOBODY = Observation(is_healthy=False, reason="refused", is_conclusive=True, is_absent=True)


def test_page_shows_what_waking_takes_and_costs(admin_client):
    cluster = add_cluster(**AUTOSCALED, warm_up_s=90, billed_s_min=60, scale_down_s=300)
    inventory.record_health(cluster_id=cluster.id, observation=NOBODY, now=NOW)

    page = admin_client.get(change_url(cluster)).content.decode()

    assert '<span class="badge badge-muted">Cold</span>' in page
    assert "90 s, not measured yet" in page
    assert "never called" in page
    # 390 s at $0.0928 an hour.
    assert "$0.0101" in page
    changelist = admin_client.get(reverse("admin:clusters_cluster_changelist")).content.decode()
    assert '<span class="badge badge-muted">Cold</span>' in changelist
    assert '<span class="badge badge-muted">Asleep</span>' in changelist
    assert "badge-bad" not in changelist


def test_page_shows_what_became_of_calls(admin_client):
    cluster = add_cluster(**AUTOSCALED, warm_up_s=90)
    await_replica(cluster=cluster, waking=None, now=NOW)
    cluster.save(update_fields=["temperature"])
    Waking.objects.update(called_at=NOW, accepted_count=3)
    later = NOW + timedelta(seconds=40)
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=later)
    Waking.objects.update(failure_count=2, error="the wake hook answers HTTP 500")

    page = admin_client.get(change_url(cluster)).content.decode()

    # Two parts of what was entered, one of what was measured.
    assert "73 s; measured 40 s on average, 1 times" in page
    assert "3 taken, the latest call at 2030-01-01 12:00:00 UTC" in page
    assert '<span class="badge badge-bad">2 failed in a row</span>: the wake hook answers HTTP 500' in page


def test_cluster_that_is_always_there_shows_nothing_of_waking(admin_client):
    page = admin_client.get(change_url(add_cluster())).content.decode()

    assert 'badge-muted">Cold' not in page
    assert 'class="readonly">-</div>' in page


def test_wake_hook_is_entered_with_its_secret_which_is_never_shown(admin_client):
    cluster = add_cluster()
    form = {**CLUSTER_FORM, **AUTOSCALED, "wake_auth": "hmac", "wake_secret": CANARY, "replicas_max": "3"}

    response = admin_client.post(change_url(cluster), form)
    page = admin_client.get(change_url(cluster)).content.decode()

    assert response.status_code == 302
    saved = Cluster.objects.get()
    assert (saved.wake_url, saved.wake_auth, saved.replicas_max) == (AUTOSCALED["wake_url"], "hmac", 3)
    assert ClusterSecret.objects.get().purpose == "wake"
    assert CANARY not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wake_secret": "x"}, "choose bearer token or HMAC for the wake hook to store this"),
        (
            {"wake_auth": "bearer", "wake_secret": "two words"},
            "the token has characters that no header may carry: copy it again, without spaces",
        ),
        (
            {"wake_url": "http://169.254.169.254/"},
            (
                "wake hook: 169.254.169.254 is a metadata, link-local or otherwise reserved address, which "
                "is never connected to: enter the cluster&#x27;s own address"
            ),
        ),
        (
            {"billing": "committed"},
            (
                "only an autoscaled cluster is woken, and this one is committed: leave the wake hook empty, "
                "or set its billing to autoscaled"
            ),
        ),
        ({"replicas_max": "0"}, "Ensure this value is greater than or equal to 1."),
    ],
)
def test_what_cannot_be_kept_is_refused_at_its_field(admin_client, changes, message):
    cluster = add_cluster()

    response = admin_client.post(change_url(cluster), {**CLUSTER_FORM, **AUTOSCALED, **changes})

    assert errors_in(response) == [message]
    assert (Cluster.objects.get().wake_url, ClusterSecret.objects.count()) == ("", 0)
