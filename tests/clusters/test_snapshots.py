import pytest

from clusters import inventory
from clusters.models import ClusterSecret, Deployment, Route, RouterSettings
from clusters.signing import BearerSigner, Key, NoneSigner, Rfc9421Signer
from clusters.snapshots import DeploymentView, RouteView, get_revision, load_clusters, load_inventory
from tests.clusters.rows import CANARY, NOW, add_cluster, certificate_and_key

pytestmark = pytest.mark.django_db


def fill(count):
    for number in range(count):
        cluster = add_cluster(name=f"metal-{number}", auth_type="hmac")
        inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=CANARY, label="k1")
        inventory.save_record(record=Deployment(cluster=cluster, model="llama"))
        inventory.save_record(record=Route(model=f"fast-{number}", candidates=["llama"]))


@pytest.mark.parametrize("count", [1, 3])
def test_inventory_is_loaded_by_seven_queries(count, django_assert_num_queries):
    fill(count)

    with django_assert_num_queries(7):
        snapshot = load_inventory(now=NOW)

    assert len(snapshot.clusters) == len(snapshot.routes) == count


def test_empty_inventory_has_default_settings_and_writes_nothing():
    snapshot = load_inventory(now=NOW)

    assert (snapshot.revision, snapshot.clusters, snapshot.routes) == (0, (), ())
    assert (snapshot.settings.policy, snapshot.settings.overhead_permille) == ("marginal", 1100)
    assert RouterSettings.objects.count() == 0


def test_cluster_is_shown_whole():
    cluster = add_cluster(
        kind="provider",
        provider="openai",
        region="eu",
        tokens_per_s=9,
        rpm_max=1,
        tpm_max=2,
        default_model="m",
    )
    deployment = Deployment(
        cluster=cluster, model="m", upstream_name="org/m", context_window=5, capabilities=["chat"]
    )
    inventory.save_record(record=deployment)

    (view,) = load_inventory(now=NOW).clusters

    assert view.deployments == (
        DeploymentView(
            id=str(deployment.id),
            model="m",
            upstream_name="org/m",
            context_window=5,
            output_tokens_max=None,
            capabilities=frozenset({"chat"}),
        ),
    )
    shown = (view.id, view.name, view.kind, view.provider, view.region, view.rated_tokens_per_s)
    assert shown == (str(cluster.id), "metal", "provider", "openai", "eu", 9)
    assert (view.rpm_max, view.tpm_max, view.default_model, view.health) == (1, 2, "m", "unknown")
    assert (view.signer, view.tls, view.secret_problem) == (NoneSigner(), None, "")


def test_upstream_name_is_the_models_own_where_none_is_given():
    inventory.save_record(record=Deployment(cluster=add_cluster(), model="llama"))

    assert load_inventory(now=NOW).clusters[0].deployments[0].upstream_name == "llama"


def test_disabled_deployments_and_routes_are_left_out_disabled_clusters_are_not():
    cluster = add_cluster(state="disabled")
    inventory.save_record(record=Deployment(cluster=cluster, model="off", is_enabled=False))
    inventory.save_record(record=Route(model="off", candidates=["off"], is_enabled=False))
    inventory.save_record(record=Route(model="on", candidates=["a", "b"], fallbacks=["c"], policy="cost"))

    snapshot = load_inventory(now=NOW)

    assert [(view.state, view.deployments) for view in snapshot.clusters] == [("disabled", ())]
    assert snapshot.routes == (RouteView(model="on", candidates=("a", "b"), fallbacks=("c",), policy="cost"),)


def test_revision_is_that_of_before_the_rows():
    add_cluster()

    assert load_inventory(now=NOW).revision == get_revision() == 1


def test_newest_secret_signs():
    cluster = add_cluster(auth_type="hmac")
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="a", label="old")
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="b", label="new")

    assert repr(load_inventory(now=NOW).clusters[0].signer) == "Rfc9421Signer(key_ids=('new', 'old'))"


