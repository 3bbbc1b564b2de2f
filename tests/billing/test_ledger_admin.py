"""The ledger in the admin: found by its ids, shown whole, never changed."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from billing import ledger_admin
from billing.models import BudgetWindow, Reservation, UsageRecord
from tests.billing.rows import KEY_ID, NOW, make_capacity, make_rollup, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/billing/usagerecord/"


def make_reservation(**given):
    return Reservation.objects.create(
        attempt_id=uuid4(),
        request_id="r",
        owner=uuid4(),
        held_nanousd=5,
        created_at=NOW,
        updated_at=NOW,
        **given,
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


def test_outcome_filter_looks_at_the_last_days(admin_client):
    # The filter reads the clock of the admin.
    make_usage(request_id="fresh-failure", outcome="failed", settled_at=NOW + timedelta(days=36_500))
    make_usage(request_id="fresh-success", settled_at=NOW + timedelta(days=36_500))
    make_usage(request_id="old-failure", outcome="failed", settled_at=NOW - timedelta(days=3650))

    page = text_of(admin_client.get(LIST, {"outcome": "failed"}))

    shown = [f">{name}<" in page for name in ("fresh-failure", "fresh-success", "old-failure")]
    assert shown == [True, False, False]


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


def test_long_lists_are_not_counted_to_their_end(admin_client, monkeypatch):
    monkeypatch.setattr(ledger_admin, "ROWS_LISTED_MAX", 2)
    for _ in range(3):
        make_usage(key_id=KEY_ID)

    page = text_of(admin_client.get(LIST))

    assert "2 usage records" in page
