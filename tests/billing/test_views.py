"""The usage page and its CSV."""

import csv
import re
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing import views
from billing.models import SpendRollup
from tests.billing.rows import KEY_ID, make_capacity, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")

SPAN = "from=2026-11-14&to=2026-11-20"


@pytest.mark.parametrize("path", ["/usage/", "/usage.csv"])
def test_usage_is_for_staff(client, path):
    anonymous = client.get(path)
    client.force_login(User.objects.create_user("visitor"))
    visitor = client.get(path)

    assert [answer.status_code for answer in (anonymous, visitor)] == [302, 302]
    assert anonymous["Location"] == f"/admin/login/?next={path}"
    assert client.post(path).status_code == 405


def test_usage_page_shows_sums_chart_and_table(admin_client):
    make_rollup(cost_nanousd=1_500_000_000, requests=3, failures=1)
    make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=500_000_000, estimates=1)

    answer = admin_client.get(f"/usage/?{SPAN}&group=cluster")
    page = answer.content.decode()

    assert answer.status_code == 200
    for text in (
        "$2.00",
        "25.0%",
        'aria-label="Charged per day by cluster"',
        "20 Nov · gpu-a: $1.50",
        "75.0%",
        "/usage/?period=custom&amp;from=2026-11-14&amp;to=2026-11-20&amp;group=model&amp;cluster=gpu-a",
        "/usage.csv?period=custom&amp;from=2026-11-14&amp;to=2026-11-20&amp;group=cluster",
    ):
        assert text in page
    assert "style=" not in page.partition("<main")[2]


def cells(page, label):
    """The texts of the table's row with this heading."""
    body = page.partition('<table class="data-table">')[2]
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL) if label in row)
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in found]


def test_usage_page_shows_the_bill_of_clusters(admin_client):
    make_capacity(cost_nanousd=10 * 10**9, used_nanousd=4 * 10**9, idle_nanousd=6 * 10**9)
    make_rollup(cost_nanousd=10**9, amortised_nanousd=4 * 10**9, output_tokens=1_000_000)
    make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=2 * 10**9, output_tokens=500_000)

    page = admin_client.get(f"/usage/?{SPAN}&group=cluster").content.decode()

    stats = dict(re.findall(r'stat-label">(.*?)<.*?stat-value"[^>]*>(.*?)<', page, re.DOTALL))
    bill = ("Total bill", "Metered", "Owned (used)", "Idle", "Charged")
    assert [stats[name] for name in bill] == ["$12.00", "$2.00", "$4.00", "$6.00", "$3.00"]
    # Metered, owned, idle, per million used and loaded, the seed's per thousand, charged, counts, share.
    assert cells(page, "gpu-a")[1:] == [
        "$0.00",
        "$4.00",
        "$6.00",
        "$4.00",
        "$10.00",
        "$0.31",
        "$1.00",
        "1",
        "10 4 cached",
        "1,000,000",
        "33.3%",
    ]
    assert cells(page, "openai")[1:] == [
        "$2.00",
        "$0.00",
        "$0.00",
        "$4.00",
        "$4.00",
        "\u2013",
        "$2.00",
        "1",
        "10 4 cached",
        "500,000",
        "66.7%",
    ]
    assert cells(page, "that nobody used")[1] == "$6.00"
    assert cells(page, "Total bill</th>")[1] == "$12.00"


@pytest.mark.parametrize("group", ["day", "team", "key", "model", "cluster"])
@pytest.mark.parametrize("filters", ["", "&team=search"])
def test_usage_table_has_as_many_cells_in_each_row(admin_client, group, filters):
    make_capacity()
    make_rollup()

    page = admin_client.get(f"/usage/?{SPAN}&group={group}{filters}").content.decode()

    table = page.partition('<table class="data-table">')[2].partition("</table>")[0]
    widths = set()
    for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL):
        tags = re.findall(r"<t[hd][^>]*>", row)
        widths.add(sum(int((re.findall(r'colspan="(\d+)"', tag) or [1])[0]) for tag in tags))
    assert len(widths) == 1


