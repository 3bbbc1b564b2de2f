import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.urls import reverse

from clusters import inventory
from clusters.demo.standin import StandinSettings
from clusters.forms import ClusterForm, nanousd, usd
from clusters.health import Observation
from clusters.health_admin import HEALTH_CHECK_ROWS_MAX, BoundedPaginator
from clusters.hourly_costs import put_hourly_cost
from clusters.models import (
    Cluster,
    ClusterSecret,
    Deployment,
    HealthCheck,
    HourlyCost,
    Route,
    RouterSettings,
)
from clusters.snapshots import get_revision, load_inventory
from tests.clusters.rows import CANARY, NOW, add_cluster, certificate_and_key
from tests.fakes.standin_server import run_standin

pytestmark = pytest.mark.django_db

CHANGELIST = "admin:clusters_cluster_changelist"
CLUSTER_FORM = {
    "name": "metal",
    "kind": "own",
    "provider": "hetzner",
    "region": "fsn1",
    "state": "active",
    "endpoint": "http://vllm:8000/v1",
    "backend": "vllm",
    "auth_type": "none",
    "billing": "committed",
    "cost_per_hour_usd": "0.0928",
    "replica_count": "1",
    "in_flight_max": "64",
    "burst_percent": "100",
    "hourly_costs-TOTAL_FORMS": "0",
    "hourly_costs-INITIAL_FORMS": "0",
    "deployments-TOTAL_FORMS": "0",
    "deployments-INITIAL_FORMS": "0",
    "secrets-TOTAL_FORMS": "0",
    "secrets-INITIAL_FORMS": "0",
}


@pytest.fixture
def admin_user():
    """Without a password: hashing one takes longer than the test."""
    return User.objects.create(username="admin", is_staff=True, is_superuser=True)


def change_url(record):
    return reverse(f"admin:clusters_{record._meta.model_name}_change", args=[record.pk])


def errors_in(response):
    return re.findall(r'<ul class="errorlist[^"]*"[^>]*><li>(.*?)</li>', response.content.decode())


def messages_in(response):
    return [str(message) for message in response.context["messages"]]


def add(client, **changes):
    return client.post(reverse("admin:clusters_cluster_add"), {**CLUSTER_FORM, **changes}, follow=True)


def test_cluster_is_added_with_its_price_in_dollars(admin_client):
    response = add(admin_client)

    assert response.status_code == 200
    row = Cluster.objects.get()
    assert (row.endpoint, row.cost_per_hour_nanousd) == ("http://vllm:8000", 92_800_000)
    assert get_revision() == 1


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1", 10**9),
        ("0.000000001", 1),
        ("98.123456789", 98_123_456_789),
        ("999999", 999_999 * 10**9),
    ],
)
def test_dollars_are_exact_both_ways(text, amount):
    assert nanousd(Decimal(text)) == amount
    assert nanousd(usd(amount)) == amount


@pytest.mark.parametrize("price", ["-1", "x", "0.0000000001", "NaN", "1e30"])
def test_price_that_is_none_is_refused(admin_client, price):
    response = add(admin_client, cost_per_hour_usd=price)

    assert len(errors_in(response)) == 1
    assert Cluster.objects.count() == 0


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://169.254.169.254/", "never connected to"),
        ("http://10.0.0.1", "allow private network"),
        ("nonsense", "must begin with http"),
    ],
)
def test_endpoint_that_is_refused_is_told_at_its_field(admin_client, endpoint, message):
    response = add(admin_client, endpoint=endpoint)

    assert message in errors_in(response)[0]
    assert Cluster.objects.count() == 0


def test_price_is_shown_in_dollars_and_kept_when_saved_again(admin_client):
    cluster = add_cluster(cost_per_hour_nanousd=98_123_456_789)

    page = admin_client.get(change_url(cluster)).content.decode()
    form = {**CLUSTER_FORM, "endpoint": cluster.endpoint, "allow_private_network": "on"}
    admin_client.post(change_url(cluster), {**form, "cost_per_hour_usd": "98.123456789"})

    assert 'value="98.123456789"' in page
    assert Cluster.objects.get().cost_per_hour_nanousd == 98_123_456_789


