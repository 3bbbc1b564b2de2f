"""export_usage and import_usage, as an operator uses them."""

import csv
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.focus import COLUMNS as FOCUS_COLUMNS
from billing.models import UsageRecord
from tests.billing.rows import make_rollup, make_usage

pytestmark = pytest.mark.django_db(databases="__all__", transaction=True)

SPAN = ("--from", "2026-11-14", "--to", "2026-11-20")


def run(*arguments):
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_export_goes_to_standard_output():
    made = make_usage()

    header, *rows = csv.reader(StringIO(run("export_usage", *SPAN)))

    assert [dict(zip(header, row, strict=True))["attempt_id"] for row in rows] == [str(made.attempt_id)]


@pytest.mark.parametrize(("by", "moment"), [((), "00:00"), (("--by", "hour"), "09:00")])
def test_export_writes_focus(by, moment):
    make_rollup(cluster_kind="provider")

    header, row = csv.reader(StringIO(run("export_usage", "--format", "focus", *by, *SPAN)))

    assert header == list(FOCUS_COLUMNS)
    assert row[header.index("ChargePeriodStart")] == f"2026-11-20T{moment}:00Z"


def test_export_makes_a_new_file_and_overwrites_none(tmp_path):
    make_usage()
    path = tmp_path / "usage.csv"

    assert run("export_usage", *SPAN, "--output", str(path)) == ""
    text = path.read_text()
    with pytest.raises(CommandError) as refusal:
        run("export_usage", *SPAN, "--output", str(path))

    assert str(refusal.value) == f"cannot write {path}: File exists; name a new file"
    assert path.read_text() == text
    assert text.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "day"), "--by describes FOCUS's charges: give --format focus too"),
        (("--from", "soon"), "'soon' is not a date: write it as 2026-11-03 or 2026-11-03T12:00Z"),
    ],
)
def test_export_explains_what_is_wrong(arguments, message):
    with pytest.raises(CommandError) as refusal:
        run("export_usage", *arguments)

    assert str(refusal.value) == message


def test_import_says_what_came_of_it(tmp_path):
    path = tmp_path / "usage.csv"
    path.write_text("settled_at,model,cost_usd\n2026-01-02T03:04:05Z,llama,1.25\n")

    dry = run("import_usage", str(path), "--dry-run")
    first = run("import_usage", str(path))
    second = run("import_usage", str(path))

    assert (dry, first, second) == (
        "1 lines of $1.25: 1 would be added, 0 were there already.\n",
        "1 lines of $1.25: 1 added, 0 were there already.\n",
        "1 lines of $1.25: 0 added, 1 were there already.\n",
    )
    assert UsageRecord.objects.count() == 1


def test_import_explains_what_is_wrong(tmp_path):
    path = tmp_path / "usage.csv"
    path.write_text("settled_at,model,cost_usd\nsoon,llama,1\n")

    with pytest.raises(CommandError) as bad:
        run("import_usage", str(path))
    with pytest.raises(CommandError) as missing:
        run("import_usage", str(tmp_path / "none.csv"))

    assert str(bad.value) == (
        "line 2: settled_at: 'soon' is no moment: write it as 2026-11-03T12:00:00Z\n"
        "Nothing was imported: correct these lines and try again."
    )
    assert str(missing.value) == f"cannot read {tmp_path / 'none.csv'}: No such file or directory"