@pytest.mark.parametrize(
    ("backend", "header"), [("vllm", "authorization"), ("claude", "x-api-key"), ("gemini", "x-goog-api-key")]
)
def test_token_goes_into_the_providers_header(backend, header):
    cluster = add_cluster(auth_type="bearer", backend=backend)
    inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext="t")

    signer = load_inventory(now=NOW).clusters[0].signer

    sent = signer.headers(method="GET", authority="a", path="/", query="", body=b"", now_s=1, nonce="n")
    assert [name for name, _ in sent] == [header]


def test_cluster_without_its_secret_is_shown_with_the_problem():
    add_cluster(auth_type="bearer")

    (view,) = load_inventory(now=NOW).clusters

    assert (view.signer, view.secret_problem) == (
        NoneSigner(),
        "no live bearer token is stored: add one in Admin > Clusters",
    )


def test_cluster_whose_secret_cannot_be_opened_is_shown_with_the_problem(settings):
    fill(2)
    good = add_cluster(name="open")
    settings.ENCRYPTION_KEYS = ["another"]

    views = load_inventory(now=NOW).clusters

    assert [("is missing" in view.secret_problem, view.signer) for view in views] == [
        (True, NoneSigner()),
        (True, NoneSigner()),
        (False, NoneSigner()),
    ]
    assert views[2].id == str(good.id)


def test_secret_of_one_row_does_not_open_in_another():
    fill(2)
    first, second = ClusterSecret.objects.order_by("cluster__name")
    second.ciphertext = first.ciphertext
    second.save()

    problems = [view.secret_problem for view in load_inventory(now=NOW).clusters]

    assert problems[0] == ""
    assert "was not sealed for this row" in problems[1]


def test_mtls_cluster_has_its_identity():
    cluster = add_cluster(endpoint="https://127.0.0.1:9", auth_type="mtls")
    certificate, key = certificate_and_key()
    for purpose, text in [("client_certificate", certificate), ("client_key", key), ("ca", certificate)]:
        inventory.store_secret(cluster_id=cluster.id, purpose=purpose, plaintext=text)

    (view,) = load_inventory(now=NOW).clusters

    assert view.secret_problem == ""
    assert view.tls.client_pem == f"{certificate.strip()}\n{key.strip()}\n".encode()
    assert view.tls.ca_pem == certificate.strip().encode()
    assert "PRIVATE" not in repr(view)


def test_snapshot_hides_secrets():
    fill(1)

    snapshot = load_inventory(now=NOW)

    assert isinstance(snapshot.clusters[0].signer, Rfc9421Signer)
    assert CANARY not in repr(snapshot)


def test_clusters_are_loaded_by_id():
    fill(3)
    chosen = add_cluster(name="chosen")

    assert [view.name for view in load_clusters(cluster_ids=[chosen.id], now=NOW)] == ["chosen"]


def test_all_live_keys_of_a_provider_are_in_use():
    cluster = add_cluster(kind="provider", billing="metered", auth_type="bearer", backend="azure")
    old, new, retired = (
        inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext=f"k-{label}", label=label)
        for label in ("old", "new", "retired")
    )
    inventory.retire_secret(secret_id=retired)
    inventory.limit_secret(secret_id=old, rpm_max=5, tpm_max=None)

    (view,) = load_clusters(now=NOW)

    assert view.keys == (
        Key(id=str(new), label="new", signer=BearerSigner("k-new", "api-key")),
        Key(id=str(old), label="old", signer=BearerSigner("k-old", "api-key"), rpm_max=5),
    )
    assert view.signer == BearerSigner("k-new", "api-key")
    assert "k-new" not in repr(view)


@pytest.mark.parametrize("values", [{"auth_type": "bearer"}, {"auth_type": "hmac"}])
def test_own_cluster_has_no_keys_to_choose_from(values):
    cluster = add_cluster(**values)
    inventory.store_secret(cluster_id=cluster.id, purpose=values["auth_type"], plaintext=CANARY)

    (view,) = load_clusters(now=NOW)

    assert (view.keys, view.secret_problem) == ((), "")


def test_limit_of_a_key_that_is_not_live_is_refused():
    cluster = add_cluster(auth_type="bearer")
    secret_id = inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext=CANARY)
    inventory.retire_secret(secret_id=secret_id)

    with pytest.raises(inventory.InventoryError):
        inventory.limit_secret(secret_id=secret_id, rpm_max=1, tpm_max=1)
