"""The console's first page: the state at a glance above everything that can be administered."""

import re
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import User
from django.utils.formats import localize

from tests.clusters.rows import add_cluster

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def staff_client(client):
    client.force_login(User.objects.create(username="op", is_staff=True))
    return client


def test_console_is_for_staff(client):
    client.force_login(User.objects.create(username="visitor"))

    answer = client.get("/admin/")

    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/")


def test_console_shows_the_fleet_and_escapes_what_clusters_say(staff_client):
    add_cluster(name="metal", health="unhealthy", health_reason="<b>no</b>", region="<i>x</i>")

    page = staff_client.get("/admin/").content.decode()

    assert "metal" in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page
    assert "<i>x" not in page
    assert "<b>no" not in page


def test_console_offers_only_what_its_user_may_do(staff_client, client):
    as_staff = staff_client.get("/admin/").content.decode()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))

    as_root = client.get("/admin/").content.decode()

    assert ["Issue key" in page for page in (as_staff, as_root)] == [False, True]


def test_page_of_one_app_is_a_list_only(client):
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))

    page = client.get("/admin/billing/").content.decode()

    assert "Usage records" in page
    assert "No clusters yet" not in page


def test_console_lists_the_inventory_first(client):
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))

    answer = client.get("/admin/")

    assert [app["app_label"] for app in answer.context["app_list"]] == ["clusters", "billing", "auth"]


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/clusters/cluster/add/", "/", "/live/"])
def test_pages_carry_no_inline_script_or_style(client, path):
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    if "login" in path:
        client.logout()

    answer = client.get(path)
    page = answer.content.decode()

    assert answer.status_code == 200
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page) == []


def test_list_has_its_filters_in_the_toolbar(client):
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    add_cluster(name="metal")

    page = client.get("/admin/clusters/cluster/?health__exact=healthy").content.decode()

    assert "<h1>Clusters</h1>" in page
    assert re.findall(r"<summary>(.*?)</summary>", page) == [
        "State",
        "Health: <strong>Healthy</strong>",
        "Kind",
        "Backend",
        "Provider",
    ]
    assert "Clear filters" in page


def test_admin_writes_times_to_the_second():
    moment = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)

    assert localize(moment) == "2026-11-03 04:05:06"
