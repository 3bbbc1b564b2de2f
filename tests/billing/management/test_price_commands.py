"""The commands of prices: import, export and rerating, as an operator and as a script use them."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import principals
from billing.models import Price, UsageRecord
from billing.prices import put_price
from tests.billing.rows import KEY_ID, make_usage

pytestmark = pytest.mark.django_db(databases="__all__")

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_import_prices_twice_changes_nothing():
    arguments = ("import_prices", "--provider", "openai", "--models", "gpt-4o-mini", "gpt-3.5-turbo")
    first = run(*arguments)
    revision = principals.get_revision()
    second = run(*arguments)

    count = Price.objects.count()
    assert first.splitlines()[-1] == f"{count} prices written, 0 unchanged."
    assert second.splitlines()[-1] == f"0 prices written, {count} unchanged."
    assert principals.get_revision() == revision
    price = Price.objects.get(model="gpt-4o-mini", service_tier="")
    assert (price.input_microusd_per_mtok, price.cache_read_microusd_per_mtok) == (150_000, 75_000)
    assert (price.source, price.source_version) == ("genai-prices", version("genai-prices"))


def test_import_prices_says_what_is_not_counted():
    text = run("import_prices", "--provider", "openai", "--models", "gpt-5.4")

    assert text.startswith("gpt-5.4: charged besides, not counted here: storage_searches_kcount,")


def test_import_prices_of_a_whole_provider():
    text = run("import_prices", "--provider", "claude", "--cluster", "anthropic")

    count = Price.objects.filter(cluster_name="anthropic").count()
    assert count > 10
    assert text == f"{count} prices written, 0 unchanged.\n"


def test_import_prices_skips_what_was_entered_by_hand_and_says_so():
    rates = {"input_microusd_per_mtok": 7, "output_microusd_per_mtok": 8}
    put_price(model="gpt-3.5-turbo", effective_at=LONG_AGO, **rates)
    arguments = ("import_prices", "--provider", "openai", "--models", "gpt-3.5-turbo")

    kept = run(*arguments)
    replaced = run(*arguments, "--replace-manual")

    assert kept == (
        "Skipped, entered by hand (--replace-manual replaces them): gpt-3.5-turbo\n"
        "0 prices written, 0 unchanged.\n"
    )
    assert replaced.splitlines()[-1].endswith("prices written, 0 unchanged.")
    assert Price.objects.filter(source="genai-prices").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider", "nobody"), "knows no provider 'nobody'"),
        (("--provider", "openai", "--models", "gpt-4o-mini", "nope"), "no price for nope"),
        (("--file", "/no/such/file.csv"), "No such file"),
    ],
)
def test_import_prices_refuses_and_writes_nothing(arguments, message):
    with pytest.raises(CommandError, match=message):
        run("import_prices", *arguments)

    assert Price.objects.count() == 0


def test_prices_of_a_file_are_imported_and_exported(tmp_path):
    path = write(
        tmp_path / "prices.csv",
        "model,input,output,service_tier,effective_at",
        "m,0.15,0.6,,2026-01-01",
        "m,0.075,0.3,flex,2026-01-01",
        "m,0.2,0.6,,2026-02-01",
    )

    texts = [run("import_prices", "--file", path) for _ in range(2)]
    exported, in_force = run("export_prices"), run("export_prices", "--in-force")

    assert texts == ["3 prices written, 0 unchanged.\n", "0 prices written, 3 unchanged.\n"]
    assert len(exported.splitlines()) == 1 + 3
    assert [line.split(",")[7] for line in in_force.splitlines()[1:]] == ["0.2", "0.075"]
    again = tmp_path / "again.csv"
    again.write_text(exported, encoding="utf-8")
    assert run("import_prices", "--file", str(again)) == "0 prices written, 3 unchanged.\n"


def test_bad_line_of_a_file_writes_nothing(tmp_path):
    path = write(tmp_path / "prices.csv", "model,input,output", "m,1,2", "n,1,free")

    with pytest.raises(CommandError, match="line 3: free is not an amount"):
        run("import_prices", "--file", path)

    assert Price.objects.count() == 0


PERIOD = ("--from", "2026-11-01", "--to", "2026-11-30")


@pytest.fixture
def attempts():
    """A thousand tokens of the prompt for USD 0.001 and one of a model without any price."""
    make_usage(input_fresh_tokens=1_000, cache_read_tokens=0, output_text_tokens=0, cost_nanousd=1_000_000)
    make_usage(model="odd", served_model="odd", key_id=KEY_ID, cost_nanousd=500)


def test_rerate_at_given_prices_prints_a_table(attempts):
    text = run("rerate", *PERIOD, "--set", "llama-3-8b=0.25/0.5")

    assert [line.split() for line in text.splitlines()[:-1]] == [
        ["model", "requests", "was", "would", "be", "difference"],
        ["llama", "1", "$0.001", "$0.00025", "-$0.00075"],
        ["odd", "1", "$0.0000005", "$0.0000005", "$0.00"],
        ["Total", "2", "$0.0010005", "$0.0002505", "-$0.00075"],
    ]
    assert text.endswith("\nRequests without a price among these, which keep their cost: 1.\n")


def test_rerate_at_another_day_prints_json_and_writes_nothing(attempts):
    put_price(
        model="llama-3-8b",
        effective_at=LONG_AGO,
        input_microusd_per_mtok=2_000_000,
        output_microusd_per_mtok=1,
    )
    put_price(
        model="llama-3-8b",
        effective_at=LONG_AGO + timedelta(days=60),
        input_microusd_per_mtok=9_000_000,
        output_microusd_per_mtok=1,
    )
    before = list(UsageRecord.objects.order_by("attempt_id").values())

    document = json.loads(run("rerate", *PERIOD, "--at", "2026-02-01", "--group", "key", "--json"))

    sums = {
        "requests": 2,
        "kept_requests": 1,
        "was_nanousd": 1_000_500,
        "would_be_nanousd": 2_000_500,
        "difference_nanousd": 1_000_000,
        "surplus_nanousd": 0,
    }
    assert document == {"rows": [{"key": "ci", "key_id": str(KEY_ID), **sums}], **sums, "pruned_before": None}
    assert list(UsageRecord.objects.order_by("attempt_id").values()) == before


def test_rerate_at_the_prices_of_a_file(attempts, tmp_path):
    path = write(tmp_path / "prices.csv", "model,cluster,input,output", "llama-3-8b,gpu-a,4,4")

    document = json.loads(run("rerate", *PERIOD, "--file", path, "--json"))

    assert document["would_be_nanousd"] == 4_000_000 + 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --at --set --file is required"),
        (("--at", "then"), "is not a date"),
        (("--at", "2026-01-01", "--from", "then"), "is not a date"),
        (("--set", "m"), "'m' is no price: write MODEL=IN/OUT, such as"),
        (("--set", "m=1"), "is no price"),
        (("--set", "m=1/2/3/4"), "is no price"),
        (("--set", "=1/2"), "is no price"),
        (("--set", "m=1/free"), "free is not an amount"),
        (("--file", "/no/such/file.csv"), "No such file"),
    ],
)
def test_rerate_refuses(arguments, message):
    with pytest.raises(CommandError, match=message):
        run("rerate", *arguments)


def test_rerate_takes_a_third_price_for_cached_input_and_equals_signs_in_names():
    make_usage(
        served_model="a=b",
        input_fresh_tokens=0,
        cache_read_tokens=1_000,
        output_text_tokens=0,
        cost_nanousd=0,
    )

    document = json.loads(run("rerate", *PERIOD, "--set", "a=b=1/2/0.5", "--json"))

    assert document["would_be_nanousd"] == 500_000
