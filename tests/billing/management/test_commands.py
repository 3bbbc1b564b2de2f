"""The commands of accounting, as an operator and as a script use them."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import budgets, keys, principals
from billing.limits import LimitView
from billing.models import ApiKey, Budget, SpendRollup, Team
from tests.billing.rows import KEY_ID, make_capacity, make_rollup

pytestmark = pytest.mark.django_db(databases="__all__")


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_create_api_key_makes_all_that_is_missing():
    answer = json.loads(
        run(
            *("create_api_key", "--team", "search", "--name", "ci", "--organisation", "acme"),
            *("--budget-usd", "12.50", "--window", "week", "--hard", "--timezone", "Europe/Berlin"),
            *(
                "--rpm",
                "60",
                "--tpm",
                "1000",
                "--concurrent",
                "4",
                "--models",
                "a, b",
                "--expires-at",
                "2027-01-31T00:00Z",
                "--json",
            ),
        )
    )

    assert list(answer) == ["id", "key", "team", "name"]
    assert (answer["team"], answer["name"]) == ("search", "ci")
    principal = principals.load_principals()[keys.digest_key(answer["key"].encode())]
    budget = Budget.objects.get()
    assert principal == principals.Principal(
        key_id=answer["id"],
        key_name="ci",
        prefix=answer["key"][:11],
        team="search",
        organisation="acme",
        allowed_models=frozenset({"a", "b"}),
        expires_at=ApiKey.objects.get().expires_at,
        revoked_at=None,
        limits=(
            LimitView(
                scope=f"key:{principal.key_id}",
                label=f"API key {principal.prefix}…",
                rpm_max=60,
                tpm_max=1000,
                concurrent_max=4,
            ),
        ),
        model_limits={},
        budgets=(
            budgets.BudgetView(
                id=str(budget.id),
                owner='key "ci"',
                limit_nanousd=12_500_000_000,
                window="week",
                timezone="Europe/Berlin",
                is_hard=True,
            ),
        ),
    )
    assert principal.expires_at.isoformat() == "2027-01-31T00:00:00+00:00"


def test_create_api_key_prints_the_key_once_and_joins_the_team():
    run("create_api_key", "--team", "search", "--name", "first", "--organisation", "acme")

    text = run("create_api_key", "--team", "search", "--name", "second")

    printed = [line for line in text.splitlines() if keys.is_well_formed(line)]
    assert len(printed) == 1
    assert Team.objects.count() == 1
    assert ApiKey.objects.count() == 2


def test_create_api_key_says_where_the_key_may_be_served():
    words = ("--regions", "eu-1, eu-2", "--require-tags", "gdpr", "--forbid-tags", "spot,beta")

    run("create_api_key", "--team", "search", "--name", "ci", *words)

    key = ApiKey.objects.get()
    assert (key.allowed_regions, key.required_tags, key.forbidden_tags) == (
        ["eu-1", "eu-2"],
        ["gdpr"],
        ["spot", "beta"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--require-tags", "GDPR"), "required tags: 'GDPR' is no tag"),
        (("--budget-usd", "ten"), "ten is not an amount"),
        (("--budget-usd", "-1"), "not between"),
        (("--hard",), "--hard describes a budget: give --budget-usd too"),
        (("--rpm", "0"), "lets nothing through"),
        (("--expires-at", "tomorrow"), "is no moment"),
        (("--budget-usd", "1", "--timezone", "Mars"), "unknown time zone"),
    ],
)
def test_create_api_key_refuses_and_leaves_nothing_behind(arguments, message):
    with pytest.raises(CommandError, match=message):
        run("create_api_key", "--team", "search", "--name", "ci", *arguments)

    assert (Team.objects.count(), ApiKey.objects.count()) == (0, 0)


def test_usage_report_json_splits_metered_from_amortised():
    make_capacity()
    make_rollup(cost_nanousd=9, amortised_nanousd=200)
    make_rollup(cluster="openai", cluster_kind="provider", cost_nanousd=5)

    span = ("--from", "2026-11-01", "--to", "2026-11-20", "--json")
    answer = json.loads(run("usage_report", "--group", "key", *span))
    by_cluster = json.loads(run("usage_report", "--group", "cluster", *span))

    assert answer == {
        "rows": [
            {
                "key": "ci",
                "key_id": str(KEY_ID),
                "requests": 2,
                "input_tokens": 20,
                "output_tokens": 10,
                "metered_nanousd": 5,
                "amortised_nanousd": 200,
                "idle_nanousd": 0,
                "charged_nanousd": 14,
            }
        ],
        "metered_nanousd": 5,
        "amortised_nanousd": 200,
        "idle_nanousd": 800,
        "total_nanousd": 1_005,
        "charged_nanousd": 14,
    }
    assert [
        (row["cluster"], row["metered_nanousd"], row["amortised_nanousd"]) for row in by_cluster["rows"]
    ] == [
        ("gpu-a", 0, 200),
        ("openai", 5, 0),
    ]


def test_usage_report_has_rates_and_what_upstreams_reported():
    make_capacity()
    make_rollup(amortised_nanousd=200, cost_nanousd=9, reported_cost_nanousd=12, compared_cost_nanousd=9)
    span = ("--from", "2026-11-01", "--to", "2026-11-20")

    answer = json.loads(run("usage_report", "--group", "cluster", *span, "--json"))
    text = run("usage_report", "--group", "cluster", *span)

    assert answer["rows"] == [
        {
            "cluster": "gpu-a",
            "requests": 1,
            "input_tokens": 10,
            "output_tokens": 5,
            "metered_nanousd": 0,
            "amortised_nanousd": 200,
            "idle_nanousd": 800,
            "charged_nanousd": 9,
            "reported_nanousd": 12,
            "compared_nanousd": 9,
            "reported_difference_nanousd": 3,
            "used_nanousd_per_mtok": 40_000_000,
            "loaded_nanousd_per_mtok": 200_000_000,
            "seed_nanousd_per_1k": 31,
        }
    ]
    assert text.splitlines()[1].split()[-1] == "$0.20"
    assert text.splitlines()[-1] == (
        "Upstreams reported $0.000000012 as their own cost; ours for the same answers is $0.000000009, "
        "a difference of $0.000000003."
    )


def test_usage_report_prints_a_table():
    make_capacity()
    make_capacity(cluster="gpu-b", is_closed=False)
    make_rollup(cost_nanousd=7, amortised_nanousd=200)

    text = run("usage_report", "--group", "model", "--from", "2026-11-01", "--to", "2026-11-20")

    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "llama", "Total"]
    assert lines[1].split()[-3:] == ["$0.00", "$0.0000002", "$0.20"]
    assert lines[3] == "Idle: $0.0000008. Total bill: $0.000001."
    assert lines[4].startswith("Not in it: hours that close at 10:05 UTC; so far they cost $0.000001,")


def test_fold_capacity_closes_hours_and_folds_their_days():
    make_capacity(is_closed=False, used_nanousd=0, idle_nanousd=1_000)
    make_rollup(output_tokens=7_200)

    texts = [run("fold_capacity", "--from", "2026-11-01") for _ in range(2)]

    assert texts == ["1 hours closed, 1 daily rows written.\n", "0 hours closed, 1 daily rows written.\n"]
    folded = SpendRollup.objects.get(period="day")
    assert folded.amortised_nanousd == 200


def test_fold_capacity_refuses_a_bad_date():
    with pytest.raises(CommandError, match="is not a date"):
        run("fold_capacity", "--from", "then")


def test_usage_report_refuses_a_bad_date():
    with pytest.raises(CommandError, match="is not a date"):
        run("usage_report", "--from", "then")


def test_fold_rollups_says_what_it_wrote():
    make_rollup()

    text = run("fold_rollups")

    assert text == "1 daily rows written.\n"
    assert SpendRollup.objects.filter(period="day").count() == 1