def test_saving_the_form_keeps_the_health(admin_client):
    cluster = add_cluster()
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)
    form = {**CLUSTER_FORM, "endpoint": cluster.endpoint, "allow_private_network": "on"}

    admin_client.post(change_url(cluster), {**form, "health": "unhealthy", "region": "north"})

    assert Cluster.objects.values_list("health", "region").get() == ("healthy", "north")


def test_secrets_are_stored_and_never_shown(admin_client, caplog):
    certificate, key = certificate_and_key()
    response = add(
        admin_client,
        auth_type="hmac",
        secret=CANARY,
        secret_label="k1",
        client_certificate=certificate,
        client_key=key,
    )

    assert response.status_code == 200
    cluster = Cluster.objects.get()
    stored = ClusterSecret.objects.order_by("purpose").values_list("purpose", "label")
    assert list(stored) == [("client_certificate", "k1"), ("client_key", "k1"), ("hmac", "k1")]
    pages = [admin_client.get(url).content.decode() for url in (change_url(cluster), reverse(CHANGELIST))]
    history = admin_client.get(reverse("admin:clusters_cluster_history", args=[cluster.pk])).content.decode()
    assert "k1" in pages[0]
    body = key.splitlines()[1]
    for text in (*pages, history, caplog.text, repr(load_inventory(now=NOW))):
        assert CANARY not in text
        assert body not in text


def test_refused_form_does_not_send_secrets_back(admin_client):
    _, key = certificate_and_key()

    response = add(
        admin_client, auth_type="hmac", secret=CANARY, client_key=key, endpoint="nonsense", ca=CANARY
    )

    page = response.content.decode()
    assert errors_in(response) == ["ca: this is not a certificate in PEM form (ValueError)"]
    assert CANARY not in page
    assert key.splitlines()[1] not in page
    assert Cluster.objects.count() == 0


def test_token_needs_an_authentication_that_uses_it(admin_client):
    response = add(admin_client, secret=CANARY)

    assert errors_in(response) == ["choose bearer token, HMAC or AWS as authentication to store this"]


def test_canary_is_in_no_byte_of_the_database(admin_client):
    add(admin_client, auth_type="hmac", secret=CANARY)

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            stored = connection.connection.serialize()
        else:
            cursor.execute("SELECT * FROM clusters_cluster, clusters_clustersecret, django_admin_log")
            stored = repr(cursor.fetchall()).encode()

    assert b"http://vllm:8000" in stored
    assert CANARY.encode() not in stored


def test_secret_is_retired_by_its_box(admin_client):
    cluster = add_cluster(auth_type="hmac")
    secret_id = inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext=CANARY)
    form = {
        **CLUSTER_FORM,
        "endpoint": cluster.endpoint,
        "allow_private_network": "on",
        "auth_type": "hmac",
        "secrets-TOTAL_FORMS": "1",
        "secrets-INITIAL_FORMS": "1",
        "secrets-0-id": str(secret_id),
        "secrets-0-cluster": str(cluster.id),
    }

    admin_client.post(change_url(cluster), form)
    assert ClusterSecret.objects.get().is_active is True
    admin_client.post(change_url(cluster), {**form, "secrets-0-retire": "on"})

    assert ClusterSecret.objects.get().is_active is False


def test_discovery_is_set_on_the_form_and_models_that_vanished_are_told(admin_client):
    cluster = add_cluster()
    Deployment.objects.create(cluster=cluster, model="gone", vanished_at=NOW)
    page = reverse("admin:clusters_cluster_change", args=[cluster.id])
    assert '<span class="badge badge-bad">Vanished</span> 2030-01-01 12:00 UTC' in (
        admin_client.get(page).content.decode()
    )

    form = {**CLUSTER_FORM, "endpoint": cluster.endpoint, "allow_private_network": "on"}
    admin_client.post(page, {**form, "discovery": "always", "expands_addresses": "on"})

    assert Cluster.objects.values_list("discovery", "expands_addresses").get() == ("always", True)