def test_usage_page_says_what_is_not_closed_yet(admin_client):
    make_capacity(is_closed=False, used_nanousd=1_000, idle_nanousd=0, cost_nanousd=1_000)
    make_rollup()

    page = admin_client.get("/usage/?from=2026-11-20&to=2026-11-20").content.decode()

    assert "hours from 09:00 UTC are not closed yet: $0.000001 so far" in page
    assert "They close at 10:05" in page


def test_usage_page_of_a_team_has_no_idle(admin_client):
    make_capacity()
    make_rollup()

    page = admin_client.get(f"/usage/?{SPAN}&group=cluster&team=search").content.decode()

    assert "belongs to clusters, not to this part of the use" in page
    assert "own clusters&#x27; hours that nobody used" not in page
    assert "metered + owned + idle" not in page


def test_usage_page_of_one_day_draws_hours(admin_client):
    make_rollup()

    page = admin_client.get("/usage/?from=2026-11-20&to=2026-11-20").content.decode()

    assert "Charged per hour by cluster" in page
    assert "09:00 · gpu-a: $0.000001" in page


def test_usage_page_without_usage_says_what_to_do(admin_client):
    page = admin_client.get("/usage/").content.decode()

    assert "No usage in this period" in page
    assert "/admin/billing/apikey/" in page


@pytest.mark.parametrize("group", ["day", "hour", "organisation", "team", "key", "model", "cluster"])
def test_usage_page_answers_every_period(admin_client, group):
    make_rollup(starts_at=datetime.now(UTC).replace(minute=0, second=0, microsecond=0))  # noqa: TID251

    for period in ("today", "7d", "30d", "month", "last_month", "custom"):
        answer = admin_client.get(f"/usage/?period={period}&group={group}")
        assert answer.status_code == 200


def test_usage_page_shows_names_as_text(admin_client):
    make_rollup(team="<script>alert(1)</script>", cluster="<b>x</b>")

    page = admin_client.get(f"/usage/?{SPAN}&group=team").content.decode()

    assert "<script>alert(1)" not in page
    assert "<b>x</b>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_usage_page_filters_and_names_its_filters(admin_client):
    make_rollup(team="search", cost_nanousd=10**9)
    make_rollup(team="ads", cost_nanousd=3 * 10**9)

    page = admin_client.get(f"/usage/?{SPAN}&group=key&team=search&key={KEY_ID}").content.decode()

    assert "team: search" in page
    assert "$1.00" in page
    assert "$3.00" not in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("group=planet", "unknown group &#x27;planet&#x27;"),
        ("period=year", "unknown period &#x27;year&#x27;"),
        ("from=yesterday", "is not a date"),
        ("from=2026-11-20&to=2026-11-01", "ends before it begins"),
        ("from=1999-01-01", "at most 1100 days"),
        ("key=7", "is not the id of a key"),
        ("team=a%00b", "or no text"),
        ("team=" + "a" * 201, "longer than any name"),
    ],
)
@pytest.mark.parametrize("path", ["/usage/", "/usage.csv"])
def test_bad_question_gets_400_and_says_why(admin_client, path, query, message):
    answer = admin_client.get(f"{path}?{query}")

    assert answer.status_code == 400
    assert message in answer.content.decode()


def test_usage_csv_has_exact_amounts_and_no_formulas(admin_client):
    make_rollup(key_name="=1+1", team="@ads", cost_nanousd=1_234_567_890, amortised_nanousd=5 * 10**8)

    answer = admin_client.get(f"/usage.csv?{SPAN}&group=key")

    rows = list(csv.DictReader(StringIO(answer.content.decode())))
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="usage-key-2026-11-14-2026-11-20.csv"'
    assert rows == [
        {
            "key": "'=1+1",
            "id": str(KEY_ID),
            "belongs_to": "'@ads",
            "requests": "1",
            "failures": "0",
            "estimates": "0",
            "input_tokens": "10",
            "cache_read_tokens": "4",
            "output_tokens": "5",
            "charged_nanousd": "1234567890",
            "metered_nanousd": "0",
            "amortised_nanousd": "500000000",
            "idle_nanousd": "0",
            "bill_nanousd": "500000000",
            "used_nanousd_per_mtok": "100000000000000",
            "loaded_nanousd_per_mtok": "100000000000000",
            "seed_nanousd_per_1k": "",
            "reported_nanousd": "0",
            "compared_nanousd": "0",
            "reported_difference_nanousd": "0",
            "charged_usd": "1.23456789",
            "bill_usd": "0.5",
        }
    ]


