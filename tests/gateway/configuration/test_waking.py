"""`waking` of a cluster: what it becomes, what an import says of it, and what is refused."""

import pytest

from clusters.catalogue import load_catalogue
from clusters.models import ClusterSecret
from gateway.configuration.exporting import export_text
from tests.gateway.configuration.conftest import NOW

pytestmark = pytest.mark.django_db

CLUSTER = "clusters:\n  - name: spot\n    endpoint: https://spot.example.com\n    billing: autoscaled\n"
WAKING = (
    "    waking:\n"
    "      url: https://scaler.example.com/wake\n"
    "      authType: bearer\n"
    "      warmUp: 90s\n"
    "      minBilling: 60s\n"
    "      scaleDownWindow: 300s\n"
    "      maxReplicas: 4\n"
)
SECRET = "      secret: ${WAKE}\n"
ENVIRONMENT = {"WAKE": "canary-wake"}


def test_waking_becomes_the_clusters_and_its_secret_is_sealed(import_text):
    report = import_text(CLUSTER + WAKING + SECRET, ENVIRONMENT)

    (cluster,) = load_catalogue().clusters
    kept = {name: cluster.values[name] for name in ("wake_url", "wake_auth", "warm_up_s", "replicas_max")}
    assert kept == {
        "wake_url": "https://scaler.example.com/wake",
        "wake_auth": "bearer",
        "warm_up_s": 90,
        "replicas_max": 4,
    }
    assert cluster.secret_purposes == {"wake"}
    assert b"canary" not in bytes(ClusterSecret.objects.get().ciphertext)
    assert report.changes[-1] == "+ wake secret of spot: stored"
    assert import_text(CLUSTER + WAKING + SECRET, ENVIRONMENT).changes == ()
    changed = import_text(CLUSTER + WAKING.replace("90s", "2m"))
    assert changed.changes == ("~ cluster spot: waking.warmUp 90s -> 120s",)


def test_export_has_what_differs_and_a_variable_for_the_secret(import_text):
    import_text(CLUSTER + WAKING + SECRET, ENVIRONMENT)

    exported = export_text(now=NOW).partition("    waking:\n")[2]

    assert exported == WAKING.partition("    waking:\n")[2] + (
        "      secret: ${SPOT_WAKE_SECRET}  # the stored value is not exported\n"
    )


def test_export_says_nothing_of_a_cluster_that_is_never_woken(import_text):
    import_text(CLUSTER)

    assert "waking" not in export_text(now=NOW)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            CLUSTER + WAKING,
            [
                (
                    "2:11: clusters[0].name: waking.authType bearer needs waking.secret; write it, or "
                    "authType: none"
                )
            ],
        ),
        (
            CLUSTER + "    waking: {url: https://a.example.com/, secret: x}\n",
            [
                (
                    "5:51: clusters[0].waking.secret: there is no authType beside it; write authType: bearer "
                    "or hmac, or remove it"
                )
            ],
        ),
        (
            CLUSTER.replace("autoscaled", "committed") + "    waking: {url: https://a.example.com/}\n",
            [
                (
                    "2:11: clusters[0].name: only an autoscaled cluster is woken, and this one is committed: "
                    "leave the wake hook empty, or set its billing to autoscaled"
                )
            ],
        ),
        (
            CLUSTER + "    waking: {url: http://169.254.169.254/}\n",
            [
                (
                    "2:11: clusters[0].name: wake hook: 169.254.169.254 is a metadata, link-local or "
                    "otherwise reserved address, which is never connected to: enter the cluster's own address"
                )
            ],
        ),
        (
            CLUSTER + "    waking: {warmUp: soon, maxReplicas: 0}\n",
            [
                (
                    '5:22: clusters[0].waking.warmUp: found "soon"; write a duration in whole seconds, such '
                    "as 30s, 5m or 1h"
                ),
                '5:41: clusters[0].waking.maxReplicas: found "0"; write a whole number from 1 to 100000',
            ],
        ),
        (
            "routes:\n  - {model: m, candidates: [a], whileWaking: sleep}\n",
            ['2:46: routes[0].whileWaking: found "sleep"; write spill or wait'],
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(refusals, text, problems):
    assert refusals(text) == problems