def test_deployments_are_added_changed_and_deleted_in_place(admin_client):
    cluster = add_cluster()
    kept = Deployment(cluster=cluster, model="kept")
    gone = Deployment(cluster=cluster, model="gone")
    inventory.save_record(record=kept)
    inventory.save_record(record=gone)

    def row(number, deployment, **values):
        fields = {
            "model": "m",
            "context_window": "4096",
            "is_enabled": "on",
            "cluster": str(cluster.id),
            **values,
        }
        if deployment:
            fields["id"] = str(deployment.id)
        return {f"deployments-{number}-{name}": value for name, value in fields.items()}

    form = {**CLUSTER_FORM, "endpoint": cluster.endpoint, "allow_private_network": "on"}
    form |= {"deployments-TOTAL_FORMS": "3", "deployments-INITIAL_FORMS": "2"}
    form |= row(0, gone, model="gone", DELETE="on")
    form |= row(1, kept, model="kept", capabilities="chat, tools")
    form |= row(2, None, model="new")
    admin_client.post(change_url(cluster), form)

    rows = Deployment.objects.order_by("model").values_list("model", "context_window", "capabilities")
    assert list(rows) == [("kept", 4096, ["chat", "tools"]), ("new", 4096, [])]


def test_deployment_with_an_unknown_capability_is_refused(admin_client):
    response = add(
        admin_client,
        **{
            "deployments-TOTAL_FORMS": "1",
            "deployments-0-model": "m",
            "deployments-0-context_window": "1",
            "deployments-0-capabilities": "flying",
        },
    )

    assert "are unknown: use chat" in errors_in(response)[0]
    assert Cluster.objects.count() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_list_takes_the_same_queries_for_one_and_three(admin_client, django_assert_num_queries, count):
    for number in range(count):
        add_cluster(name=f"c{number}")
    admin_client.get(reverse(CHANGELIST))

    with django_assert_num_queries(6):
        response = admin_client.get(reverse(CHANGELIST))

    assert response.status_code == 200


def test_list_shows_each_state_at_a_glance(admin_client):
    cluster = add_cluster(provider="aws", region="us-east-1", tokens_per_s=900)
    observation = Observation(is_healthy=False, reason="<b>down</b>", is_conclusive=True)
    inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    page = admin_client.get(reverse(CHANGELIST)).content.decode()

    assert '<span class="badge badge-bad">Unhealthy</span> &lt;b&gt;down&lt;/b&gt;' in page
    assert '<span class="badge badge-ok">Active</span>' in page
    for text in ("aws / us-east-1", "900 rated", "$0.0928"):
        assert text in page


def test_change_page_shows_checks_costs_and_credentials(admin_client):
    cluster = add_cluster(auth_type="bearer", tokens_per_s=10)
    for number in range(25):
        observation = Observation(is_healthy=True, duration_ms=1000 + number)
        inventory.record_health(cluster_id=cluster.id, observation=observation, now=NOW)

    page = admin_client.get(change_url(cluster)).content.decode()

    assert page.count(" ms</td>") == 20
    assert "$0.002836" in page
    assert "no live bearer token is stored" in page


def test_pages_have_nothing_inline(admin_client):
    cluster = add_cluster()
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)
    inventory.store_secret(cluster_id=cluster.id, purpose="hmac", plaintext="s")
    urls = [change_url(cluster), reverse(CHANGELIST), change_url(inventory.get_router_settings())]
    urls += [reverse("admin:clusters_cluster_add"), reverse("admin:clusters_route_add")]

    for url in urls:
        page = admin_client.get(url).content.decode()
        main = page[page.index('id="content"') :]
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", main) == []


def act(client, action, *clusters):
    data = {"action": action, "_selected_action": [str(cluster.pk) for cluster in clusters]}
    return client.post(reverse(CHANGELIST), data, follow=True)


@pytest.mark.parametrize(
    ("action", "state"), [("drain", "draining"), ("activate", "active"), ("disable", "disabled")]
)
def test_action_sets_the_state(admin_client, action, state):
    clusters = [add_cluster(name=name) for name in ("a", "b")]

    response = act(admin_client, action, *clusters)

    assert messages_in(response) == [f"a is {state} now.", f"b is {state} now."]
    assert set(Cluster.objects.values_list("state", flat=True)) == {state}


def test_probe_now_says_what_was_seen(admin_client):
    with run_standin(StandinSettings()) as standin:
        clusters = [add_cluster(name="up", endpoint=standin.url), add_cluster(name="down")]
        response = act(admin_client, "probe_now", *clusters)

    assert messages_in(response) == [
        "down is not healthy: connection refused: is the server running there?",
        "up is healthy.",
    ]


