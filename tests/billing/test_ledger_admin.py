"""The ledger in the admin: found by its ids, shown whole, never changed."""

import re
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing import ledger_admin
from billing.models import BudgetWindow, Reservation, UsageRecord
from tests.billing.rows import NOW, make_capacity, make_rollup, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/billing/usagerecord/"
RESERVATIONS = "/admin/billing/reservation/"


def make_reservation(**given):
    columns = {"attempt_id": uuid4(), "request_id": "r", **given}
    return Reservation.objects.create(
        owner=uuid4(), held_nanousd=5, created_at=NOW, updated_at=NOW, **columns
    )


def make_window():
    return BudgetWindow.objects.create(id=f"{uuid4()}:x", budget_id=uuid4(), starts_at=NOW)


def text_of(answer) -> str:
    return answer.content.decode()


def test_usage_list_says_what_happened(admin_client):
    make_usage(request_id="req-77", outcome="truncated", is_estimate=True)

    page = text_of(admin_client.get(LIST))

    for text in (
        "req-77",
        "1,200",
        "$0.0015",
        '<span class="badge badge-warn">truncated</span>',
        '<span class="badge badge-warn">estimated</span>',
    ):
        assert text in page


def test_usage_page_shows_decision_and_rates_as_text(admin_client):
    record = make_usage(decision={"reason": "<script>x</script>", "model": "gemütlich"})

    page = text_of(admin_client.get(f"{LIST}{record.attempt_id}/change/"))

    assert "&quot;reason&quot;: &quot;&lt;script&gt;x&lt;/script&gt;&quot;" in page
    assert "gemütlich" in page
    assert '<th scope="row">input</th><td class="num">$0.15</td>' in page
    assert 'name="_save"' not in page


@pytest.mark.parametrize("name", ["request_id", "attempt_id", "key_id"])
def test_usage_is_found_by_each_of_its_ids(admin_client, name):
    wanted = make_usage(request_id="wanted", key_id=uuid4())
    make_usage(request_id="other")

    page = text_of(admin_client.get(LIST, {"q": f" {getattr(wanted, name)} "}))
    partly = text_of(admin_client.get(LIST, {"q": "want"}))

    assert (">wanted<" in page, ">other<" in page, ">wanted<" in partly) == (True, False, False)


def test_outcome_filter_looks_at_the_latest_rows(admin_client, monkeypatch):
    monkeypatch.setattr(ledger_admin, "FILTERED_ROWS_MAX", 2)
    make_usage(request_id="fresh-failure", outcome="failed", settled_at=NOW)
    make_usage(request_id="fresh-success", settled_at=NOW - timedelta(days=1))
    make_usage(request_id="old-failure", outcome="failed", settled_at=NOW - timedelta(days=2))

    page = text_of(admin_client.get(LIST, {"outcome": "failed"}))

    shown = [f">{name}<" in page for name in ("fresh-failure", "fresh-success", "old-failure")]
    assert shown == [True, False, False]


def test_state_filter_finds_each_open_reservation_and_the_latest_closed(admin_client, monkeypatch):
    monkeypatch.setattr(ledger_admin, "FILTERED_ROWS_MAX", 2)
    states = ("held", "in_doubt", "void", "settled", "void", "settled")
    for number, state in enumerate(states):
        make_reservation(attempt_id=UUID(int=number), state=state, request_id=f"r{number}")

    shown = {}
    for state in (*dict.fromkeys(states), "nonsense"):
        page = text_of(admin_client.get(RESERVATIONS, {"state": state}))
        shown[state] = re.findall(r'field-request_id">(.*?)<', page)

    assert shown == {
        "held": ["r0"],
        "in_doubt": ["r1"],
        "void": ["r4"],
        "settled": ["r5"],
        "nonsense": ["r5", "r4", "r3", "r2", "r1", "r0"],
    }


