"""The downloads of the usage page."""

import csv
from io import StringIO

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient

from billing import usage_downloads
from billing.focus import COLUMNS as FOCUS_COLUMNS
from billing.usage_files import COLUMNS
from tests.billing.rows import make_rollup, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

SPAN = "from=2026-11-14&to=2026-11-20"
PATHS = ["/usage-attempts.csv", "/usage-focus.csv"]


def rows_of(text):
    return list(csv.reader(StringIO(text)))


@pytest.mark.parametrize("path", PATHS)
def test_downloads_are_for_staff(client, path):
    anonymous = client.get(path)
    client.force_login(User.objects.create_user("visitor"))
    visitor = client.get(path)

    assert [answer.status_code for answer in (anonymous, visitor)] == [302, 302]
    assert anonymous["Location"] == f"/admin/login/?next={path}"
    assert client.post(path).status_code == 405


def test_attempts_of_the_period_are_downloaded(admin_client):
    made = make_usage()

    answer = admin_client.get(f"/usage-attempts.csv?{SPAN}")

    rows = rows_of(answer.getvalue().decode())
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="attempts-2026-11-14-2026-11-20.csv"'
    assert rows[0] == [column.name for column in COLUMNS]
    assert [row[0] for row in rows[1:]] == [str(made.attempt_id)]


@pytest.mark.parametrize(("by", "start"), [("day", "T00:00:00Z"), ("hour", "T09:00:00Z")])
def test_focus_of_the_period_is_downloaded(admin_client, by, start):
    make_rollup(cluster_kind="provider")

    answer = admin_client.get(f"/usage-focus.csv?{SPAN}&by={by}")

    header, *rows = rows_of(answer.getvalue().decode())
    assert answer["Content-Disposition"] == 'attachment; filename="focus-2026-11-14-2026-11-20.csv"'
    assert header == list(FOCUS_COLUMNS)
    assert [row[header.index("ChargePeriodStart")] for row in rows] == [f"2026-11-20{start}"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("from=soon", "'soon' is not a date: write it as 2026-11-03 or 2026-11-03T12:00Z"),
        (f"{SPAN}&by=week", "by is hour or day"),
    ],
)
def test_bad_question_is_explained(admin_client, query, message):
    answer = admin_client.get(f"/usage-focus.csv?{query}")

    assert (answer.status_code, answer.content.decode()) == (400, message)


@pytest.mark.django_db(databases="__all__", transaction=True)
async def test_download_is_streamed_in_pieces_over_asgi(monkeypatch):
    monkeypatch.setattr(usage_downloads, "LINES_AT_ONCE", 2)
    staff = await User.objects.acreate(username="admin", is_staff=True)
    for _ in range(4):
        await sync_to_async(make_usage)()
    client = AsyncClient()
    await client.aforce_login(staff)

    answer = await client.get(f"/usage-attempts.csv?{SPAN}")

    pieces = [piece.decode() async for piece in answer.streaming_content]
    assert [piece.count("\n") for piece in pieces] == [2, 2, 1]
    await sync_to_async(connections.close_all)()


def test_usage_page_links_to_the_downloads(admin_client):
    page = admin_client.get(f"/usage/?{SPAN}").content.decode()

    for path in PATHS:
        assert f'href="{path}?from=2026-11-14&amp;to=2026-11-20"' in page
