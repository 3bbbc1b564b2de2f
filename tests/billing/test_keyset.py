"""Pages by key: each row once, in order, with queries that do not grow."""

import html
import re
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing.keyset import KeysetAdmin
from billing.models import UsageRecord
from tests.billing.rows import NOW, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/billing/usagerecord/"


def shown(page):
    return re.findall(r'field-request_id">(.*?)<', page.content.decode())


def link(page, label):
    found = re.search(rf'<a href="([^"]*)"[^>]*>{label}</a>', page.content.decode())
    return html.unescape(found[1]) if found else None


@pytest.fixture
def rows(monkeypatch):
    """Seven attempts in an order of their own; three were settled at one moment."""
    monkeypatch.setattr(KeysetAdmin, "list_per_page", 2)
    # Of those settled together the higher id comes first.
    ages = [(0, 5), (1, 90), (2, 50), (2, 40), (2, 30), (3, 80), (4, 70)]
    for number, (age, attempt) in enumerate(ages):
        make_usage(
            request_id=f"r{number}",
            attempt_id=UUID(int=attempt),
            model=f"model-{number * 3 % 7}",
            settled_at=NOW - timedelta(seconds=age, microseconds=7),
            outcome="failed" if number % 2 else "ok",
        )
    return [f"r{number}" for number in range(len(ages))]


def test_pages_show_each_row_once_and_newest_first(admin_client, rows):
    page = admin_client.get(LIST)
    pages = [page]
    while (older := link(page, "Older")) is not None:
        page = admin_client.get(LIST + older)
        pages.append(page)

    assert [shown(page) for page in pages] == [rows[0:2], rows[2:4], rows[4:6], rows[6:]]
    assert [link(page, "Newest") for page in pages] == [None, "?", "?", "?"]


def test_pages_keep_what_was_asked(admin_client, rows):
    first = admin_client.get(LIST, {"outcome": "failed"})
    second = admin_client.get(LIST + link(first, "Older"))

    assert [shown(page) for page in (first, second)] == [["r1", "r3"], ["r5"]]
    assert link(second, "Newest") == "?outcome=failed"
    assert link(second, "Older") is None


@pytest.mark.parametrize("place", ["2", "x~y", "~", "2026-11-20", f"{NOW.isoformat()}~7", "a" * 400, "\0~\0"])
def test_place_that_is_none_shows_the_first_page(admin_client, rows, place):
    page = admin_client.get(LIST, {"p": place})

    assert (page.status_code, shown(page)) == (200, rows[:2])


def test_order_that_the_address_asks_for_is_not_taken(admin_client, rows):
    page = admin_client.get(LIST, {"o": "4", "all": ""})

    assert shown(page) == rows[:2]
    assert "o=" not in "".join(re.findall(r'<th scope="col".*?</th>', page.content.decode(), re.DOTALL))


def test_page_is_one_bounded_query_of_rows_and_no_count(admin_client, rows):
    older = link(admin_client.get(LIST), "Older")

    with CaptureQueriesContext(connections[UsageRecord.objects.db]) as queries:
        admin_client.get(LIST + older)

    asked = [query["sql"] for query in queries if "billing_usagerecord" in query["sql"]]
    assert len(asked) == 1
    assert "LIMIT 3" in asked[0]
    assert "COUNT" not in asked[0]