@pytest.mark.parametrize("is_open", [True, False])
def test_reservation_is_found_by_its_request_and_its_attempt(admin_client, is_open):
    attempt_id = uuid4()
    make_reservation(attempt_id=attempt_id, request_id="wanted", state="held" if is_open else "settled")
    make_reservation(request_id="other")
    if not is_open:
        make_usage(attempt_id=attempt_id, request_id="wanted")

    shown = [
        re.findall(r'field-request_id">(.*?)<', text_of(admin_client.get(RESERVATIONS, {"q": term})))
        for term in ("wanted", str(attempt_id), "want")
    ]

    assert shown == [["wanted"], ["wanted"], []]


def test_rollups_are_listed_hours_first_and_days_when_asked(admin_client):
    make_rollup(team="of-an-hour")
    make_rollup(team="of-a-day", period="day")

    pages = [
        text_of(admin_client.get("/admin/billing/spendrollup/", query))
        for query in ({}, {"period": "day"}, {"period": "year"})
    ]

    assert [(">of-an-hour<" in page, ">of-a-day<" in page) for page in pages] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_hour_shows_how_many_replicas_ran_on_average(admin_client):
    make_capacity(sample_count=60, replica_samples=200)
    make_capacity(cluster="filled", sample_count=0, replica_samples=0)

    page = text_of(admin_client.get("/admin/billing/capacityhour/"))

    assert re.findall(r'field-replicas">(.*?)<', page) == ["3.3", "-"]


def test_usage_page_shows_what_the_upstream_reported(admin_client):
    said = make_usage(reported_cost_nanousd=1_600_000)
    silent = make_usage()

    pages = [text_of(admin_client.get(f"{LIST}{record.attempt_id}/change/")) for record in (said, silent)]

    assert "$0.0016 (difference $0.0001)" in pages[0]
    assert re.search(r"reported by the upstream.*?nothing", pages[1], re.DOTALL | re.IGNORECASE)


def test_nothing_in_the_ledger_can_be_changed(admin_client):
    rows = {
        "usagerecord": make_usage(),
        "reservation": make_reservation(),
        "spendrollup": make_rollup(),
        "budgetwindow": make_window(),
        "capacityhour": make_capacity(),
    }
    codes = {}
    for model, row in rows.items():
        url = f"/admin/billing/{model}/"
        change = f"{url}{str(row.pk).replace(':', '_3A')}/change/"
        codes[model] = (
            admin_client.get(url).status_code,
            admin_client.get(change).status_code,
            admin_client.post(change, {}).status_code,
            admin_client.post(f"{url}add/", {}).status_code,
            admin_client.post(change.replace("change", "delete"), {"post": "yes"}).status_code,
        )

    assert codes == dict.fromkeys(rows, (200, 200, 403, 403, 403))
    assert UsageRecord.objects.get().cost_nanousd == 1_500_000


@pytest.mark.parametrize(
    ("model", "make"),
    [
        ("usagerecord", make_usage),
        ("reservation", make_reservation),
        ("spendrollup", lambda: make_rollup(model=str(uuid4()))),
        ("budgetwindow", make_window),
        ("capacityhour", lambda: make_capacity(cluster=str(uuid4()))),
    ],
)
def test_lists_ask_as_many_queries_for_3_rows_as_for_1(admin_client, model, make):
    counts = []
    for _ in range(3):
        make()
        with CaptureQueriesContext(connections[UsageRecord.objects.db]) as queries:
            admin_client.get(f"/admin/billing/{model}/")
        counts.append(len(queries))

    assert counts == [counts[0]] * 3


def test_open_hour_is_shown_without_what_nobody_knows_yet(admin_client):
    row = make_capacity(is_closed=False, used_nanousd=1_000, idle_nanousd=0)

    pages = [
        text_of(admin_client.get(f"/admin/billing/capacityhour/{path}"))
        for path in ("", f"{row.pk.replace(':', '_3A')}/change/")
    ]

    assert [page.count("not known yet") for page in pages] == [2, 2]
