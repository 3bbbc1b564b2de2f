"""The admin's budgets: clamping, overrides and warnings as people write them, and the list of them."""

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry

from billing import budgets, keys
from billing.models import Budget, BudgetWindow
from billing.windows import window_of

pytestmark = pytest.mark.django_db(databases="__all__")

ADD = "/admin/billing/budget/add/"
LIST = "/admin/billing/budget/"


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 -- the admin reads the clock itself


TOMORROW = (now() + timedelta(days=1)).replace(second=0, microsecond=0)
YESTERDAY = TOMORROW - timedelta(days=2)


@pytest.fixture
def team_id():
    return keys.put_team(organisation_id=keys.put_organisation(name="acme"), name="search")


@pytest.fixture
def budget_id(team_id):
    return budgets.put_budget(team_id=team_id, limit_nanousd=10 * 10**9, window="month", is_hard=True)


def text_of(answer) -> str:
    return answer.content.decode()


def until(moment):
    return {"override_until_0": f"{moment:%Y-%m-%d}", "override_until_1": f"{moment:%H:%M:%S}"}


def form_of(team_id, **changes):
    return {
        "organisation": "",
        "team": str(team_id),
        "key": "",
        "limit_nanousd": "12.5",
        "window": "month",
        "timezone": "UTC",
        "is_hard": "on",
        "override_limit_nanousd": "",
        "override_until_0": "",
        "override_until_1": "",
        "override_reason": "",
        "warning_percents": "80, 100",
        "warning_emails": "",
        "warning_webhook": "",
        **changes,
    }


def test_budget_is_entered_with_clamp_override_and_warnings(admin_client, team_id):
    form = form_of(
        team_id,
        is_clamped="on",
        override_limit_nanousd="20",
        **until(TOMORROW),
        override_reason="launch week",
        warning_percents="100, 80%,80 , 50",
        warning_emails="ops@example.org\n\nfinance@example.org\n",
        warning_webhook="https://hooks.example.org/budget",
    )

    answer = admin_client.post(ADD, form)

    record = Budget.objects.get()
    assert answer.status_code == 302
    assert (record.is_hard, record.is_clamped) == (True, True)
    assert (record.override_limit_nanousd, record.override_until, record.override_reason) == (
        20 * 10**9,
        TOMORROW,
        "launch week",
    )
    assert (record.warning_percents, record.warning_emails, record.warning_webhook) == (
        [50, 80, 100],
        ["ops@example.org", "finance@example.org"],
        "https://hooks.example.org/budget",
    )
    page = text_of(admin_client.get(f"{LIST}{record.id}/change/"))
    for text in (
        'name="override_limit_nanousd" value="20"',
        'name="warning_percents" value="50, 80, 100"',
        "ops@example.org\nfinance@example.org</textarea>",
    ):
        assert text in page


def test_budget_that_may_be_crossed_is_entered_and_listed(admin_client, team_id):
    answer = admin_client.post(ADD, form_of(team_id, is_crossed="on"))

    record = Budget.objects.get()
    badges = '<span class="badge badge-ok">hard</span> <span class="badge badge-warn">may be crossed</span>'
    assert answer.status_code == 302
    assert (record.is_hard, record.is_clamped, record.is_crossed) == (True, False, True)
    assert badges in text_of(admin_client.get(LIST))


def test_budget_without_warnings_has_none(admin_client, team_id):
    admin_client.post(ADD, form_of(team_id, warning_percents=""))

    record = Budget.objects.get()
    assert (record.warning_percents, record.warning_emails, record.warning_webhook) == ([], [], "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_hard": "", "is_clamped": "on"}, "Only a hard budget shortens answers"),
        ({"is_hard": "", "is_crossed": "on"}, "Only a hard budget that is not clamped may be crossed"),
        ({"is_clamped": "on", "is_crossed": "on"}, "may be crossed: choose one of the two."),
        ({"override_limit_nanousd": "20"}, "An override ends at some moment: say when."),
        (until(TOMORROW), "Say which limit counts until then."),
        ({"override_limit_nanousd": "20", **until(TOMORROW)}, "Say why the limit is another one meanwhile."),
        (
            {"override_limit_nanousd": "20", **until(YESTERDAY), "override_reason": "x"},
            "This moment is over: an override ends in the future.",
        ),
        ({"override_limit_nanousd": "twenty"}, "not an amount"),
        ({"override_reason": "x" * 201, "override_limit_nanousd": "1", **until(TOMORROW)}, "at most 200"),
        ({"warning_percents": "eighty"}, "Write whole percents with commas between them"),
        ({"warning_percents": "80; 90"}, "Write whole percents"),
        ({"warning_percents": "0"}, "Warnings are whole percents of the limit, 1 to 1000"),
        ({"warning_emails": "ops"}, "&#x27;ops&#x27; is not an e-mail address."),
        ({"warning_webhook": "ftp://example.org/"}, "is not a URL that begins with http"),
        ({"warning_webhook": "not a url"}, "Enter a valid URL"),
    ],
)
def test_budget_form_refuses(admin_client, team_id, changes, message):
    answer = admin_client.post(ADD, form_of(team_id, **changes))

    assert answer.status_code == 200
    assert message in text_of(answer)
    assert Budget.objects.count() == 0