def test_deleting_goes_through_the_inventory(admin_client):
    clusters = [add_cluster(name=name) for name in ("a", "b", "c")]
    revision = get_revision()

    admin_client.post(reverse("admin:clusters_cluster_delete", args=[clusters[0].pk]), {"post": "yes"})
    data = {"action": "delete_selected", "_selected_action": [str(clusters[1].pk)], "post": "yes"}
    admin_client.post(reverse(CHANGELIST), data)

    assert list(Cluster.objects.values_list("name", flat=True)) == ["c"]
    assert get_revision() == revision + 2


def test_viewer_may_look_and_nothing_else(client):
    cluster = add_cluster()
    viewer = User.objects.create(username="viewer", is_staff=True)
    viewer.user_permissions.set(
        Permission.objects.filter(codename__in=["view_cluster", "view_deployment", "view_clustersecret"])
    )
    client.force_login(viewer)

    shown = client.get(change_url(cluster))
    saved = client.post(change_url(cluster), {**CLUSTER_FORM, "region": "north"})
    act(client, "disable", cluster)

    assert (shown.status_code, saved.status_code) == (200, 403)
    assert Cluster.objects.values_list("region", "state").get() == ("", "active")


def test_stranger_is_sent_to_the_login(client):
    response = client.get(reverse(CHANGELIST))

    assert response.status_code == 302


def test_route_takes_model_names_by_line_or_comma(admin_client):
    data = {
        "model": "fast",
        "candidates": "llama, gpt-4o-mini\nmistral\n\n",
        "fallbacks": "",
        "while_waking": "wait",
        "is_enabled": "on",
    }

    admin_client.post(reverse("admin:clusters_route_add"), data)

    route = Route.objects.get()
    assert (route.candidates, route.fallbacks, route.policy) == (["llama", "gpt-4o-mini", "mistral"], [], "")
    assert route.while_waking == "wait"
    page = admin_client.get(change_url(route)).content.decode()
    assert "llama\ngpt-4o-mini\nmistral</textarea>" in page
    assert admin_client.get(reverse("admin:clusters_route_changelist")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": " , \n"}, "This field is required."),
        ({"candidates": "a, a"}, "candidates name a model twice: leave it once"),
        ({"policy": "dearest"}, "Select a valid choice. dearest is not one of the available choices."),
    ],
)
def test_bad_route_is_refused_at_its_field(admin_client, changes, message):
    data = {"model": "fast", "candidates": "llama", "is_enabled": "on", **changes}

    response = admin_client.post(reverse("admin:clusters_route_add"), data)

    assert errors_in(response) == [message]
    assert Route.objects.count() == 0


def test_settings_list_leads_to_the_one_row(admin_client):
    response = admin_client.get(reverse("admin:clusters_routersettings_changelist"))

    row = RouterSettings.objects.get()
    assert (response.status_code, response.url) == (302, change_url(row))
    assert admin_client.get(reverse("admin:clusters_routersettings_add")).status_code == 403
    assert admin_client.get(reverse("admin:clusters_routersettings_delete", args=[1])).status_code == 403


def test_settings_are_entered_as_people_write_them(admin_client):
    row = inventory.get_router_settings()
    page = admin_client.get(change_url(row)).content.decode()
    form = {
        "policy": "hybrid",
        "ttft_objective_ms": "800",
        "ttft_objective_us_per_prompt_token": "300",
        "tpot_objective_ms": "40",
        "miss_input_usd_per_mtok": "3.25",
        "miss_output_usd_per_mtok": "12",
        "queue_places_max": "7",
        "queue_wait_ms_max": "900",
        "stickiness_window_s": "0",
        "health_check_interval_s": "10",
        "latency_ms_max": "2000",
        "queue_depth_max": "5",
        "overhead_factor": "1.25",
        "cluster_cost_threshold_usd": "0.02",
        "read_timeout_s": "1",
        "write_timeout_s": "2",
        "idle_timeout_s": "3",
    }

    admin_client.post(change_url(row), form)

    assert 'value="1.1"' in page
    assert 'value="0.01"' in page
    assert 'value="2.5"' in page
    row.refresh_from_db()
    saved = (row.policy, row.overhead_permille, row.cluster_cost_threshold_nanousd)
    assert saved == ("hybrid", 1250, 20_000_000)
    assert (row.health_check_interval_s, row.is_external_fallback_enabled) == (10, False)
    objective = (row.ttft_objective_ms, row.ttft_objective_us_per_prompt_token, row.tpot_objective_ms)
    assert objective == (800, 300, 40)
    assert (row.queue_places_max, row.queue_wait_ms_max) == (7, 900)
    assert (row.miss_input_microusd_per_mtok, row.miss_output_microusd_per_mtok) == (3_250_000, 12_000_000)


