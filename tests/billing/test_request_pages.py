"""The page of one request, and what it is drawn from."""

from uuid import UUID

import pytest
from django.conf import settings
from django.urls import reverse

from billing.attempt_log import load_attempts
from tests.billing.rows import make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

DECISION = {
    "policy": "marginal",
    "reason": "marginal",
    "chosen": "gpu-a",
    "cost": 100_000,
    "ranked": [["gpu-a", 100_000, 0.25], ["openai", 2_100_000, 2_100_004.0]],
    "excluded": [["gpu-b", "unhealthy"]],
    "others": 0,
}


def two_attempts():
    failed = {"outcome": "failed", "error_code": "upstream_timeout", "cost_nanousd": 0, "cluster": "gpu-b"}
    make_usage(attempt_number=2, decision=DECISION, ttft_ms=120)
    make_usage(attempt_number=1, decision={"policy": "marginal"}, **failed)
    make_usage(request_id="req-2")


def test_attempts_of_a_request_come_in_their_order(django_assert_num_queries):
    two_attempts()

    with django_assert_num_queries(1, using=settings.LEDGER_DATABASE):
        first, second = load_attempts(request_id="req-1")

    assert (first.number, first.cluster, first.error_code) == (1, "gpu-b", "upstream_timeout")
    assert (second.number, second.input_tokens, second.output_tokens) == (2, 1_200, 30)
    assert second.next_best == ("openai", 2_100_000)
    assert second.explanation == [
        "Policy marginal.",
        "gpu-a was chosen, capacity that is paid already, first token expected within 25% of the objective.",
        "Next best: openai, about $0.0021.",
        "gpu-b was unhealthy.",
    ]


def test_attempts_of_another_team_are_not_there():
    two_attempts()

    assert len(load_attempts(request_id="req-1", organisation="acme", team="search")) == 2
    assert load_attempts(request_id="req-1", organisation="acme", team="sales") == ()
    assert load_attempts(request_id="req-1", organisation="other", team="search") == ()


@pytest.mark.parametrize("request_id", ["req-1\0", "req-1" + "0" * 60, ""])
def test_an_id_that_no_request_has_finds_nothing(request_id):
    two_attempts()

    assert load_attempts(request_id=request_id) == ()


def test_page_tells_each_attempt_with_its_reasons(admin_client):
    two_attempts()

    page = admin_client.get(reverse("billing:request", args=["req-1"])).content.decode()

    assert page.index("Attempt 1: gpu-b") < page.index("Attempt 2: gpu-a")
    assert "<code>upstream_timeout</code>" in page
    assert "$0.002 less than at openai, by estimate." in page
    assert "120 ms" in page


def test_page_of_an_unknown_request_says_what_it_may_be(admin_client):
    response = admin_client.get(reverse("billing:request", args=["req-9"]))

    assert response.status_code == 404
    assert "No settled attempt" in response.content.decode()


@pytest.mark.parametrize(("wanted", "status"), [("req-1", 302), ("", 200), ("a/b", 404), ("<script>", 302)])
def test_search_leads_to_the_page(admin_client, wanted, status):
    response = admin_client.get(reverse("billing:find_request"), {"id": wanted})

    assert response.status_code == status
    assert b"<script>" not in response.content


def test_pages_are_for_staff(client):
    for url in (reverse("billing:find_request"), reverse("billing:request", args=["req-1"])):
        assert client.get(url).status_code == 302


def test_ledger_page_explains_the_decision_and_leads_to_the_request(admin_client):
    row = make_usage(decision=DECISION, attempt_id=UUID(int=7))

    page = admin_client.get(reverse("admin:billing_usagerecord_change", args=[row.pk])).content.decode()

    assert "<li>gpu-b was unhealthy.</li>" in page
    assert reverse("billing:request", args=["req-1"]) in page