def test_override_that_is_over_does_not_stand_in_the_way(admin_client, team_id, budget_id):
    Budget.objects.update(override_limit_nanousd=1, override_until=YESTERDAY, override_reason="launch")
    kept = {"override_limit_nanousd": "0.000000001", **until(YESTERDAY), "override_reason": "launch"}

    admin_client.post(f"{LIST}{budget_id}/change/", form_of(team_id, limit_nanousd="3", **kept))
    limit = Budget.objects.get().limit_nanousd
    changed = form_of(team_id, **{**kept, "override_limit_nanousd": "2"})
    again = admin_client.post(f"{LIST}{budget_id}/change/", changed)

    assert limit == 3 * 10**9
    assert "This moment is over" in text_of(again)


def test_override_is_taken_back_by_emptying_it(admin_client, team_id, budget_id):
    budgets.override_budget(budget_id=budget_id, limit_nanousd=1, until=TOMORROW, reason="launch", now=now())

    admin_client.post(f"{LIST}{budget_id}/change/", form_of(team_id, override_reason="launch"))

    record = Budget.objects.get()
    assert (record.override_limit_nanousd, record.override_until, record.override_reason) == (None, None, "")


def spend(budget_id, nanousd):
    span = window_of(window="month", timezone="UTC", now=now())
    BudgetWindow.objects.create(
        id=f"{budget_id}:{span.key}",
        budget_id=budget_id,
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        spent_nanousd=nanousd,
    )


def test_list_shows_the_limit_that_counts_and_what_kind_it_is(admin_client, budget_id):
    spend(budget_id, 9 * 10**9)
    Budget.objects.update(is_clamped=True)
    plain = text_of(admin_client.get(LIST))
    budgets.override_budget(
        budget_id=budget_id, limit_nanousd=90 * 10**9, until=TOMORROW, reason="launch", now=now()
    )
    overridden = text_of(admin_client.get(LIST))
    Budget.objects.update(override_until=YESTERDAY)
    over = text_of(admin_client.get(LIST))

    badge = f'<span class="badge badge-warn">override until {TOMORROW:%Y-%m-%d %H:%M} UTC</span>'
    for page in (plain, over):
        assert "$10.00" in page
        assert '<span class="badge badge-warn">90.0%</span>' in page
        assert "override until" not in page
    assert f"$90.00 {badge}" in overridden
    assert '<span class="badge badge-ok">10.0%</span>' in overridden
    assert '<span class="badge badge-ok">hard</span> <span class="badge badge-ok">clamped</span>' in plain


def test_action_ends_the_overrides_of_the_chosen(admin_client, team_id, budget_id):
    other = budgets.put_budget(team_id=team_id, limit_nanousd=1, window="day", is_hard=True)
    for one in (budget_id, other):
        budgets.override_budget(budget_id=one, limit_nanousd=5, until=TOMORROW, reason="launch", now=now())

    answer = admin_client.post(
        LIST, {"action": "end_overrides", "_selected_action": [str(budget_id)]}, follow=True
    )

    assert "1 ended." in text_of(answer)
    assert dict(Budget.objects.values_list("id", "override_limit_nanousd")) == {budget_id: None, other: 5}
    assert LogEntry.objects.get().get_change_message() == "Override ended."


@pytest.mark.parametrize("count", [1, 3])
def test_list_asks_as_often_for_three_as_for_one(admin_client, team_id, count, django_assert_max_num_queries):
    for window in ("day", "week", "month")[:count]:
        found = budgets.put_budget(team_id=team_id, limit_nanousd=1, window=window, is_hard=True)
        budgets.override_budget(budget_id=found, limit_nanousd=5, until=TOMORROW, reason="x", now=now())

    with django_assert_max_num_queries(6):
        admin_client.get(LIST)