def test_checks_are_read_only(admin_client):
    cluster = add_cluster()
    inventory.record_health(cluster_id=cluster.id, observation=Observation(is_healthy=True), now=NOW)
    check = HealthCheck.objects.get()

    assert admin_client.get(reverse("admin:clusters_healthcheck_changelist")).status_code == 200
    assert admin_client.get(change_url(check)).status_code == 200
    assert admin_client.post(change_url(check), {}).status_code == 403
    assert admin_client.get(reverse("admin:clusters_healthcheck_add")).status_code == 403


def test_pages_are_counted_no_further_than_anybody_pages(django_assert_num_queries):
    paginator = BoundedPaginator(HealthCheck.objects.order_by("-checked_at"), 100)

    with django_assert_num_queries(1) as queries:
        assert paginator.count == 0
    assert f"LIMIT {HEALTH_CHECK_ROWS_MAX}" in queries[0]["sql"]


def hourly_rows(*rows, stored=()):
    """The inline's part of a posted cluster form."""
    data = {
        "hourly_costs-TOTAL_FORMS": str(len(stored) + len(rows)),
        "hourly_costs-INITIAL_FORMS": str(len(stored)),
    }
    for number, row in enumerate((*stored, *rows)):
        data |= {f"hourly_costs-{number}-{name}": value for name, value in row.items()}
    return data


def hourly_row(moment, usd_per_hour):
    return {
        "effective_at_0": f"{moment:%Y-%m-%d}",
        "effective_at_1": f"{moment:%H:%M:%S}",
        "cost_per_hour_usd": usd_per_hour,
    }


def test_hourly_cost_is_added_on_the_clusters_page_and_shown(admin_client):
    cluster = add_cluster()
    rows = hourly_rows(hourly_row(datetime(2020, 1, 1, 10, tzinfo=UTC), "1.0432"))

    answer = admin_client.post(change_url(cluster), {**CLUSTER_FORM, **rows}, follow=True)
    page = admin_client.get(change_url(cluster)).content.decode()
    listed = admin_client.get(reverse(CHANGELIST)).content.decode()

    assert errors_in(answer) == []
    row = HourlyCost.objects.get()
    assert (row.effective_at, row.cost_per_hour_nanousd, row.source) == (
        datetime(2020, 1, 1, 10, tzinfo=UTC),
        1_043_200_000,
        "manual",
    )
    assert ">$1.0432</td>" in listed
    assert "<span>2020-01-01 10:00</span>" in page
    assert "<span>1.0432</span>" in page
    assert '<span class="badge badge-ok">in force</span>' in page


def test_hourly_cost_in_force_is_neither_changed_nor_deleted(admin_client):
    cluster = add_cluster()
    for moment, cost in ((datetime(2020, 1, 1, tzinfo=UTC), 5), (datetime(2999, 1, 1, tzinfo=UTC), 6)):
        put_hourly_cost(cluster_name="metal", effective_at=moment, cost_per_hour_nanousd=cost)
    scheduled, in_force = HourlyCost.objects.order_by("-effective_at")
    stored = [
        {"id": str(row.pk), "cluster": str(cluster.pk), **hourly_row(row.effective_at, "99"), "DELETE": "on"}
        for row in (scheduled, in_force)
    ]

    answer = admin_client.post(
        change_url(cluster), {**CLUSTER_FORM, **hourly_rows(stored=stored)}, follow=True
    )

    assert "this hourly cost is in force or was: it stays. Add a new one to follow it." in messages_in(answer)
    assert list(HourlyCost.objects.values_list("id", "cost_per_hour_nanousd")) == [(in_force.id, 5)]


