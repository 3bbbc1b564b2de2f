"""The first page: open to everybody, with the state at a glance for staff; and the pages of errors."""

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.template.loader import render_to_string
from django.test import AsyncRequestFactory

from gateway.pages import show_landing
from tests.clusters.rows import add_cluster
from tests.gateway.snapshots import NOW, cluster_view, deployment_view, keeper_of

pytestmark = pytest.mark.django_db(databases="__all__")

HEALTHY = {"health": "healthy"}
BROKEN = {"health": "unhealthy", "health_checked_at": NOW, "id": "c2", "name": "gcp", "deployments": ()}


def landing(*, user=None, clusters=(HEALTHY,), is_draining=False):
    keeper = keeper_of(clusters=[cluster_view(**values) for values in clusters])
    request = AsyncRequestFactory().get("/")
    request.META["HTTP_HOST"] = "gate.example.com"
    request.scope["gateway"] = SimpleNamespace(
        keeper=keeper,
        admission=SimpleNamespace(in_flight=0, is_draining=is_draining),
        figures=SimpleNamespace(figures=dict),
    )
    request.user = user or AnonymousUser()
    return show_landing(request).content.decode()


def test_landing_shows_strangers_an_example_and_counts_only():
    add_cluster(name="metal-secret")

    page = landing(clusters=[HEALTHY, BROKEN])

    assert "curl http://gate.example.com/v1/chat/completions" in page
    assert "Degraded · 1 of 2 clusters" in page
    assert "&quot;model&quot;: &quot;YOUR_MODEL&quot;" in page or '"model": "YOUR_MODEL"' in page
    assert "metal-secret" not in page
    assert "llama" not in page


def test_landing_shows_staff_the_state_and_a_model_to_try():
    add_cluster(name="metal")

    page = landing(user=User(username="op", is_staff=True))

    assert "metal" in page
    assert '"model": "llama"' in page
    assert "Spend today" in page


@pytest.mark.parametrize(
    ("kinds", "model"),
    [(["embeddings"], "chatting"), (["embeddings", "chat"], "all"), ([], "all")],
)
def test_landing_shows_staff_a_model_that_chats(kinds, model):
    chatting = deployment_view(id="d2", model="chatting", capabilities=frozenset({"chat"}))
    first = deployment_view(id="d1", model="all", capabilities=frozenset(kinds))

    page = landing(
        user=User(username="op", is_staff=True), clusters=[{**HEALTHY, "deployments": (first, chatting)}]
    )

    assert f'"model": "{model}"' in page


@pytest.mark.parametrize(
    ("clusters", "is_draining", "status"),
    [
        ([HEALTHY], False, "Serving"),
        ([HEALTHY, BROKEN], False, "Degraded"),
        ([BROKEN], False, "Nothing to serve with"),
        ([], False, "Nothing to serve with"),
        ([HEALTHY], True, "Draining"),
    ],
)
def test_landing_says_how_it_is(clusters, is_draining, status):
    assert f">{status}" in landing(clusters=clusters, is_draining=is_draining)


def test_landing_escapes_the_host_that_was_asked():
    request = AsyncRequestFactory().get("/")
    request.META["HTTP_HOST"] = "[::1]"
    request.user = AnonymousUser()

    assert "curl http://[::1]/v1/chat/completions" in show_landing(request).content.decode()


def test_landing_is_read_only(client):
    assert (client.get("/").status_code, client.post("/").status_code) == (200, 405)


def test_logging_out_leads_to_the_first_page(client):
    client.force_login(User.objects.create(username="op", is_staff=True))
    page = client.get("/").content.decode()

    answer = client.post("/admin/logout/", {"next": "/"})

    assert '<input type="hidden" name="next" value="/">' in page
    assert (answer.status_code, answer["Location"]) == (302, "/")


def test_missing_page_is_told_in_the_same_look(client):
    answer = client.get("/nothing/")

    assert answer.status_code == 404
    assert "Nothing is here" in answer.content.decode()


@pytest.mark.parametrize("name", ["400.html", "403.html", "403_csrf.html", "404.html", "500.html"])
def test_error_page_needs_no_request_and_no_database(name, django_assert_num_queries):
    with django_assert_num_queries(0):
        page = render_to_string(name)

    assert 'class="error-page"' in page