@pytest.mark.parametrize("group", ["day", "hour", "team", "key", "model", "cluster"])
def test_usage_csv_adds_up_to_the_bill(admin_client, group):
    make_capacity()
    make_capacity(cluster="unused", used_nanousd=0, idle_nanousd=1_000)
    make_rollup(amortised_nanousd=200)
    make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=70)

    answer = admin_client.get(f"/usage.csv?{SPAN}&group={group}")

    rows = list(csv.DictReader(StringIO(answer.content.decode())))
    assert sum(int(row["bill_nanousd"]) for row in rows) == 2_070
    assert sum(int(row["idle_nanousd"]) for row in rows) == 1_800
    idle_lines = {row[group]: row["idle_nanousd"] for row in rows if row[group] == "(idle)"}
    expected = {"team": "1800", "key": "1800", "model": "1000"}
    assert idle_lines == ({"(idle)": expected[group]} if group in expected else {})


def test_usage_shows_what_upstreams_reported_only_where_they_did(admin_client):
    make_rollup(cost_nanousd=7 * 10**9)
    silent = admin_client.get(f"/usage/?{SPAN}&group=cluster").content.decode()
    make_rollup(
        cluster="openai",
        cluster_kind="provider",
        cost_nanousd=5 * 10**9,
        reported_cost_nanousd=3 * 10**9,
        compared_cost_nanousd=4 * 10**9,
    )

    page = admin_client.get(f"/usage/?{SPAN}&group=cluster").content.decode()
    text = admin_client.get(f"/usage.csv?{SPAN}&group=cluster").content.decode()

    assert "Reported" not in silent
    assert "Upstreams reported $3.00 as their own cost; ours for the same answers is $4.00" in page
    assert "a difference of -$1.00." in page
    assert cells(page, "openai")[-7:-4] == ["$5.00", "$3.00", "-$1.00"]
    assert cells(page, "gpu-a")[-7:-4] == ["$7.00", "\u2013", "\u2013"]
    columns = ("cluster", "reported_nanousd", "compared_nanousd", "reported_difference_nanousd")
    assert [[row[name] for name in columns] for row in csv.DictReader(StringIO(text))] == [
        ["gpu-a", "0", "0", "0"],
        ["openai", "3000000000", "4000000000", "-1000000000"],
    ]


def test_usage_of_many_days_draws_months_and_lists_the_latest_days(admin_client, monkeypatch):
    monkeypatch.setattr(views, "ROWS_SHOWN_MAX", 1)
    make_rollup(starts_at=datetime(2026, 3, 1, 9, tzinfo=UTC))
    make_rollup()

    page = admin_client.get("/usage/?from=2026-02-01&to=2026-11-20&group=day").content.decode()

    assert 'aria-label="Charged per month by cluster"' in page
    assert "Mar 2026 · gpu-a: $0.000001" in page
    assert "2026-11-20" in page.partition('<table class="data-table">')[2]
    assert "2026-03-01" not in page.partition('<table class="data-table">')[2]


def test_usage_page_shows_200_rows_and_points_to_the_csv(admin_client, monkeypatch):
    monkeypatch.setattr(views, "ROWS_SHOWN_MAX", 2)
    for number in range(3):
        make_rollup(model=f"model-{number}", cost_nanousd=number)

    page = admin_client.get(f"/usage/?{SPAN}&group=model").content.decode()

    assert "1 more rows are in the" in page


def test_usage_page_asks_as_many_queries_for_3_rows_as_for_1(admin_client):
    counts = []
    for number in range(3):
        starts_at = datetime(2026, 11, 20, tzinfo=UTC) - timedelta(days=number)
        make_rollup(key_id=UUID(int=number), model=f"m{number}", team=f"t{number}", starts_at=starts_at)
        with CaptureQueriesContext(connections[SpendRollup.objects.db]) as queries:
            admin_client.get(f"/usage/?{SPAN}&group=key")
        counts.append(len(queries))

    assert counts == [counts[0]] * 3