def test_clusters_page_shows_the_latest_hourly_costs_only(admin_client):
    cluster = add_cluster()
    for year in range(2001, 2021):
        put_hourly_cost(
            cluster_name="metal", effective_at=datetime(year, 1, 1, tzinfo=UTC), cost_per_hour_nanousd=year
        )

    page = admin_client.get(change_url(cluster)).content.decode()

    assert 'name="hourly_costs-INITIAL_FORMS" value="12"' in page
    years = re.findall(r"<span>(2\d\d\d)-01-01 00:00</span>", page)
    assert years == [str(year) for year in range(2020, 2008, -1)]
    assert [page.count(f">{word}</span>") for word in ("scheduled", "in force", "past")] == [0, 1, 11]


def test_replicas_that_a_scaler_wrote_are_saved_only_where_they_were_entered(admin_client):
    cluster = add_cluster(billing="autoscaled", replica_count=1)
    form = {**CLUSTER_FORM, "billing": "autoscaled"}
    request_sees = {**form, "replica_count": "1"}

    class Scaling(ClusterForm):
        """A scaler writes while the page is open: after the form read the row, before it is saved."""

        def clean(self):
            inventory.set_replica_count(cluster_name="metal", replica_count=7, now=NOW)
            return super().clean()

    admin = site.get_model_admin(Cluster)
    admin.form = Scaling
    try:
        admin_client.post(change_url(cluster), request_sees)
        untouched = Cluster.objects.get().replica_count
        admin_client.post(change_url(cluster), {**form, "replica_count": "3"})
    finally:
        admin.form = ClusterForm

    assert untouched == 7
    assert Cluster.objects.get().replica_count == 3


def test_list_shows_what_all_replicas_cost(admin_client):
    add_cluster(billing="autoscaled", replica_count=3)

    page = admin_client.get(reverse(CHANGELIST)).content.decode()

    assert "3 x $0.0928 = $0.2784" in page


def test_preset_fills_in_all_but_a_name_and_a_key(admin_client):
    response = add(
        admin_client,
        preset="bedrock",
        endpoint="",
        provider="",
        region="eu-west-1",
        secret=f"{'A' * 20}:{'s' * 40}",
    )

    assert errors_in(response) == []
    row = Cluster.objects.get()
    assert (row.kind, row.provider, row.endpoint, row.backend, row.auth_type, row.billing) == (
        "provider",
        "bedrock",
        "https://bedrock-runtime.eu-west-1.amazonaws.com",
        "bedrock",
        "sigv4",
        "metered",
    )
    assert ClusterSecret.objects.get().purpose == "sigv4"


def test_preset_keeps_what_was_entered(admin_client):
    add(admin_client, preset="mistral", endpoint="https://eu.mistral.example", provider="mine")

    row = Cluster.objects.get()
    assert (row.provider, row.endpoint, row.backend) == ("mine", "https://eu.mistral.example", "openai")


def test_preset_without_an_address_of_its_own_asks_for_one(admin_client):
    response = add(admin_client, preset="azure", endpoint="")

    assert errors_in(response) == ["enter where it answers, without /v1"]


def test_key_that_is_no_access_key_is_refused(admin_client):
    response = add(admin_client, preset="bedrock", endpoint="", secret="AKIA-without-a-colon")

    assert errors_in(response) == [
        (
            "this is no AWS access key: write ACCESS_KEY_ID:SECRET_ACCESS_KEY, and :SESSION_TOKEN after it "
            "where there is one"
        )
    ]


def test_key_gets_its_own_limits(admin_client):
    cluster = add_cluster(kind="provider", billing="metered", auth_type="bearer")
    secret_id = inventory.store_secret(cluster_id=cluster.id, purpose="bearer", plaintext=CANARY)
    form = {
        **CLUSTER_FORM,
        "kind": "provider",
        "billing": "metered",
        "endpoint": cluster.endpoint,
        "allow_private_network": "on",
        "auth_type": "bearer",
        "secrets-TOTAL_FORMS": "1",
        "secrets-INITIAL_FORMS": "1",
        "secrets-0-id": str(secret_id),
        "secrets-0-cluster": str(cluster.id),
        "secrets-0-rpm_max": "60",
    }

    admin_client.post(change_url(cluster), form)

    (view,) = load_inventory(now=NOW).clusters
    assert [(key.id, key.rpm_max, key.tpm_max) for key in view.keys] == [(str(secret_id), 60, None)]
